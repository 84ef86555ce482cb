"""A restore is whole or has not happened, wherever it is cut off; and what was there before is never lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from harness.backup_files import ADD_EPISODE, backup_of, fill, lying, texts_in

from nexusd.__main__ import main
from nexusd.backup.offline import report, restore_offline
from nexusd.backup.places import Places
from nexusd.backup.restoring import finish, unfinished
from nexusd.clock import SystemClock
from nexusd.config import load_settings
from nexusd.errors import BackupInvalid, DataDirectoryError, DiskFull, NoSuchBackup, RpcError
from nexusd.model.backups import RestorePlan
from nexusd.store.connection import open_writer
from nexusd.store.database import locked
from nexusd.store.meta import get_epoch, get_meta, set_meta
from nexusd.store.migrations import load_migrations

OLD = ["the old lamp", "the lamp in the log"]
NEW = ["a kettle", "a cup", "a spoon"]
NOW_FILES = {"presets/kept.yaml": b"now", "presets/later.yaml": b"later", "tools/t.js": b"now"}
THEN_FILES = {"presets/kept.yaml": b"then", "tools/t.js": b"then", "mcp-servers.json": b"{}"}


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("backup")
    return backup_of(directory / "then.tar", fill(directory / "nexus.db", NEW), THEN_FILES)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose daemon was killed: a part of its rows is in the log alone."""
    data = tmp_path_factory.mktemp("template")
    fill(data / "alive.db", OLD[:1])
    with closing(open_writer(data / "alive.db", "FULL")) as db:
        db.execute(ADD_EPISODE, OLD[1:])
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(data / f"alive.db{suffix}", data / f"nexus.db{suffix}")
    for path in data.glob("alive.db*"):
        path.unlink()
    for name, content in NOW_FILES.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(content)
    (data / "presets/notes.txt").write_text("nobody's")
    return data


@pytest.fixture
def data(tmp_path: Path, template: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data"))


def restore(backup: Path, data: Path, **options: object) -> RestorePlan:
    settings = load_settings(config=None, data=data, environ={})
    return restore_offline(settings, str(backup), SystemClock(), **options)  # type: ignore[arg-type]


def files_in(data: Path) -> dict[str, bytes]:
    return {name: (data / name).read_bytes() for name in {**NOW_FILES, **THEN_FILES} if (data / name).exists()}


def snapshot(data: Path) -> dict[str, bytes]:
    """Every file with what is in it, but the lock, and the memory that readers of a log share."""
    return {
        str(path.relative_to(data)): b"" if path.name.endswith("-shm") else path.read_bytes()
        for path in data.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    }  # fmt: skip


def is_then(data: Path, template: Path) -> None:
    """All is as in the backup, and what was there lies aside, to the last byte."""
    (aside,) = data.glob("before-restore-*")
    held = {name: content for name, content in snapshot(aside).items() if name != "restore.json"}
    kept = {"presets/notes.txt": b"nobody's"}
    assert held | kept == snapshot(template)
    assert files_in(data) == THEN_FILES
    assert texts_in(data / "nexus.db") == NEW
    assert texts_in(aside / "nexus.db") == OLD
    assert {path.name for path in data.iterdir()} == {
        "nexus.db", "nexus.db.lock", "presets", "tools", "mcp-servers.json", aside.name,
    }  # fmt: skip


def is_now(data: Path, template: Path) -> None:
    """Nothing has happened."""
    assert snapshot(data) == snapshot(template)
    assert not list(data.glob("before-restore-*"))


def test_a_restore_swaps_everything_and_keeps_what_was_there(backup: Path, data: Path, template: Path) -> None:
    changes = restore(backup, data)
    assert changes.rows["episodes"] == (2, 3)
    assert (changes.files_written, changes.files_set_aside) == (sorted(THEN_FILES), ["presets/later.yaml"])
    assert Path(changes.set_aside).is_dir()
    is_then(data, template)
    assert "episodes                    2 -> 3" in report(changes)


def test_a_dry_run_changes_nothing(backup: Path, data: Path, template: Path) -> None:
    changes = restore(backup, data, dry_run=True)
    assert (changes.rows["episodes"], changes.restoring) == ((2, 3), False)
    is_now(data, template)
    assert "would restore then" in report(changes)


def test_a_restore_into_nothing_needs_nothing(backup: Path, tmp_path: Path) -> None:
    changes = restore(backup, tmp_path / "elsewhere")
    assert (changes.rows["episodes"], changes.files_set_aside) == ((0, 3), [])
    assert texts_in(tmp_path / "elsewhere/nexus.db") == NEW


def test_wherever_it_is_killed_the_next_start_finds_all_or_nothing(
    backup: Path, template: Path, tmp_path: Path
) -> None:
    script = Path(__file__).parents[2] / "harness/killed_restores.py"
    killed = subprocess.run(
        [sys.executable, str(script), str(backup), str(template), str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    deaths = killed.stdout.split()
    assert len(deaths) == 24
    for death in deaths:
        data = tmp_path / death
        with locked(data / "nexus.db"):
            finish(Places(data / "nexus.db", data))
        first = death.split("+")[0]
        (is_now if first in {"staging", "unpacked", "proven", "renewed", "staged"} else is_then)(data, template)
        assert not unfinished(Places(data / "nexus.db", data))


def test_the_next_restore_finishes_the_one_before_and_is_done_after_it(
    backup: Path, data: Path, tmp_path: Path
) -> None:
    def cut_off(step: str) -> None:
        if step == "aside-wal":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(backup, data, reached=cut_off)
    assert not (data / "nexus.db").exists()
    with pytest.raises(DataDirectoryError, match="was cut off"):
        restore(backup, data, dry_run=True)
    other = backup_of(tmp_path / "other.tar", fill(tmp_path / "other.db", ["third"]))
    restore(other, data)
    assert texts_in(data / "nexus.db") == ["third"]
    asides = sorted(data.glob("before-restore-*"), key=lambda path: (len(path.name), path.name))
    assert [texts_in(aside / "nexus.db") for aside in asides] == [OLD, NEW]


@pytest.mark.parametrize("step", ["noted", "aside", "swapped"])
def test_no_database_is_adopted_before_a_restore_that_was_cut_off_is_finished(
    step: str, backup: Path, data: Path, template: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cut_off(reached: str) -> None:
        if reached == step:
            raise KeyboardInterrupt

    monkeypatch.chdir(data.parent)
    with pytest.raises(KeyboardInterrupt):
        restore(backup, data, reached=cut_off)
    before = snapshot(data)
    assert main(["--data", str(data), "--adopt"]) == DataDirectoryError.exit_code
    assert "a restore that was cut off is to be finished first" in capsys.readouterr().err
    assert snapshot(data) == before
    with locked(data / "nexus.db"):
        finish(Places(data / "nexus.db", data))
    is_then(data, template)
    assert main(["--data", str(data), "--adopt"]) == 0


def test_what_was_staged_and_is_gone_is_told_and_nothing_is_touched(backup: Path, data: Path) -> None:
    def cut_off(step: str) -> None:
        if step == "aside-journal":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(backup, data, reached=cut_off)
    shutil.rmtree(data / ".nexus.db.restoring")
    before = snapshot(data)
    with pytest.raises(DataDirectoryError, match="is gone from"):
        finish(Places(data / "nexus.db", data))
    assert snapshot(data) == before


def test_a_note_that_cannot_be_read_is_left_alone(data: Path) -> None:
    (data / "nexus.db.restore").write_text("{}")
    with pytest.raises(DataDirectoryError, match="cannot be read"):
        finish(Places(data / "nexus.db", data))


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], type[RpcError], str]] = {
    "a newer schema": (
        lambda path, database: backup_of(path, database, lie=lying(schema_version=99)), BackupInvalid, "newer nexusd",
    ),
    "another application": (
        lambda path, database: backup_of(path, database, lie=lying(application_id=7)), BackupInvalid, "another program",
    ),
    "rows that are not there": (
        lambda path, database: backup_of(path, database, lie=lying(rows={"episodes": 9})), BackupInvalid,
        "has 0 rows, not None",
    ),
    "another epoch": (
        lambda path, database: backup_of(path, database, lie=lying(epoch="0" * 32)), BackupInvalid, "epoch",
    ),
    "nothing": (lambda path, _database: path, NoSuchBackup, "no backup"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_good_is_refused_before_anything_is_touched(
    why: str, data: Path, template: Path, tmp_path: Path
) -> None:
    make, error, said = REFUSED[why]
    backup = make(tmp_path / "bad.tar", fill(tmp_path / "bad.db", NEW))
    with pytest.raises(error, match=said):
        restore(backup, data)
    is_now(data, template)


def test_a_newer_or_foreign_database_in_a_backup_that_says_otherwise_is_refused(
    data: Path, template: Path, tmp_path: Path
) -> None:
    for pragma in ("user_version = 99", "application_id = 7"):
        database = fill(tmp_path / f"{pragma[:4]}.db", NEW)
        with closing(open_writer(database, "NORMAL")) as db:
            db.execute(f"PRAGMA {pragma}")
        backup = backup_of(
            tmp_path / "bad.tar", database, lie=lying(schema_version=len(load_migrations()), application_id=0x4E585544)
        )
        with pytest.raises(BackupInvalid):
            restore(backup, data)
        is_now(data, template)


def test_a_database_without_its_words_is_refused(data: Path, template: Path, tmp_path: Path) -> None:
    with closing(open_writer(database := fill(tmp_path / "bad.db", NEW), "NORMAL")) as db:
        db.execute("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')")
    backup = backup_of(tmp_path / "bad.tar", database)
    with pytest.raises(BackupInvalid, match="damaged full-text index"):
        restore(backup, data)
    is_now(data, template)


def test_a_full_disk_leaves_all_as_it_was_whenever_it_comes(backup: Path, data: Path, template: Path) -> None:
    for full_at in ("staging", "unpacked", "proven", "renewed", "staged"):

        def full(step: str, full_at: str = full_at) -> None:
            if step == full_at:
                raise OSError(28, os.strerror(28), "nexus.db")

        with pytest.raises((DiskFull, OSError)):
            restore(backup, data, reached=full)
        is_now(data, template)


def test_without_room_it_does_not_even_begin(
    backup: Path, data: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
    with pytest.raises(DiskFull, match="there are 1,000"):
        restore(backup, data)
    is_now(data, template)


def test_while_a_daemon_holds_the_database_nothing_is_done(backup: Path, data: Path, template: Path) -> None:
    with locked(data / "nexus.db"), pytest.raises(DataDirectoryError, match="Another nexusd holds"):
        restore(backup, data)
    is_now(data, template)


def test_planted_links_are_set_aside_and_not_followed(backup: Path, data: Path, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (victim / "mine").write_text("kept")
    (victim / "kept.yaml").write_text("kept")
    shutil.rmtree(data / "presets")
    (data / "presets").symlink_to(victim)
    (data / "tools/t.js").unlink()
    (data / "tools/t.js").symlink_to(victim / "mine")
    (data / ".nexus.db.restoring").symlink_to(victim)
    restore(backup, data)
    assert files_in(data) == THEN_FILES
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"mine": "kept", "kept.yaml": "kept"}
    (aside,) = data.glob("before-restore-*")
    assert (aside / "presets.2").is_symlink() or (aside / "presets").is_symlink()
    assert (aside / "tools/t.js").is_symlink()


def test_the_restored_database_is_another_one_to_the_index(data: Path, tmp_path: Path) -> None:
    with closing(open_writer(database := fill(tmp_path / "then.db", NEW), "NORMAL")) as db:
        set_meta(db, "incarnation.episodes-abc", "seen")
        set_meta(db, "nightly", "kept")
        epoch = get_epoch(db)
    restore(backup_of(tmp_path / "then.tar", database), data)
    with closing(open_writer(data / "nexus.db", "NORMAL")) as db:
        assert get_epoch(db) != epoch
        assert (get_meta(db, "incarnation.episodes-abc"), get_meta(db, "nightly")) == (None, "kept")


def test_files_on_another_file_system_stay_there(backup: Path, data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name, content in NOW_FILES.items():
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_bytes(content)
    settings = load_settings(config=None, data=data, environ={"NEXUSD_FILES__DIRECTORY": str(elsewhere)})
    restore_offline(settings, str(backup), SystemClock())
    assert files_in(elsewhere) == THEN_FILES
    (aside,) = elsewhere.glob("before-restore-*")
    assert files_in(aside) == NOW_FILES
    assert files_in(data) == NOW_FILES      # which are nobody's there


def test_an_older_backup_is_restored_as_it_is_and_migrated_by_the_next_start(data: Path, tmp_path: Path) -> None:
    restore(backup_of(tmp_path / "old.tar", fill(tmp_path / "old.db", NEW, schema=1)), data)
    with closing(open_writer(data / "nexus.db", "NORMAL")) as db:
        assert db.pragma("user_version") == 1
