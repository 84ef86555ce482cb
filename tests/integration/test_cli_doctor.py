"""nexusctl doctor: what a daemon says of itself, and what this machine says of one that does not answer."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import ScriptedDaemon, refuses, sends_garbage
from harness.nexusctl import in_pipe, on_terminal

from nexusd import __version__
from nexusd.cli import doctor_offline

OK = {"check": "disk", "state": "ok", "says": "70 GB free", "advice": None}
WARNING = {"check": "outbox", "state": "warning", "says": "3 rows cannot be indexed",
           "advice": "See why: nexusctl outbox list --state dead"}  # fmt: skip
PROBLEM = {"check": "full text", "state": "problem", "says": "not\x1b[31m whole",
           "advice": "nexusctl index repair\nthen wait"}  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        daemon.answers["system.status"] = {"version": __version__}
        yield daemon


@pytest.mark.parametrize(
    ("checks", "code", "state", "sentence"),
    [
        ([OK], 0, "ok", "All is well."),
        ([OK, WARNING], 1, "warning", "It works; 1 warning."),
        ([OK, WARNING, PROBLEM], 2, "problem", "1 problem, and 1 warning."),
    ],
)
def test_the_worst_line_is_the_exit_code(
    daemon: ScriptedDaemon, checks: list[Any], code: int, state: str, sentence: str
) -> None:
    daemon.answers["system.check"] = {"checks": checks}
    drawn = on_terminal("--socket", daemon.address, "doctor")
    assert (drawn.code, drawn.output.splitlines()[-1]) == (code, sentence)
    piped = in_pipe("--socket", daemon.address, "doctor")
    told = json.loads(piped.output)
    assert (piped.code, piped.errors, told["state"], told["checks"][1:]) == (code, "", state, checks)


def test_each_line_has_its_mark_and_what_to_do_below_it(daemon: ScriptedDaemon) -> None:
    daemon.answers["system.check"] = {"checks": [OK, WARNING, PROBLEM]}
    lines = on_terminal("--socket", daemon.address, "doctor", width=200).output.splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "✓ disk 70 GB free",
        "! outbox 3 rows cannot be indexed",
        "→ See why: nexusctl outbox list --state dead",
        "✗ full text not\N{REPLACEMENT CHARACTER}[31m whole",
        "→ nexusctl index repair",
        "→ then wait",
        "",
        "1 problem, and 1 warning.",
    ]
    assert lines[0].startswith(f"✓  daemon     nexusd {__version__} answers at ")


def test_thorough_is_passed_on(daemon: ScriptedDaemon) -> None:
    daemon.answers["system.check"] = {"checks": [OK]}
    in_pipe("--socket", daemon.address, "doctor", "--thorough")
    in_pipe("--socket", daemon.address, "doctor")
    assert daemon.calls("system.check") == [{"thorough": True}, {}]


def test_a_daemon_of_another_version_is_told(daemon: ScriptedDaemon) -> None:
    daemon.answers.update({"system.check": {"checks": [OK]}, "system.status": {"version": "0.0.9"}})
    done = on_terminal("--socket", daemon.address, "doctor")
    assert (done.code, "one was not updated" in done.words, "systemctl restart nexusd" in done.words) == (1, True, True)


def test_a_daemon_that_cannot_examine_itself_tells_its_health(daemon: ScriptedDaemon) -> None:
    daemon.answers["health"] = {"status": "degraded", "reasons": ["index: restarting"]}
    done = on_terminal("--socket", daemon.address, "doctor")
    assert (done.code, "index: restarting" in done.words) == (1, True)


def test_a_daemon_that_refuses_to_tell_is_a_problem(daemon: ScriptedDaemon) -> None:
    daemon.acts["system.check"] = [refuses(-32002, "forbidden", "The role of the caller does not cover it.")]
    done = on_terminal("--socket", daemon.address, "doctor")
    assert (done.code, "does not cover it" in done.words, "role admin" in done.words) == (2, True, True)


# --- without a daemon ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory where no daemon runs, on a machine without systemd."""
    monkeypatch.setattr(doctor_offline, "_unit_state", dict)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offline(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = in_pipe(*arguments)
    assert done.errors == ""
    told = json.loads(done.output)
    assert all(bool(one["advice"]) == (one["state"] != "ok") for one in told["checks"])
    return done.code, {one["check"]: one for one in told["checks"]}


def test_with_no_daemon_it_says_what_is_there_and_how_to_start(home: Path) -> None:
    data = home / "data"
    data.mkdir(mode=0o700)
    (data / "nexus.db").write_bytes(b"x" * 2000)
    code, found = offline("--socket", str(data / "nexusd.sock"), "doctor")
    assert code == 2
    assert found["daemon"]["says"] == f"no daemon answers, nothing is at {data}/nexusd.sock"
    assert found["daemon"]["advice"] == f"Start it: nexusd --data {data}"    # the data beside the socket
    assert found["settings"]["state"] == "ok"
    assert found["permissions"]["says"].startswith(f"{data} (")
    assert found["database"]["says"].startswith(f"{data}/nexus.db, 2.0 kB, last written just now")
    assert found["disk"]["state"] == "ok"
    assert "unit" not in found


def test_nothing_at_all_is_told_as_what_a_start_would_make(home: Path) -> None:
    code, found = offline("doctor")
    assert (code, found["daemon"]["advice"]) == (2, "Start it: nexusd")
    assert f"{home}/data is not there yet" in found["permissions"]["says"]
    assert f"{home}/data/nexus.db is not there yet" in found["database"]["says"]


def test_wrong_settings_are_told_by_line(home: Path) -> None:
    (home / "wrong.yaml").write_text("server:\n  tcp:\n    port: many\n")
    _, found = offline("doctor", "--config", "wrong.yaml")
    assert found["settings"]["state"] == "problem"
    assert "wrong.yaml" in found["settings"]["says"]
    assert "server.tcp.port" in found["settings"]["says"]
    assert found["settings"]["advice"] == "Put it right, and see: nexusd --check --config wrong.yaml"


def test_a_directory_that_others_get_into_is_told_also_without_a_daemon(home: Path) -> None:
    (home / "data").mkdir(mode=0o755)
    (home / "data").chmod(0o755)
    _, found = offline("doctor")
    assert (found["permissions"]["state"], found["permissions"]["advice"]) == ("warning", f"chmod o-rwx {home}/data")


def test_a_socket_left_behind_is_no_problem_and_a_file_in_its_place_is(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "left.sock"))
    _, found = offline("--socket", "left.sock", "doctor")
    assert (found["socket"]["state"], "A start replaces it" in found["socket"]["says"]) == ("ok", True)
    (home / "file").touch()
    _, found = offline("--socket", "file", "doctor")
    assert (found["socket"]["state"], "is no socket" in found["socket"]["says"]) == ("problem", True)


def test_somebody_else_at_the_socket_is_told(daemon: ScriptedDaemon, home: Path) -> None:
    daemon.acts["system.status"] = [sends_garbage] * 9
    _, found = offline("--socket", daemon.address, "doctor")
    assert (found["socket"]["state"], "does not answer as nexusd" in found["socket"]["says"]) == ("problem", True)


def test_who_holds_the_database_is_named_without_taking_its_lock(home: Path) -> None:
    data = home / "data"
    data.mkdir(mode=0o700)
    (data / "nexus.db").touch()
    with (data / "nexus.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _, found = offline("doctor")
    assert (found["database"]["state"], f"the process {os.getpid()} has it open" in found["database"]["says"]) == (
        "problem", True,
    )  # fmt: skip


def test_an_address_elsewhere_is_not_looked_for_here(home: Path) -> None:
    code, found = offline("--url", "tcp://127.0.0.1:1", "doctor")
    assert (code, list(found)) == (2, ["daemon"])
    assert "on that machine" in found["daemon"]["advice"]


@pytest.mark.parametrize(
    ("unit", "state", "says"),
    [
        ({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}, "problem", "settings or its data"),
        ({"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}, "warning", "not started"),
        ({"ActiveState": "activating", "Result": "success", "ExecMainStatus": "0"}, "warning", "it is activating"),
    ],
)
def test_what_systemd_says_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, unit: dict[str, str], state: str, says: str
) -> None:
    monkeypatch.setattr(doctor_offline, "_unit_state", lambda: unit)
    _, found = offline("doctor")
    assert (found["unit"]["state"], says in found["unit"]["says"]) == (state, True)
    assert found["daemon"]["advice"] == "systemctl start nexusd"
    assert "journalctl -u nexusd" in found["log"]["advice"]


def test_a_machine_without_systemd_has_no_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_offline._unit_state() == {}
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho LoadState=not-found; echo ActiveState=inactive\n")
    (tmp_path / "systemctl").chmod(0o755)
    assert doctor_offline._unit_state() == {}
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho LoadState=loaded; echo ActiveState=failed\n")
    assert doctor_offline._unit_state() == {"LoadState": "loaded", "ActiveState": "failed"}
