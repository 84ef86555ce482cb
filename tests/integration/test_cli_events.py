"""nexusctl events: a line an event, as it happens, and a quiet end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import ScriptedDaemon, refuses

from nexusd.cli.events_command import drawn
from nexusd.model.events import Event

PROGRAM = [sys.executable, "-c", "from nexusd.cli.main import main; main()"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        daemon.answers["events.subscribe"] = {"subscription": 1, "seq": 10}
        yield daemon


@contextlib.contextmanager
def started(
    daemon: ScriptedDaemon, *arguments: str, stdout: Any = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NEXUSD_")}
    with subprocess.Popen(
        [*PROGRAM, "--socket", daemon.address, "events", *arguments], stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.PIPE, text=True, env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:  # it would be waited for, and nothing ends it
            process.kill()
            print(process.stderr.read() if process.stderr is not None else "")
            raise


def tell(daemon: ScriptedDaemon, seq: int, topic: str, **data: Any) -> None:
    daemon.notify("event", {"seq": seq, "topic": topic, "data": data, "subscription": 1})


def test_in_a_pipe_each_event_is_a_line_of_json_at_once_and_ctrl_c_ends_it_quietly(daemon: ScriptedDaemon) -> None:
    with started(daemon, "-t", "episodes", "--topic", "outbox", "--since", "4") as process:
        daemon.wait_for("events.subscribe")
        assert process.stdout is not None
        assert process.stderr is not None
        tell(daemon, 11, "episodes", method="episodes.create", id=7)
        first = process.stdout.readline()
        tell(daemon, 12, "outbox", state="drained", dead=0)
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stdout.read(), process.stderr.read()) == (130, "", "")
    assert json.loads(first) == {
        "seq": 11, "topic": "episodes", "data": {"method": "episodes.create", "id": 7}, "subscription": 1,
    }  # fmt: skip
    assert json.loads(second)["data"] == {"state": "drained", "dead": 0}
    assert daemon.calls("events.subscribe") == [{"topics": ["episodes", "outbox"], "sinceSeq": 4}]


def test_on_a_terminal_it_reads_as_a_sentence(daemon: ScriptedDaemon) -> None:
    master, terminal = pty.openpty()
    with started(daemon, stdout=terminal) as process:
        os.close(terminal)
        daemon.wait_for("events.subscribe")
        tell(daemon, 11, "episodes", method="episodes.create", id=7)
        shown = b""
        while b"\n" not in shown:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    os.close(master)
    assert shown.decode().split() == ["\x1b[2m11\x1b[0m", "\x1b[36mepisodes", "\x1b[0m", "create", "id", "7"]


def test_a_reader_that_goes_away_ends_it(daemon: ScriptedDaemon) -> None:
    with started(daemon) as process:
        daemon.wait_for("events.subscribe")
        assert process.stdout is not None
        process.stdout.close()
        with contextlib.suppress(ConnectionResetError):  # it may be gone before all of the event was sent
            tell(daemon, 11, "episodes", id=7)
        assert process.wait(30) == 141


def test_a_refused_topic_is_an_error_of_the_daemon(daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [refuses(-32602, "invalid_params", "Invalid params: topics[0]: one of a, b")]
    with started(daemon, "-t", "c") as process:
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "topics[0]: one of a, b" in process.stderr.read()


@pytest.mark.parametrize(
    ("topic", "data", "words"),
    [
        ("episodes", {"method": "episodes.createMany", "ids": [1, 2]}, "createMany ids 1, 2"),
        ("episodes", {"method": "episodes.createMany", "ids": list(range(10))},
         "createMany ids 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
        ("outbox", {"state": "dead", "collection": "messages", "id": 3, "kind": "bad_content"},
         "dead collection messages id 3 kind bad_content"),
        ("lagged", {"after": 4, "next": 9}, "events after 4 and before 9 were lost"),
        ("files", {"name": "a\x1b[31mb"}, "name a\N{REPLACEMENT CHARACTER}[31mb"),
    ],
)  # fmt: skip
def test_what_happened_is_said_in_words(topic: str, data: dict[str, Any], words: str) -> None:
    shown = drawn(Event(seq=1, topic=topic, data=data)).decode()
    assert shown.split()[3:] == words.split()
