"""nexusctl outbox: rows with what to do about them, dead letters retried, and a watch that ends when all is drained."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import Refused, ScriptedDaemon, hangs_up
from harness.nexusctl import in_pipe, on_terminal, started

METHODS = {
    "outbox.list": [
        {"name": "limit", "type": "integer", "schema": {"type": "integer"}},
        {"name": "state", "type": "string", "schema": {"enum": ["pending", "inflight", "dead"]}},
    ],
    "outbox.status": [],
    "outbox.retry": [{"name": "seqs", "type": "array", "schema": {"type": "array", "items": {"type": "integer"}}}],
}  # fmt: skip


def row(seq: int, state: str, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "collection": "episodes", "rowId": seq * 10, "version": 1, "op": "upsert", "state": state,
            "attempts": 0, "notBefore": 0, "errorKind": None, "error": None, "createdAt": 1, **more}  # fmt: skip


ROWS = [
    row(3, "dead", attempts=1, errorKind="bad_content", error="the model refuses\x1b[31m this text"),
    row(4, "inflight"),
    row(600, "pending", op="delete", collection="messages"),
]


def status(pending: int, **more: Any) -> dict[str, Any]:
    return {"pending": pending, "inflight": 0, "dead": 0, "oldestAgeMs": 2000 if pending else None,
            "rowsPerSecond": 10.0, "drainEstimateMs": pending * 100, "embedder": "closed", "index": "closed",
            **more}  # fmt: skip


def explained(params: dict[str, Any]) -> Any:
    if "method" not in params:
        return {"methods": [{"name": name, "summary": f"Summary of {name}."} for name in METHODS]}
    if params["method"] not in METHODS:
        raise Refused(-32601, "method_not_found", "There is none.")
    return {"name": params["method"], "params": METHODS[params["method"]], "mutates": False}


def page(params: dict[str, Any]) -> Any:
    """Pages of one row, as if each were long."""
    found = [one for one in ROWS if params.get("state") in (None, one["state"])]
    place = int(params.get("cursor", 0))
    more = place + 1 < len(found)
    return {"items": found[place : place + 1], "nextCursor": str(place + 1) if more else None}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        daemon.answers.update({"help": explained, "outbox.list": page})
        yield daemon


def test_list_is_the_daemons_with_a_drawing_of_its_own(daemon: ScriptedDaemon) -> None:
    daemon.answers["outbox.list"] = {"items": ROWS, "nextCursor": None}
    done = on_terminal("--socket", daemon.address, "outbox", "list", "--state", "dead", "--limit", "9")
    assert daemon.calls("outbox.list") == [{"state": "dead", "limit": 9}]
    lines = done.output.splitlines()
    assert done.code == 0
    assert lines[0].split() == ["seq", "row", "state", "tries", "next", "try", "cause"]
    assert lines[1].split()[:6] == ["3", "episodes", "#30", "dead", "1", "never"]
    assert "bad_content: the model" in lines[1]
    assert lines[2].split() == ["4", "episodes", "#40", "inflight", "0", "under", "way"]
    assert lines[3].split() == ["600", "messages", "#6000", "delete", "pending", "0", "now"]
    assert "outbox retry SEQ" in done.words
    assert max(map(len, lines)) <= 80
    assert json.loads(in_pipe("--socket", daemon.address, "outbox", "list").output)["items"] == ROWS


def test_show_tells_all_facts_of_a_row_and_what_to_do(daemon: ScriptedDaemon) -> None:
    done = on_terminal("--socket", daemon.address, "outbox", "show", "3")
    assert done.code == 0
    for piece in ("episodes #30", "dead", "1 that failed", "never", "bad_content", "Change the row",
                  "nexusctl outbox retry 3", "nexusctl episodes get id=30"):  # fmt: skip
        assert piece in done.words
    assert "\N{REPLACEMENT CHARACTER}[31m this text" in done.words


def test_show_finds_a_row_on_any_page_and_looks_among_the_dead_first(daemon: ScriptedDaemon) -> None:
    done = in_pipe("--socket", daemon.address, "outbox", "show", "600")
    assert json.loads(done.output) == ROWS[2]
    assert [call.get("state") for call in daemon.calls("outbox.list")] == ["dead", None, None, None]
    missing = in_pipe("--socket", daemon.address, "outbox", "show", "5")
    assert (missing.code, missing.output) == (1, "")
    assert "The outbox has no row 5: it was delivered, or there was none." in missing.errors


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [(["3", "4"], {"seqs": [3, 4]}), (["--all"], {}), (["seqs=3"], {"seqs": [3]}), (["seqs:=[3,4]"], {"seqs": [3, 4]})],
)
def test_retry_says_how_many(daemon: ScriptedDaemon, arguments: list[str], sent: dict[str, Any]) -> None:
    daemon.answers["outbox.retry"] = {"retried": 2}
    done = on_terminal("--socket", daemon.address, "outbox", "retry", *arguments)
    assert (done.code, "2 dead letters are queued again." in done.words) == (0, True)
    (call,) = daemon.calls("outbox.retry")
    assert {name: value for name, value in call.items() if name != "idempotencyKey"} == sent
    assert in_pipe("--socket", daemon.address, "outbox", "retry", *arguments).output == '{"retried": 2}\n'


@pytest.mark.parametrize("arguments", [[], ["3", "--all"], ["x"], ["0"]])
def test_retry_without_saying_what_is_a_wrong_command_line(daemon: ScriptedDaemon, arguments: list[str]) -> None:
    done = in_pipe("--socket", daemon.address, "outbox", "retry", *arguments)
    assert (done.code, done.output) == (3, "")
    assert daemon.calls("outbox.retry") == []


def test_watch_in_a_pipe_is_a_line_for_each_change_and_ends_when_all_is_drained(daemon: ScriptedDaemon) -> None:
    left = iter([status(5), status(5, rowsPerSecond=11.0), status(3, embedder="open"), status(0, dead=1)])
    daemon.answers["outbox.status"] = lambda _params: next(left)
    done = in_pipe("--socket", daemon.address, "outbox", "watch", "--interval", "0.05")
    assert (done.code, done.errors) == (0, "")
    assert done.output.splitlines() == [
        "waiting=5 dead=0 oldest=2s rate=10/s left=0s embedder=closed index=closed",
        "waiting=3 dead=0 oldest=2s rate=10/s left=0s embedder=open index=closed",
        "waiting=0 dead=1 oldest=- rate=10/s left=0s embedder=closed index=closed",
    ]


def test_watch_as_json_is_the_daemons_status_for_each_change(daemon: ScriptedDaemon) -> None:
    told = [status(2, collections=[{"collection": "episodes", "pending": 2}]), status(0)]
    left = iter(told)
    daemon.answers["outbox.status"] = lambda _params: next(left)
    done = in_pipe("--socket", daemon.address, "--json", "outbox", "watch", "--interval", "0.05")
    assert [json.loads(line) for line in done.output.splitlines()] == told


def test_watch_on_a_terminal_has_a_bar_for_each_collection(daemon: ScriptedDaemon) -> None:
    def told(episodes: int, messages: int) -> dict[str, Any]:
        away = {"state": "half_open", "failures": 2, "lastError": "connection refused", "retryInMs": None}
        each = [{"collection": "episodes", "pending": episodes, "inflight": 0, "dead": 2, "oldestAgeMs": 61_000}]
        if messages:    # what has no rows is not told any more
            each.append({"collection": "messages", "pending": messages, "inflight": 0, "dead": 0, "oldestAgeMs": 1000})
        return status(episodes + messages, index="half_open", indexBreaker=away, collections=each)

    left = iter([told(1000, 10), told(500, 0), told(0, 0)])
    daemon.answers["outbox.status"] = lambda _params: next(left)
    done = on_terminal("--socket", daemon.address, "outbox", "watch", "--interval", "0.05")
    assert done.code == 0
    first, second, last, _ = (block.splitlines() for block in done.output.split("episodes  ")[1:])
    assert first[0].split()[:2] == ["1,000", "─" * 24]
    assert second[0].split()[:2] == ["500", "━" * 12 + "─" * 12]
    assert last[0].split()[:2] == ["0", "━" * 24]
    assert second[1].split()[:2] == ["messages", "0"]
    assert ("oldest 1 min · 2 given up" in first[0], first[1].split()[:2]) == (True, ["messages", "10"])
    assert "10 rows/s · about 1 min to go" in done.words
    assert "index was away: being asked again: connection refused" in done.words
    assert "empty: the index has all that it is owed" in done.words


def test_watch_tells_what_the_next_model_lacks_and_when_a_part_is_asked_again(daemon: ScriptedDaemon) -> None:
    away = {"state": "open", "failures": 9, "lastError": "no route", "retryInMs": 12_000}
    told = status(1, embedder="open", embedderBreaker=away, next={"pending": 70, "inflight": 0, "dead": 0})
    daemon.answers["outbox.status"] = told
    done = on_terminal("--socket", daemon.address, "outbox", "status")
    assert done.code == 0
    assert "next model 70" in done.words
    assert "embedder is away: asked again in 12 s: no route" in done.words


def test_watch_is_ended_by_ctrl_c_without_a_word(daemon: ScriptedDaemon) -> None:
    daemon.answers["outbox.status"] = status(5)
    with started("--socket", daemon.address, "outbox", "watch", "--interval", "0.05") as process:
        daemon.wait_for("outbox.status", 3)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output.count(b"\n"), errors) == (130, 1, b"")


def test_watch_goes_on_when_the_connection_is_lost(daemon: ScriptedDaemon) -> None:
    left = iter([status(5), status(0)])
    daemon.answers["outbox.status"] = lambda _params: next(left)
    daemon.acts["outbox.status"] = [ScriptedDaemon.behave, hangs_up]
    done = in_pipe("--socket", daemon.address, "outbox", "watch", "--interval", "0.05")
    assert (done.code, len(done.output.splitlines())) == (0, 2)


# --- verbs of nexusctl's own beside the daemon's ---


def test_the_resource_lists_both_kinds_of_verbs(daemon: ScriptedDaemon) -> None:
    done = on_terminal("--socket", daemon.address, "outbox")
    assert done.code == 0
    verbs = [line.split()[0] for line in done.output.splitlines() if line.startswith("  ") and line[2] != " "]
    assert verbs == ["list", "status", "retry", "show", "watch"]
    assert "Summary of outbox.list." in done.words
    assert "Try dead letters again" in done.words
    told = json.loads(in_pipe("--socket", daemon.address, "outbox").output)["methods"]
    assert [one["name"] for one in told] == list(METHODS)


def test_without_a_daemon_its_own_verbs_are_still_explained(tmp_path: Path) -> None:
    done = in_pipe("--socket", str(tmp_path / "none"), "outbox", "--help")
    assert (done.code, "watch" in done.output, "status" in done.output) == (0, True, False)
    done = in_pipe("--socket", str(tmp_path / "none"), "outbox", "status")
    assert (done.code, "outbox status is no command that works without a daemon" in done.errors) == (2, True)


def test_a_verb_that_both_lack_is_told_with_what_comes_near(daemon: ScriptedDaemon) -> None:
    for typed, near in (("wacth", "watch"), ("lits", "list")):
        done = in_pipe("--socket", daemon.address, "outbox", typed)
        assert (done.code, done.errors) == (3, f"nexusctl: outbox has no command {typed}; did you mean {near}?\n")


def test_json_may_stand_before_the_verb_or_after_it(daemon: ScriptedDaemon) -> None:
    daemon.answers["outbox.status"] = status(0)
    for words in (["--json", "outbox", "status"], ["outbox", "--json", "status"], ["outbox", "status", "--json"]):
        done = on_terminal("--socket", daemon.address, *words)
        assert (done.code, json.loads(done.output)) == (0, status(0))
