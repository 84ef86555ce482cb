"""What is claimed when: every collection, the new and the old, and all of it without looking at what waits."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.store.connection import Connection, open_writer
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.outbox import (
    CLAIM,
    DUE,
    EDGES,
    SELECT_CLAIMED,
    WAITING,
    OutboxEntry,
    Queue,
    claim_batch,
    hasten,
    next_due_ms,
    postpone,
    release_batch,
)

NOW = 1_700_000_000_000
BACKOFF = 300_000
ALL = ("episodes", "entities", "messages")
QUEUE = "INSERT INTO {queue} (collection, row_id, version, op, created_ms) VALUES (?, ?, 1, 'upsert', ?)"


def queue_rows(db: Connection, collection: str, rows: Sequence[int], queue: Queue = "outbox") -> None:
    with db:
        db.executemany(QUEUE.format(queue=queue), [(collection, row_id, NOW) for row_id in rows])


def claim(db: Connection, limit: int, now_ms: int = NOW, **passed_over: Sequence[int]) -> list[OutboxEntry]:
    return claim_batch(db, limit, now_ms, BACKOFF, ALL, **passed_over)


def rows_of(entries: Sequence[OutboxEntry], collection: str = "episodes") -> list[int]:
    return [entry.row_id for entry in entries if entry.collection == collection]


def test_each_row_is_claimed_once_as_it_was_queued(db: Connection) -> None:
    queue_rows(db, "episodes", range(5))
    first = claim(db, 3)
    assert [(e.version, e.op, e.attempts, e.created_ms) for e in first] == [(1, "upsert", 0, NOW)] * 3
    assert sorted(rows_of(first) + rows_of(claim(db, 3))) == [0, 1, 2, 3, 4]
    assert claim(db, 3) == []


def test_only_the_named_collections_are_claimed(db: Connection) -> None:
    queue_rows(db, "episodes", range(1))
    assert claim_batch(db, 10, NOW, BACKOFF, ("entities", "summaries")) == []
    assert len(claim_batch(db, 10, NOW, BACKOFF, ("entities", "episodes"))) == 1


def test_the_newest_and_the_oldest_are_claimed_in_turn(db: Connection) -> None:
    queue_rows(db, "episodes", range(1, 101))
    assert rows_of(claim(db, 6)) == [1, 100, 2, 99, 3, 98]


def test_the_smallest_claims_reach_everybody_in_the_end(db: Connection) -> None:
    queue_rows(db, "episodes", range(1000))
    release_batch(db, claim(db, 10), NOW)
    for collection in ("entities", "messages"):
        queue_rows(db, collection, range(3))
    claimed = [entry for turn in range(60) for entry in claim_batch(db, 1, NOW, BACKOFF, ALL, turn=turn)]
    assert len(claimed) == 60
    assert sorted(rows_of(claimed, "entities")) == sorted(rows_of(claimed, "messages")) == [0, 1, 2]
    rows = rows_of(claimed)
    assert {5, 994} <= set(rows)  # of the oldest that never waited, and of the newest
    assert set(rows) & {0, 1, 2, 3, 4, 999, 998, 997, 996, 995}  # and of those that did


def test_no_collection_waits_for_another_one_to_be_done(db: Connection) -> None:
    queue_rows(db, "episodes", range(1000))
    queue_rows(db, "entities", range(3))
    queue_rows(db, "messages", range(1000))
    entries = claim(db, 30)
    assert [len(rows_of(entries, each)) for each in ALL] == [14, 3, 13]  # what one does not need goes to the others
    assert entries[0].collection != entries[1].collection != entries[2].collection


def test_rows_that_were_postponed_have_a_share_when_their_time_has_come(db: Connection) -> None:
    queue_rows(db, "episodes", range(100))
    late = claim(db, 100)[:10]
    release_batch(db, late, NOW + 5)
    queue_rows(db, "episodes", range(100, 200))
    assert not set(rows_of(late)) & set(rows_of(claim(db, 30)))
    assert len(set(rows_of(late)) & set(rows_of(claim(db, 30, NOW + 5)))) == 10


def test_what_is_under_way_is_passed_over_though_it_changed_and_is_due_again(db: Connection) -> None:
    queue_rows(db, "episodes", range(4))
    under_way = [entry.seq for entry in claim(db, 2)]
    db.execute("UPDATE outbox SET state = 'pending', version = 2")
    assert rows_of(claim(db, 4, passed_over=under_way)) == [1, 2]
    assert claim(db, 4, passed_over=under_way) == []
    assert rows_of(claim(db, 4)) == [0, 3]


def test_the_first_time_to_claim_is_the_earliest_of_all_collections(db: Connection) -> None:
    assert next_due_ms(db, NOW, BACKOFF, ALL) is None
    queue_rows(db, "episodes", range(2))
    queue_rows(db, "entities", range(2))
    assert next_due_ms(db, NOW, BACKOFF, ALL) == 0
    entries = claim(db, 4)
    assert next_due_ms(db, NOW, BACKOFF, ALL) is None
    for after_ms, entry in enumerate(entries):
        postpone(db, [entry], NOW + 10 - after_ms, "busy", "later")
    assert next_due_ms(db, NOW, BACKOFF, ALL) == NOW + 7
    assert next_due_ms(db, NOW + 7, BACKOFF, ALL) == 0
    assert next_due_ms(db, NOW, BACKOFF, ("messages",)) is None


def test_a_clock_set_back_holds_up_neither_the_first_nor_the_last(db: Connection) -> None:
    queue_rows(db, "episodes", range(2))
    first, last = claim(db, 2)
    postpone(db, [first], NOW + 1000, "busy", "later")
    postpone(db, [last], NOW + BACKOFF, "busy", "later")
    assert claim(db, 2) == []
    assert next_due_ms(db, NOW, BACKOFF, ALL) == NOW + 1000
    assert next_due_ms(db, NOW - 1, BACKOFF, ALL) == 0  # the last one would wait longer than anything is postponed
    assert rows_of(claim(db, 2, NOW - 1)) == [last.row_id]
    assert next_due_ms(db, NOW + 1000 - BACKOFF, BACKOFF, ALL) == NOW + 1000
    assert rows_of(claim(db, 2, NOW - BACKOFF)) == [first.row_id]


def test_only_what_was_given_back_without_a_mark_is_hastened_a_slice_at_a_time(db: Connection) -> None:
    queue_rows(db, "episodes", range(25))
    entries = claim(db, 25)
    release_batch(db, entries[:20], NOW + 500)
    postpone(db, entries[20:], NOW + 300, "internal_error", "oops")
    place, slices = (NOW, 0), 0
    hastened: list[int] = []
    while place is not None:
        place = hasten(db, "episodes", place, 10)
        slices += 1
        taken = rows_of(claim(db, 100))
        assert len(taken) <= 10
        hastened += taken
    assert slices == 3
    assert sorted(hastened) == sorted(rows_of(entries[:20]))
    assert next_due_ms(db, NOW, BACKOFF, ALL) == NOW + 300
    assert hasten(db, "entities", (NOW, 0), 10) is None


@pytest.mark.parametrize("queue", ["outbox", "outbox_next"])
@pytest.mark.parametrize(
    ("sql", "values"),
    [
        (DUE, (10, NOW, BACKOFF, json.dumps(ALL))),
        (EDGES, (json.dumps(ALL),)),
        (WAITING, ("episodes", NOW, 0, 10)),
    ],
)
def test_what_is_due_is_looked_up_and_never_searched_for(
    db: Connection, sql: str, values: tuple[object, ...], queue: Queue
) -> None:
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql.format(queue=queue)}", values)]
    of_the_queue = [step for step in plan if f" {queue}" in step]
    assert of_the_queue
    for step in of_the_queue:
        assert step.startswith(f"SEARCH {queue} USING")
        assert f"INDEX {queue}_due (collection=?" in step
    assert not any("B-TREE" in step for step in plan)  # nothing is sorted


@pytest.mark.parametrize("sql", [CLAIM, SELECT_CLAIMED])
def test_what_is_claimed_is_found_by_its_number(db: Connection, sql: str) -> None:
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql.format(queue='outbox')}", ("[1]",))]
    assert plan[0] == "SEARCH outbox USING INTEGER PRIMARY KEY (rowid=?)"


def test_many_rows_that_wait_cost_a_look_no_more_steps_than_few(db: Connection) -> None:
    def steps() -> int:
        """Of SQLite's machine, in hundreds."""
        taken = 0

        def count() -> bool:
            nonlocal taken
            taken += 1
            return False

        db.set_progress_handler(count, 100)
        assert next_due_ms(db, NOW, BACKOFF, ALL) == NOW + 1
        assert claim(db, 64) == []
        db.set_progress_handler(None)
        return taken

    postponed = """
    INSERT INTO outbox (collection, row_id, version, op, not_before_ms, created_ms) VALUES (?, ?, 1, ?, ?, 1)"""
    db.executemany(postponed, [("episodes", n, "upsert", NOW + 1 + n) for n in range(10)])
    few = steps()
    with db:
        db.executemany(postponed, [("episodes", n, "upsert", NOW + 1 + n % 1000) for n in range(10, 20_000)])
    assert steps() <= few + 2


@given(
    queued=st.lists(st.tuples(st.sampled_from(ALL), st.integers(-10, 10)), min_size=1, max_size=60),
    limit=st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_whatever_waits_all_that_is_due_is_claimed_in_the_end_and_nothing_else(
    queued: list[tuple[str, int]], limit: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    db = open_writer(tmp_path_factory.mktemp("claims") / "nexus.db", "OFF")
    migrate(db, load_migrations())
    chance = random.Random(seed)
    due = set()
    for row_id, (collection, after) in enumerate(queued):
        queue_rows(db, collection, [row_id])
        not_before = chance.choice([0, NOW + after, NOW + BACKOFF + after])
        db.execute("UPDATE outbox SET not_before_ms = ? WHERE row_id = ?", (not_before, row_id))
        if not_before <= NOW or not_before > NOW + BACKOFF:
            due.add((collection, row_id))
    assert (next_due_ms(db, NOW, BACKOFF, ALL) == 0) == bool(due)
    claimed: list[tuple[str, int]] = []
    while entries := claim(db, limit):
        assert len(entries) <= limit
        claimed += [(entry.collection, entry.row_id) for entry in entries]
    assert sorted(claimed) == sorted(due)
    db.close()
