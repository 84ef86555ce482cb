"""nexusctl index: jobs that are started, followed and told; whoever watches may leave."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import ScriptedDaemon, refuses
from harness.nexusctl import in_pipe, on_terminal, started

OLD = {"key": "aaaaaaaaaaaa", "provider": "builtin", "model": "mini", "dimension": 384, "since": 1}
NEW = {"key": "bbbbbbbbbbbb", "provider": "ollama", "model": "nomic", "dimension": 768, "since": 2}


def collection(name: str = "episodes", **more: Any) -> dict[str, Any]:
    return {"collection": name, "rows": 100, "points": 100, **more}


def report(job: str = "verify", *, checked: int = 100, **more: Any) -> dict[str, Any]:
    return {"job": job, "state": "done", "startedAt": 5000, "finishedAt": 6500, "checked": checked, "total": 100,
            "agrees": True, "collections": [collection()], **more}  # fmt: skip


def running(job: str = "verify", checked: int = 0) -> dict[str, Any]:
    return {"job": job, "state": "running", "startedAt": 5000, "checked": checked, "total": 100}


def progress(state: str, serving: dict[str, Any] = OLD, **more: Any) -> dict[str, Any]:
    return {"state": state, "serving": serving, **more}


def state(**more: Any) -> dict[str, Any]:
    return {"backend": "embedded", "complete": True, "collections": [], "reembed": progress("idle"), "kept": [],
            "job": None, "lastVerify": None, "droppedHits": 0, **more}  # fmt: skip


def one_by_one(*answers: Any) -> Callable[[Any], Any]:
    """Each in turn, the last for ever."""
    left = list(answers)
    return lambda _params: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        yield daemon


# --- verify and repair ---


def test_an_index_that_agrees_is_exit_code_0_and_a_sentence(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.verify"] = report(collections=[collection(queued=3)])
    done = on_terminal("--socket", daemon.address, "index", "verify")
    assert done.code == 0
    assert "✓ The index agrees with the rows: 100 rows compared in 1.5 s." in done.words
    assert "What waits in the outbox (3) is no difference." in done.words
    assert daemon.calls("index.status") == []   # it was done within the first call


def test_what_differs_is_told_by_collection_and_is_exit_code_1(daemon: ScriptedDaemon) -> None:
    differing = [
        collection(missing=2, stale=1, orphaned=1, foreign=1, duplicated=1, dead=4, unindexed=5,
                   examples={"missing": [7, 8], "stale": [9]}, vectors={"outdated": 3, "wrongModel": 1}),
        collection("messages", fullText={"missing": 1, "orphaned": 2, "sound": False}),
        collection("entities"),
    ]  # fmt: skip
    daemon.answers["index.verify"] = report(agrees=False, collections=differing, modelSimilarity=0.71)
    done = on_terminal("--socket", daemon.address, "index", "verify", width=120)
    assert done.code == 1
    for piece in (
        "2 points missing (#7, #8)", "1 point of an earlier version (#9)", "1 point without a row",
        "1 point of another database or model", "1 point met twice", "3 stored vectors of an earlier text",
        "1 stored vector of another model", "4 given up 5 left out on purpose",
        "1 row not in the search by words", "2 entries of the search by words without a row",
        "the search by words has other words than the rows", "entities 100 100 0 agrees",
        "✗ The index differs from the rows: 100 rows compared in 1.5 s. nexusctl index repair mends it.",
        "similarity 0.71",
    ):  # fmt: skip
        assert piece in done.words
    done = in_pipe("--socket", daemon.address, "index", "verify")
    assert (done.code, json.loads(done.output)["agrees"], done.errors) == (1, False, "")


def test_rows_that_were_given_up_are_no_difference_and_never_pass_for_agreement(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.verify"] = report(agrees=True, collections=[collection(dead=4), collection("entities")])
    done = on_terminal("--socket", daemon.address, "index", "verify", width=200)
    assert done.code == 0
    assert "episodes 100 100 0 4 given up" in done.words
    assert "! The index agrees with the rows, but for 4 rows given up: 100 rows compared in 1.5 s." in done.words
    assert "nexusctl outbox list --state dead" in done.words


def test_repair_says_what_it_did_and_that_something_was_to_be_done(daemon: ScriptedDaemon) -> None:
    mended = {"upsertsQueued": 2, "deletesQueued": 1, "fullTextRows": 1, "fullTextRebuilt": ["messages"],
              "vectorsForgotten": 3}  # fmt: skip
    daemon.answers["index.repair"] = report("repair", agrees=False, mended=mended)
    done = on_terminal("--socket", daemon.address, "index", "repair", width=200)
    assert done.code == 1
    said = "Mended: 2 rows queued to be sent, 1 point queued to be removed, 1 row of the search by words put right, "
    said += "the search by words made anew for messages, 3 stored vectors forgotten. "
    assert said + "The outbox does the rest: nexusctl outbox watch" in done.words
    daemon.answers["index.repair"] = report("repair", mended={})
    done = on_terminal("--socket", daemon.address, "index", "repair")
    assert (done.code, "There was nothing to mend." in done.words) == (0, True)


def test_a_long_job_is_followed_with_a_bar_to_its_end(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.verify"] = running()
    daemon.answers["index.status"] = one_by_one(
        state(job=running(checked=40)), state(job=running(checked=80)), state(job=report(agrees=False))
    )
    done = on_terminal("--socket", daemon.address, "index", "verify", "episodes")
    assert done.code == 1
    assert ("40/100" in done.errors, "80/100" in done.errors) == (True, True)
    (call,) = daemon.calls("index.verify")
    assert call["collections"] == ["episodes"]
    assert call["timeoutMs"] <= 500     # no longer than one waits without a bar


def test_a_job_that_ended_while_another_began_is_found_as_the_last(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.verify"] = running()
    daemon.answers["index.status"] = state(job={**running("repair"), "startedAt": 6600}, lastVerify=report())
    done = in_pipe("--socket", daemon.address, "index", "verify")
    assert (done.code, json.loads(done.output)["finishedAt"]) == (0, 6500)


@pytest.mark.parametrize("now", [state(), state(job={**report(), "startedAt": 9000})], ids=["none", "a later one"])
def test_a_job_that_the_daemon_has_forgotten_is_exit_code_4(daemon: ScriptedDaemon, now: dict[str, Any]) -> None:
    daemon.answers["index.verify"] = running()
    daemon.answers["index.status"] = now
    done = on_terminal("--socket", daemon.address, "index", "verify")
    assert (done.code, "the daemon knows nothing of it any more" in done.words) == (4, True)


def test_a_refusal_and_a_failure_are_exit_code_4_since_1_means_that_it_differs(daemon: ScriptedDaemon) -> None:
    daemon.acts["index.verify"] = [refuses(-32020, "index_unavailable", "The vector index does not answer.")]
    done = in_pipe("--socket", daemon.address, "index", "verify")
    assert (done.code, done.errors) == (4, "nexusctl: index_unavailable: The vector index does not answer.\n")
    daemon.answers["index.verify"] = {**running(), "state": "failed", "error": "the index went away"}
    done = on_terminal("--socket", daemon.address, "index", "verify")
    assert (done.code, "✗ The comparison broke off: the index went away" in done.words) == (4, True)


@pytest.mark.parametrize(("verb", "goes_on"), [("verify", "comparing"), ("reembed", "embedding")])
def test_ctrl_c_leaves_the_daemon_working_and_says_so(daemon: ScriptedDaemon, verb: str, goes_on: str) -> None:
    daemon.answers["index.verify"] = running()
    daemon.answers["index.reembed"] = progress("embedding", next=NEW, total=100)
    daemon.answers["index.status"] = state(job=running(checked=1), reembed=progress("embedding", next=NEW, total=100))
    with started("--socket", daemon.address, "index", verb) as process:
        daemon.wait_for("index.status", 2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, b"")
    assert f"interrupted; the daemon goes on {goes_on}" in errors.decode()
    assert b"Traceback" not in errors


# --- reembed ---


def test_reembed_is_followed_until_the_new_model_serves(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.reembed"] = progress("filling", next=NEW, total=100)
    daemon.answers["index.status"] = one_by_one(
        state(reembed=progress("embedding", next=NEW, total=100, done=50, rowsPerSecond=25.0, estimateMs=2000)),
        state(reembed=progress("comparing", next=NEW, total=100, done=100)),
        state(reembed=progress("idle", NEW)),
    )
    done = on_terminal("--socket", daemon.address, "index", "reembed", "--force", width=120)
    assert done.code == 0
    assert daemon.calls("index.reembed")[0]["force"] is True
    for piece in ("50/100", "25 rows/s · 2 s left", "comparing"):
        assert piece in done.errors
    assert done.output == "✓ ollama nomic (768) serves now.\n"


def test_reembed_without_waiting_only_begins(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.reembed"] = progress("filling", next=NEW, total=100)
    done = on_terminal("--socket", daemon.address, "index", "reembed", "--no-wait")
    assert (done.code, "serves while ollama nomic (768) is made ready" in done.words) == (0, True)
    assert daemon.calls("index.status") == []


def test_reembed_with_nothing_to_do_says_so_and_one_that_failed_is_exit_code_4(daemon: ScriptedDaemon) -> None:
    daemon.answers["index.reembed"] = progress("idle")
    done = on_terminal("--socket", daemon.address, "index", "reembed")
    assert (done.code, "serves already; --force" in done.errors) == (0, True)
    daemon.answers["index.reembed"] = progress("failed", next=NEW, detail="the service refuses the key")
    done = on_terminal("--socket", daemon.address, "index", "reembed")
    assert (done.code, "the service refuses the key" in done.words) == (4, True)


# --- forget ---


@pytest.fixture
def keeping(daemon: ScriptedDaemon) -> ScriptedDaemon:
    daemon.answers["index.status"] = state(kept=[OLD])
    daemon.answers["index.forget"] = {"forgotten": ["aaaaaaaaaaaa"], "vectorsDeleted": 1234}
    return daemon


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_forget_asks_before_it_drops(keeping: ScriptedDaemon, answer: str, code: int, calls: int) -> None:
    done = on_terminal("--socket", keeping.address, "index", "forget", typed=answer)
    assert (done.code, len(keeping.calls("index.forget"))) == (code, calls)
    assert "Drop all vectors of builtin mini (384)?" in done.errors
    assert ("Dropped: aaaaaaaaaaaa, with 1,234 stored vectors." in done.words) is bool(calls)


def test_forget_where_nobody_can_be_asked_wants_to_be_told(keeping: ScriptedDaemon) -> None:
    done = in_pipe("--socket", keeping.address, "index", "forget")
    assert (done.code, "say --yes" in done.errors) == (3, True)
    done = in_pipe("--socket", keeping.address, "index", "forget", "aaaaaaaaaaaa", "--yes")
    assert (done.code, json.loads(done.output)["vectorsDeleted"]) == (0, 1234)
    assert keeping.calls("index.forget")[0]["key"] == "aaaaaaaaaaaa"


# --- status: the daemon's method with a drawing of its own ---


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (report(), "agreed"),
        (report(agrees=False), "differed: nexusctl index repair"),
        (report("repair", agrees=False, mended={}), "differed and was mended"),
        (report(state="failed", agrees=None, error="the index is away"), "broke off: the index is away"),
    ],
)
def test_status_tells_how_the_last_comparison_ended(daemon: ScriptedDaemon, last: dict[str, Any], says: str) -> None:
    daemon.answers["help"] = {"name": "index.status", "params": []}
    daemon.answers["index.status"] = state(lastVerify=last)
    done = on_terminal("--socket", daemon.address, "index", "status", width=160)
    assert (done.code, says in done.words) == (0, True), done.words


def test_status_tells_how_index_model_and_comparison_stand(daemon: ScriptedDaemon) -> None:
    daemon.answers["help"] = {"name": "index.status", "params": []}
    daemon.answers["index.status"] = state(
        complete=False, kept=[OLD], droppedHits=2, lastVerify=report(agrees=False),
        collections=[{"collection": "episodes", "physical": "episodes-aaaaaaaaaaaa", "rows": 98000, "points": None}],
        reembed=progress("embedding", next=NEW, total=100, done=40, rowsPerSecond=20.0, estimateMs=3000, dead=1),
    )  # fmt: skip
    done = on_terminal("--socket", daemon.address, "index", "status", width=160)
    assert done.code == 0
    for piece in (
        "not complete yet", "98,000 ? episodes-aaaaaaaaaaaa",
        "builtin mini (384) serves while ollama nomic (768) is made ready: 40 of 100 rows embedded at 20 rows/s,",
        "about 3 s to go. 1 row could not be embedded.",
        "until it is told to go · nexusctl index forget aaaaaaaaaaaa", "differed: nexusctl index repair",
        "2 hits without a row",
    ):  # fmt: skip
        assert piece in done.words
