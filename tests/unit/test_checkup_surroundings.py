"""What the daemon stands on: every finding is told with what to do, and nothing is found where all is well."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes.clock import ManualClock

from nexusd import checkup_surroundings as surroundings
from nexusd.checkup_surroundings import (
    check_certificate,
    check_clock,
    check_disk,
    check_memory,
    check_permissions,
    check_settings,
    finding,
    shown_span,
    worst,
)
from nexusd.config import Settings, load_settings
from nexusd.model.system import Check
from nexusd.wire.tls_keys import CertificateState

GIB = 1024**3


class Room(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """As a start leaves it: directory, settings file, database and socket, all closed to others."""
    umask = os.umask(0o077)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (config := tmp_path / "config.yaml").write_text("log:\n  level: info\n")
    found = load_settings(config=config, data=data, environ={})
    found.database_path.touch()
    found.socket_path.touch()
    yield found
    os.umask(umask)


def permissions(settings: Settings) -> Check:
    return check_permissions(settings, settings.socket_path, os.geteuid())


def test_what_is_closed_to_others_is_in_order(settings: Settings) -> None:
    assert permissions(settings).state == "ok"
    assert permissions(settings).advice is None


def test_a_directory_that_others_get_into_is_told_with_its_command(settings: Settings) -> None:
    settings.data_directory.chmod(0o755)
    found = permissions(settings)
    assert (found.state, found.advice) == ("warning", f"chmod o-rwx {settings.data_directory}")
    assert "mode 0755" in found.says
    settings.data_directory.chmod(0o750)    # a group is somebody's choice
    assert permissions(settings).state == "ok"


def test_a_directory_of_another_user_is_told(settings: Settings) -> None:
    found = check_permissions(settings, settings.socket_path, os.geteuid() + 1)
    assert (found.state, found.advice) == ("warning", f"chown -R {os.geteuid() + 1} {settings.data_directory}")


def test_a_database_elsewhere_is_looked_at_by_itself(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "nexus.db"
    elsewhere.parent.mkdir(mode=0o700)
    elsewhere.touch()
    elsewhere.chmod(0o644)
    moved = Settings(
        config=settings.config, data_directory=settings.data_directory, database_path=elsewhere,
        backups_directory=settings.backups_directory, files_directory=settings.files_directory,
        socket_path=settings.socket_path, config_path=None,
    )  # fmt: skip
    assert permissions(moved).state == "ok"     # nobody gets to it
    elsewhere.parent.chmod(0o755)
    assert permissions(moved).advice == f"chmod o-rwx {elsewhere}*"


def test_a_socket_that_everybody_may_connect_to_and_one_that_is_gone_are_told(settings: Settings) -> None:
    settings.socket_path.chmod(0o666)
    assert "server.socket.mode" in (permissions(settings).advice or "")
    settings.socket_path.unlink()
    found = permissions(settings)
    assert (found.state, "was removed" in found.says) == ("problem", True)


@pytest.mark.parametrize(
    ("text", "mode", "state"),
    [
        ("index:\n  apiKey: secret\n", 0o600, "ok"),
        ("index:\n  apiKey: secret\n", 0o644, "warning"),
        ("index:\n  apiKey: null   # the key\n", 0o644, "ok"),
        ("index:\n  # apiKey: secret\n", 0o644, "ok"),
        ("index:\n  apiKey:\n  url: null\n", 0o644, "ok"),
        ("log:\n  level: info\n", 0o644, "ok"),
        ("log:\n  level: info\n", 0o666, "problem"),
    ],
)
def test_a_key_in_the_settings_is_for_the_daemon_alone(settings: Settings, text: str, mode: int, state: str) -> None:
    assert settings.config_path is not None
    settings.config_path.write_text(text)
    settings.config_path.chmod(mode)
    assert permissions(settings).state == state
    assert "secret" not in permissions(settings).says


def test_settings_that_were_changed_are_told_with_how_they_are_taken(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"

    def found() -> Check:
        def load() -> Settings:
            return load_settings(config=path if path.exists() else None, data=settings.data_directory, environ={})

        return check_settings(settings, load, ["log.level", "cache"])

    assert (found().state, found().says) == ("ok", f"as in {path}")
    path.write_text("log:\n  level: debug\ncache:\n  maxEntries: 7\n")
    assert found().says == "changed and not taken yet: cache.maxEntries, log.level"
    assert found().advice == "nexusctl reload"
    path.write_text("log:\n  level: info\nembedding:\n  apiKey: geheim\n  threads: 1\n")
    assert (found().state, found().advice) == ("warning", "systemctl restart nexusd")
    assert "embedding.threads" in found().says
    assert "geheim" not in found().says
    path.write_text("log:\n  level: loud\n")
    assert (found().state, "log.level" in found().says) == ("problem", True)
    assert found().advice == f"Put it right, and see: nexusd --check --config {path}"


def test_settings_that_are_gone_are_told(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "data")
    found = check_settings(settings, lambda: load_settings(config=None, data=settings.data_directory, environ={}), [])
    assert (found.state, "is gone" in found.says) == ("problem", True)


@pytest.mark.parametrize(
    ("free", "database_bytes", "state"),
    [(10 * GIB, GIB, "ok"), (10 * GIB, 11 * GIB, "warning"), (GIB - 1, 0, "warning"), (10 * 1024**2, 0, "problem")],
)
def test_room_is_wanted_for_a_second_copy_of_the_database(
    free: int, database_bytes: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Room(100 * GIB, 0, free))
    found = check_disk([tmp_path, tmp_path], database_bytes, None)
    assert found.state == state
    assert found.says.count("free") == 1    # one disk, named once
    assert ("du -xh" in (found.advice or "")) is (state != "ok")


def test_a_disk_that_refuses_writes_is_told_as_the_store_tells_it(tmp_path: Path) -> None:
    found = check_disk([tmp_path], 0, "full")
    assert (found.state, found.says) == ("problem", "the store takes no writes: the disk is full")


def test_the_clock_is_held_against_the_other_clock_and_the_newest_row() -> None:
    clock = ManualClock()
    clock.jump(days=400)    # past 2024
    started = clock.now_ms(), clock.monotonic_s()
    clock.advance(3600)
    now_ms = clock.now_ms()
    assert check_clock(clock, started, None).state == "ok"
    assert check_clock(clock, started, now_ms).state == "ok"
    behind = check_clock(clock, started, now_ms + 7_200_000)
    assert (behind.state, "2 h behind the newest row" in behind.says) == ("warning", True)
    clock.jump(days=365)
    assert "365 days more than time passed" in check_clock(clock, started, now_ms).says
    clock.jump(days=-366)
    assert "set back by 24 h" in check_clock(clock, started, None).says
    clock.jump(days=-3000)
    assert check_clock(clock, started, None).state == "problem"


def test_memory_is_told_by_process_and_missed_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_memory([("daemon", os.getpid()), ("gone", 2**30)])
    assert found.says.startswith("daemon ")
    assert "gone" not in found.says
    monkeypatch.setattr(surroundings, "machine_memory", lambda: (8 * GIB, 1024))
    assert check_memory([("daemon", os.getpid())]).state == "warning"
    monkeypatch.setattr(surroundings, "machine_memory", lambda: None)
    assert check_memory([("daemon", os.getpid())]).state == "ok"


def test_of_several_findings_the_gravest_says_how_it_is_and_goes_first() -> None:
    found = [finding("", "warning", "a", "do a"), finding("", "problem", "b", "do b")]
    found.append(finding("", "warning", "c", "do a"))
    together = worst("part", found, "well")
    assert (together.state, together.says, together.advice) == ("problem", "b; a; c", "do b\ndo a")
    assert worst("part", [], "well") == Check(check="part", state="ok", says="well")


@pytest.mark.parametrize(("seconds", "words"), [(7, "7 s"), (600, "10 min"), (86_400, "24 h"), (864_000, "10 days")])
def test_spans_are_told_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert shown_span(seconds) == words


@pytest.mark.parametrize(
    ("days", "state", "says"),
    [(400.0, "ok", "is good for 400 days more"), (15.0, "ok", "15 days"), (13.9, "warning", "is good for 14 days more"),
     (0.5, "warning", "12 h"), (-3.0, "problem", "is out of date for 3 days")],
)
def test_a_certificate_is_told_two_weeks_before_clients_stop_believing_it(days: float, state: str, says: str) -> None:
    now_ms = 1_800_000_000_000
    found = check_certificate(
        CertificateState("/tls/server.crt", ("nexus.local",), now_ms / 1000 + days * 86_400, None), now_ms
    )
    assert (found.state, says in found.says) == (state, True)
    assert (found.advice is None) == (state == "ok")


def test_a_certificate_that_was_refused_is_a_problem_though_the_old_one_is_good() -> None:
    found = check_certificate(CertificateState("/tls/server.crt", (), 2e9, "it is half a file"), 1_800_000_000_000)
    assert (found.state, "it is half a file" in found.says) == ("problem", True)
