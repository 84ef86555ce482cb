from __future__ import annotations

import itertools
import random

import pytest

from nexusd.errors import ConversationNotFound, InvalidParams, ToolLogNotFound
from nexusd.model.conversations import CreateConversation
from nexusd.model.tool_logs import AppendToolLog, ListToolLogs, PruneToolLogs, ToolLog
from nexusd.store import tool_logs
from nexusd.store.connection import Connection, open_writer
from nexusd.store.conversations import insert_conversation
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.tool_logs import (
    DELETE_SLICE,
    SELECT_MORE,
    SELECT_SURPLUS,
    MoreToPruneError,
    insert_tool_log,
    list_tool_logs,
    prune_bound,
    prune_rest,
    prune_slice,
    select_tool_log,
    tool_log_query,
)

FILTERS = [
    dict(zip(("tool", "status", "conversation_id", "since", "until"), values, strict=True))
    for values in itertools.product((None, "a"), (None, "ok", "error"), (None, 1), (None, 4), (None, 8))
]
ROWS = 100_000


def log(db: Connection, now_ms: int = 1, tool: str = "t", **given: object) -> ToolLog:
    return insert_tool_log(db, AppendToolLog(tool=tool, **given), now_ms)  # type: ignore[arg-type]


def remaining(db: Connection) -> list[int]:
    return [row_id for (row_id,) in db.execute("SELECT id FROM tool_logs ORDER BY created_at, id")]


def prune(db: Connection, now_ms: int, **how: int) -> list[int]:
    """Prune in one slice; what is left, oldest first."""
    before = remaining(db)
    gone = prune_rest(db, prune_bound(db, PruneToolLogs(**how), now_ms), 0)
    after = remaining(db)
    assert gone.deleted == {"toolLogs": len(before) - len(after)}
    return after


def test_call_comes_back_as_it_was_logged(db: Connection) -> None:
    chat = insert_conversation(db, CreateConversation(), 1)
    made = log(
        db, 50, "weather", arguments={"city": "é\U0001f600"}, result=[1, None, {"a": 2.5}], duration_ms=84,
        conversation_id=chat.id, metadata={"k": 1}, created_at=7,
    )
    assert made == ToolLog(
        id=made.id, tool="weather", status="ok", arguments={"city": "é\U0001f600"}, result=[1, None, {"a": 2.5}],
        error=None, duration_ms=84, conversation_id=chat.id, metadata={"k": 1}, created_at=7,
    )
    assert select_tool_log(db, made.id) == made
    assert log(db, 50).created_at == 50


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", "text", [], [[]], {}, {"a": None}])
def test_arguments_and_results_are_any_json(db: Connection, value: object) -> None:
    made = select_tool_log(db, log(db, arguments=value, result=value).id)
    for kept in (made.arguments, made.result):
        assert (kept, type(kept)) == (value, type(value))


def test_an_error_is_an_error_even_without_words(db: Connection) -> None:
    assert log(db, error="").status == "error"
    assert log(db, error="timeout", result="half").status == "error"
    assert log(db).status == "ok"


def test_unknown_things_are_named(db: Connection) -> None:
    with pytest.raises(ConversationNotFound):
        log(db, conversation_id=1)
    with pytest.raises(ToolLogNotFound):
        select_tool_log(db, 1)
    with pytest.raises(InvalidParams):
        list_tool_logs(db, ListToolLogs(cursor="nonsense"))


@pytest.fixture
def some(db: Connection) -> list[ToolLog]:
    for _ in range(2):
        insert_conversation(db, CreateConversation(), 1)
    chance = random.Random(11)
    return [
        log(db, 99, chance.choice("ab"), error=chance.choice((None, "x")), created_at=chance.randrange(1, 10),
            conversation_id=chance.choice((None, 1, 2)))
        for _ in range(200)
    ]


def passing(rows: list[ToolLog], how: dict[str, object]) -> list[int]:
    page = ListToolLogs(**how)  # type: ignore[arg-type]
    return [
        row.id
        for row in sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
        if (page.tool is None or row.tool == page.tool)
        and (page.status is None or row.status == page.status)
        and (page.conversation_id is None or row.conversation_id == page.conversation_id)
        and (page.since is None or row.created_at >= page.since)
        and (page.until is None or row.created_at < page.until)
    ]


def test_filters_hold_together_and_pages_go_on_where_they_ended(db: Connection, some: list[ToolLog]) -> None:
    for how in FILTERS:
        seen, cursor = list[int](), None
        while True:
            page = list_tool_logs(db, ListToolLogs(**how, limit=7, cursor=cursor))
            seen += [row.id for row in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == passing(some, how), how
        by_offset = list_tool_logs(db, ListToolLogs(**how, limit=3, offset=2)).items
        assert [row.id for row in by_offset] == passing(some, how)[2:5], how


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    """A hundred thousand calls of three tools; one in a hundred failed."""
    db = open_writer(tmp_path_factory.mktemp("large") / "nexus.db", "OFF")
    migrate(db, load_migrations())
    insert_conversation(db, CreateConversation(), 1)
    db.execute(
        """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO tool_logs (tool, status, conversation_id, created_at)
        SELECT char(97 + i % 3), iif(i % 100, 'ok', 'error'), iif(i % 10, NULL, 1), i FROM n""",
        (ROWS,),
    )
    return db


@pytest.mark.parametrize("how", FILTERS, ids=str)
def test_a_page_of_a_hundred_thousand_is_read_from_an_index_without_sorting(
    large: Connection, how: dict[str, object]
) -> None:
    sql, values = tool_log_query(ListToolLogs(**how))  # type: ignore[arg-type]
    (step,) = (row[3] for row in large.execute("EXPLAIN QUERY PLAN " + sql, values))
    assert step.startswith("SEARCH tool_logs USING INDEX")
    assert "created_at<?" in step
    assert ("created_at>?" in step) == (how["since"] is not None)
    if how["conversation_id"] is not None:
        assert "tool_logs_by_conversation" in step
    elif how["tool"] is not None:
        assert ("errors_by_tool" if how["status"] == "error" else "by_tool") in step
    elif how["status"] == "error":
        assert "tool_logs_errors" in step


def test_a_page_of_a_hundred_thousand_visits_little(large: Connection) -> None:
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    for how in FILTERS:
        large.set_progress_handler(count, 100)
        try:
            list_tool_logs(large, ListToolLogs(**how))
        finally:
            large.set_progress_handler(None)
        assert steps < 150, how     # in hundreds of SQLite's; the whole table takes more than ten thousand
        steps = 0


def test_prune_goes_by_the_index(large: Connection) -> None:
    for sql, values in ((SELECT_SURPLUS, (5,)), (SELECT_MORE, (5, 5, 5)), (DELETE_SLICE, (5, 5, 5))):
        steps = [row[3] for row in large.execute("EXPLAIN QUERY PLAN " + sql, values)]
        assert [step for step in steps if "tool_logs_by_time" in step], steps
        assert not [step for step in steps if "TEMP B-TREE" in step], steps


def test_prune_takes_what_is_too_old(db: Connection) -> None:
    old, edge, young = (log(db, created_at=at) for at in (10, 20, 30))
    assert prune(db, 100, older_than_ms=80) == [edge.id, young.id]  # called 80 ms ago is not longer ago
    assert old.id not in remaining(db)
    assert prune(db, 100, older_than_ms=200) == [edge.id, young.id]
    assert prune(db, 100, older_than_ms=0) == []


def test_prune_keeps_the_newest_of_equal_times_too(db: Connection) -> None:
    ids = [log(db, created_at=at).id for at in (5, 5, 3, 5, 9)]
    newest = [ids[2], ids[0], ids[1], ids[3], ids[4]]
    assert prune(db, 10, keep=9) == newest
    assert prune(db, 10, keep=5) == newest
    assert prune(db, 10, keep=3) == newest[2:]
    assert prune(db, 10, keep=0) == []
    assert prune(db, 10, keep=0) == []


def test_prune_by_both_takes_what_either_takes(db: Connection) -> None:
    ids = [log(db, created_at=at).id for at in range(10)]
    assert prune(db, 10, older_than_ms=8, keep=4) == ids[6:]
    assert prune(db, 10, older_than_ms=2, keep=4) == ids[8:]
    with pytest.raises(ValueError, match="at least one of"):
        PruneToolLogs()


def test_prune_in_slices_takes_the_oldest_first_and_counts_all(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_logs, "PRUNE_SLICE", 3)
    ids = [log(db, created_at=at).id for at in range(10)]
    bound = prune_bound(db, PruneToolLogs(keep=2), 10)
    with pytest.raises(MoreToPruneError):
        prune_rest(db, bound, 0)
    assert remaining(db) == ids
    assert prune_slice(db, bound) == 3
    assert remaining(db) == ids[3:]
    log(db, created_at=0)       # logged meanwhile, of an old time: it is before the bound, and goes
    newest = log(db, created_at=50)
    assert prune_slice(db, bound) == 3
    assert prune_rest(db, bound, 6).deleted == {"toolLogs": 9}
    assert remaining(db) == [*ids[8:], newest.id]   # the bound stays where it was
