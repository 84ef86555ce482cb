"""What systemd says by variables, and what is said of it where it makes no sense."""

from __future__ import annotations

import pytest

from nexusd.config_systemd import FromSystemd, from_systemd

PID = 4711


def test_started_by_hand_there_is_nothing() -> None:
    assert from_systemd({}, PID) == FromSystemd()


def test_sockets_come_with_their_names_from_the_third_descriptor_on() -> None:
    environ = {"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "unix:lan"}
    assert from_systemd(environ, PID).inherited_sockets == {3: "unix", 4: "lan"}


def test_without_names_they_are_called_as_systemd_calls_them() -> None:
    environ = {"LISTEN_PID": "4711", "LISTEN_FDS": "2"}
    assert from_systemd(environ, PID).inherited_sockets == {3: "unknown", 4: "unknown"}


def test_what_was_meant_for_another_process_is_not_ours() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000000"}
    assert from_systemd(environ, PID) == FromSystemd()
    assert from_systemd({"LISTEN_FDS": "1"}, PID).inherited_sockets == {}


def test_the_watchdogs_time_is_in_seconds() -> None:
    assert from_systemd({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4711"}, PID).watchdog_s == 30
    assert from_systemd({"WATCHDOG_USEC": "500000"}, PID).watchdog_s == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [("LISTEN_FDS", "two"), ("LISTEN_FDS", "-1"), ("LISTEN_FDS", "0"), ("LISTEN_FDS", "65"), ("LISTEN_FDS", "9" * 30),
     ("LISTEN_FDS", "\N{SUPERSCRIPT TWO}"), ("WATCHDOG_USEC", "soon"), ("WATCHDOG_USEC", "0")],
)  # fmt: skip
def test_a_number_that_is_none_is_named(name: str, value: str) -> None:
    found = from_systemd({"LISTEN_PID": "4711", name: value}, PID)
    assert [problem.split(":")[0] for problem in found.problems] == [f"environment {name}"]
    assert (found.inherited_sockets, found.watchdog_s) == ({}, None)


def test_names_must_be_as_many_as_sockets() -> None:
    environ = {"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "unix"}
    assert from_systemd(environ, PID).problems == ["environment LISTEN_FDNAMES: 1 names for 2 file descriptors"]
