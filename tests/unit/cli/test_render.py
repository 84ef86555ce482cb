from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from nexusd.cli import render
from nexusd.model.memory import MemoryContext, MemoryHits

NOW_MS = 1_700_000_000_000
STATUS: dict[str, Any] = {
    "version": "0.1.0", "state": "ready", "uptimeMs": 11_520_000,
    "health": {"status": "degraded", "reasons": ["index: restarting"]},
    "database": {"path": "/var/lib/nexusd/nexus.db", "bytes": 48_100_000, "walBytes": 0, "schema": 1,
                 "epoch": "e", "readOnly": True, "sessions": 1, "episodes": 98_120},
    "outbox": {"pending": 118, "inflight": 2, "dead": 3, "oldestAgeMs": 12_000, "rowsPerSecond": 30.0,
               "drainEstimateMs": 4000, "embedder": "closed", "index": "open"},
    "index": {"backend": "embedded", "available": False, "detail": "the child ended", "rebuilding": True,
              "points": {"episodes": 98_000}, "restarts": 1},
    "embedder": {"provider": "builtin", "model": "all-MiniLM-L6-v2", "dimension": 384, "state": "ready",
                 "detail": "", "restarts": 0},
    "reranker": {"provider": "http", "model": None, "state": "late", "detail": "no search had its answer within 500 ms",
                 "calls": 1200, "inTime": 700},
    "server": {"socket": "/run/nexusd/nexusd.sock", "tcp": None, "connections": 4,
               "methods": {"episodes.create": {"calls": 10, "errors": 3, "faults": 1, "totalMs": 3.0},
                           "episodes.get": {"calls": 5, "errors": 1, "totalMs": 3.0}}},
    "settings": {"file": "/etc/nexusd/config.yaml", "reloads": 2, "refused": 1, "needsRestart": ["server.tcp.port"],
                 "refusal": "/etc/nexusd/config.yaml:2: log.level: found 1"},
    "log": {"output": "journal", "dropped": 1200},
    "tasks": [{"name": "outbox", "state": "running", "restarts": 2},
              {"name": "status", "state": "running", "restarts": 0}],
    "processes": [{"name": "daemon", "pid": 12, "residentBytes": 92_000_000}],
}  # fmt: skip


def drawn(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(what)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_status_says_what_a_person_wants_to_know() -> None:
    text = drawn(render.status(STATUS), 120)
    for piece in (
        "nexusd 0.1.0 · ready · up 3 h", "degraded", "index: restarting", "read-only",
        "98,120 episodes · 1 session · 48.1 MB",
        "120 rows to index · 3 given up · oldest 12 s · about 4 s to go · not calling the index",
        "embedded · unavailable · 98,000 points · building a faster one · restarted 1 time",
        "the child ended", "http · late · in time for 700 of 1,200 searches", "no search had its answer within 500 ms",
        "4 connections · 15 requests · 3 refused · 1 internal error, see the log", "outbox running, restarted 2 times",
        "daemon 92.0 MB (pid 12)", "/etc/nexusd/config.yaml · reloaded 2 times", "needs a restart: server.tcp.port",
        "refused: /etc/nexusd/config.yaml:2: log.level: found 1", "journal · 1,200 entries lost",
    ):  # fmt: skip
        assert piece in text


def without(report: Any, path: tuple[str, ...]) -> Any:
    if len(path) == 1:
        return {name: value for name, value in report.items() if name != path[0]}
    return {**report, path[0]: without(report[path[0]], path[1:])}


PATHS = [(name,) for name in STATUS] + [
    (name, inner) for name, part in STATUS.items() if isinstance(part, dict) for inner in part
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_status_is_shown_without_an_entry_that_this_daemon_does_not_have(path: tuple[str, ...]) -> None:
    assert "nexusd" in drawn(render.status(without(STATUS, path)))


def test_a_reload_says_what_changed_and_what_waits() -> None:
    done = {"changed": ["log.level", "cache.ttlMs"], "needsRestart": ["server.tcp.port"]}
    assert drawn(render.reloaded(done)) == "✓ changed: log.level, cache.ttlMs\nneeds a restart: server.tcp.port\n"
    assert drawn(render.reloaded({"changed": [], "needsRestart": []})) == "✓ nothing changed\n"


def test_status_of_nothing_is_shown() -> None:
    assert drawn(render.status({})).strip() == "nexusd ?"


def test_status_of_a_daemon_without_faults_mentions_none() -> None:
    server = {**STATUS["server"], "methods": {"episodes.get": {"calls": 5, "errors": 2, "faults": 0}}}
    text = drawn(render.status({**STATUS, "server": server}), 120)
    assert "5 requests · 2 refused " in text  # and blanks to the end of the column
    assert "internal error" not in text


def test_a_packages_text_ends_where_the_rule_begins() -> None:
    package = msgspec.convert(
        {"text": "[Mon]\nUser: hi\n\n", "tokens": 1, "tokenBudget": 2, "counted": "estimate", "items": [],
         "leftOut": [], "degraded": []},
        MemoryContext,
    )
    assert "User: hi\n───" in drawn(render.context(package, NOW_MS))


@given(st.text(), st.integers(20, 120))
def test_stored_text_is_never_markup_and_never_breaks_the_page(text: str, width: int) -> None:
    package = msgspec.convert(
        {"text": f"[red]{text}[/nothing]", "tokens": 1, "tokenBudget": 2, "counted": "estimate", "items": [],
         "leftOut": [], "degraded": []},
        MemoryContext,
    )  # fmt: skip
    page = drawn(render.context(package, NOW_MS), width)
    assert "[red]" in page
    assert "\x1b" not in page


def row(**fields: Any) -> dict[str, Any]:
    return {"id": 7, "metadata": {}, "version": 1, "createdAt": NOW_MS, "updatedAt": NOW_MS, "vector": "indexed",
            **fields}  # fmt: skip


HITS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "episodes": (
        row(sessionId=3, userMessage="a heron?", aiResponse="[b]yes[/b]", tokenCount=None),
        ("episode #7  session #3", "a heron?", "[b]yes[/b]"),
    ),
    "entities": (row(name="Heron", type="bird", notes="grey\x1b[0m"), ("entity #7", "Heron (bird)", "grey\ufffd[0m")),
    "summaries": (
        row(sessionId=3, content="about herons", firstEpisodeId=None, lastEpisodeId=None, tokenCount=None),
        ("summary #7  session #3", "about herons"),
    ),
    "messages": (
        row(conversationId=9, role="assistant", content="a heron it was"),
        ("message #7  conversation #9", "assistant", "a heron it was"),
    ),
}


@pytest.mark.parametrize("collection", HITS)
def test_hit_of_every_kind_is_shown_with_what_it_is_and_where_it_belongs(collection: str) -> None:
    record, shown = HITS[collection]
    hit = {"collection": collection, "id": 7, "score": 1.5, "record": record}
    found = msgspec.convert({"items": [hit], "degraded": [], "truncated": True}, MemoryHits)
    page = drawn(render.hits(found, "heron", NOW_MS), 100)
    for piece in (*shown, "1.50", "just now", "further hits were left out"):
        assert piece in page


def test_entity_without_notes_and_summary_without_a_title_take_no_empty_line() -> None:
    entity = {**HITS["entities"][0], "notes": None}
    hit = {"collection": "entities", "id": 7, "score": 1.5, "record": entity}
    found = msgspec.convert({"items": [hit], "degraded": []}, MemoryHits)
    assert len(drawn(render.hits(found, "heron", NOW_MS)).splitlines()) == 2


def test_pieces_of_a_package_are_named_by_kind_where_there_are_several() -> None:
    def page(*collections: str) -> str:
        items = [
            {"collection": name, "id": 4, "reason": reason, "tokens": 9, "score": None, "createdAt": NOW_MS}
            for name, reason in zip(collections, ("recent", "entity"), strict=False)
        ]
        package = {"text": "x", "tokens": 9, "tokenBudget": 20, "counted": "estimate", "items": items, "leftOut": [],
                   "degraded": []}  # fmt: skip
        return drawn(render.context(msgspec.convert(package, MemoryContext), NOW_MS))

    assert "#4      recent turn" in page("episodes")
    assert "episode #4  recent turn" in page("episodes", "entities")
    assert "entity #4   touched" in page("episodes", "entities")
