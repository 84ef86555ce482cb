"""nexusctl export and import as commands: files, pipes, refusals, exit codes; what kill -9 leaves of either side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.exported import rows_of
from harness.nexusctl import in_pipe, on_terminal, started

from nexusd.client import Client

EXCHANGES = 2000
NO_EMBEDDER = {"NEXUSD_EMBEDDING__PROVIDER": "service", "NEXUSD_EMBEDDING__URL": "http://127.0.0.1:9"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", settings=NO_EMBEDDER) as running:
        yield running


def fill(daemon: Daemon, exchanges: int) -> None:
    with Client(daemon.socket_path) as nexus:
        nexus.call("sessions.create", externalId="kitchen")
        nexus.call("sessions.create", externalId="cellar")
        for start in range(0, exchanges, 500):
            items = [{"sessionId": 1 + n % 2, "userMessage": f"question {n}", "aiResponse": "yes", "createdAt": 5}
                     for n in range(start, min(start + 500, exchanges))]  # fmt: skip
            nexus.call("episodes.createMany", items=items)
        nexus.call("tools.put", name="dice", source="export default 1\n")


def ctl(daemon: Daemon, *arguments: str) -> tuple[str, ...]:
    return ("--socket", str(daemon.socket_path), *arguments)


def test_an_export_says_what_is_in_it_and_an_import_what_it_took(daemon: Daemon, tmp_path: Path) -> None:
    fill(daemon, 4)
    path = str(tmp_path / "house.jsonl.zst")
    done = on_terminal(*ctl(daemon, "export", path))
    assert done.code == 0, done.errors
    assert "exported: sessions 2, episodes 4, tools 1" in done.words
    again = in_pipe(*ctl(daemon, "export", path))
    assert again.code == 3
    assert "--force replaces it" in again.errors
    forced = in_pipe(*ctl(daemon, "export", path, "--force"))
    assert json.loads(forced.output)["rows"] == {"sessions": 2, "episodes": 4, "tools": 1}

    with Daemon(tmp_path / "other", settings=NO_EMBEDDER) as other:
        dry = on_terminal(*ctl(other, "import", path, "--dry-run"))
        assert "dry run: nothing was written" in dry.words
        assert "4 would be taken" in dry.words
        taken = on_terminal(*ctl(other, "import", path), width=100)
        assert taken.code == 0, taken.errors
        assert "episodes 4 taken" in taken.words
        assert "4/4" in taken.errors, "bars are drawn"
        assert json.loads(in_pipe(*ctl(other, "import", path)).output)["tables"][1]["existing"] == 4
        with Client(other.socket_path) as nexus:
            nexus.call("sessions.update", externalId="kitchen", name="renamed")
        failed = in_pipe(*ctl(other, "import", path, "--on-conflict", "fail"))
        assert failed.code == 3
        assert "line 2: here, saying something else. Nothing was written" in failed.errors
        assert "1 say something else here and stay" in on_terminal(*ctl(other, "import", path)).words


def test_a_session_goes_through_a_pipe(daemon: Daemon, tmp_path: Path) -> None:
    fill(daemon, 4)
    out = in_pipe(*ctl(daemon, "export", "--session", "cellar"))
    assert "exported: sessions 1, episodes 2" in out.errors
    with Daemon(tmp_path / "other", settings=NO_EMBEDDER) as other:
        cut = on_terminal(*ctl(other, "import", "-"), typed=out.output[:-20])
        assert (cut.code, cut.output) == (3, "")
        assert "line 5: cut off" in cut.errors
        taken = on_terminal(*ctl(other, "--json", "import", "-"), typed=out.output)
        assert [table["inserted"] for table in json.loads(taken.output)["tables"]] == [1, 2]


def test_what_makes_no_sense_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    both = in_pipe(*ctl(daemon, "export", "--session", "x", "--project", "1"))
    assert (both.code, "expected one of --session and --project" in both.errors) == (3, True)
    assert in_pipe(*ctl(daemon, "export", str(tmp_path / "x.jsonl"), "--session", "nobody")).code == 1
    assert in_pipe(*ctl(daemon, "export", str(tmp_path / "x.jsonl"), "--project", "9")).code == 1
    assert in_pipe(*ctl(daemon, "export", str(tmp_path / "no" / "x.jsonl"))).code == 1
    assert list(tmp_path.glob("x.*")) == []
    assert in_pipe(*ctl(daemon, "import", str(tmp_path / "missing"))).code == 3


def test_kill_9_of_either_side_at_any_point_doubles_nothing_and_loses_nothing(daemon: Daemon, tmp_path: Path) -> None:
    fill(daemon, EXCHANGES)
    path = tmp_path / "house.jsonl"
    assert in_pipe(*ctl(daemon, "export", str(path))).code == 0
    with Daemon(tmp_path / "other", settings=NO_EMBEDDER) as other:
        for victim, episodes in (("nexusctl", 1), ("daemon", 600)):
            with (
                Client(other.socket_path) as nexus, nexus.events(["imports"]) as events,
                started(*ctl(other, "--timeout", "1", "import", str(path))) as running,
            ):
                for _ in events:    # each batch that came in
                    if nexus.call("system.status")["database"]["episodes"] >= episodes:
                        break
                if victim == "daemon":
                    other.kill()
                else:
                    running.kill()
                running.wait(60)
            if victim == "daemon":
                other.start()
        done = json.loads(in_pipe(*ctl(other, "import", str(path))).output)
        assert done["refusals"] == []
        assert in_pipe(*ctl(other, "export", str(tmp_path / "back.jsonl"))).code == 0
    assert rows_of(tmp_path / "back.jsonl") == rows_of(path)


def test_an_export_that_is_killed_leaves_no_file_and_one_goes_on_over_a_restart(daemon: Daemon, tmp_path: Path) -> None:
    fill(daemon, 10)
    with Client(daemon.socket_path) as nexus:
        page = nexus.call("exports.page", cursor=nexus.call("exports.begin")["cursor"], limit=5)
        daemon.kill()
        daemon.start()
        rows = page["items"]
        while page["nextCursor"] is not None:
            page = nexus.call("exports.page", cursor=page["nextCursor"], limit=5)
            rows += page["items"]
    assert [row["id"] for row in rows if row["table"] == "episodes"] == list(range(1, 11))
    daemon.kill()
    assert in_pipe(*ctl(daemon, "export", str(tmp_path / "x.jsonl"))).code == 2
    assert list(tmp_path.glob("x*")) == []
