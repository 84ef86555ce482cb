"""Backups of a real database: consistent while it is written on, proven, refused where they lie, and gone without a
trace where they fail."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from fakes.clock import ManualClock
from harness.database import open_database

from nexusd.backup import making
from nexusd.backup.course import Course, HaltedError
from nexusd.backup.gathering import Gatherer
from nexusd.backup.keeper import Backups
from nexusd.backup.making import Maker
from nexusd.backup.manifest import Manifest
from nexusd.backup.shelf import Shelf
from nexusd.backup.unpacking import unpack
from nexusd.backup.verifying import verify
from nexusd.config import load_settings
from nexusd.config_sections import BackupsConfig
from nexusd.errors import (
    BackupBusy,
    BackupInvalid,
    DatabaseRefusedError,
    DiskFull,
    NoSuchBackup,
    ReadOnly,
    StoreUnavailableError,
)
from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import CreateSession
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.episodes import insert_episodes
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.sessions import insert_session

pytestmark = pytest.mark.anyio

STEPS = (
    "staged", "copied", "files_read", "checked", "packed", "synced", "proven", "named", "listed", "tidied",
    "removed_one", "rotated",
)  # fmt: skip
UNTIL_NAMED = STEPS[: STEPS.index("named")]


class House:
    """A store in a directory of its own, and its backups."""

    def __init__(self, data: Path, store: Database, clock: ManualClock) -> None:
        self.data, self.store, self.clock = data, store, clock
        self.at: dict[str, Callable[[], None]] = {}
        self.shelf = Shelf(data / "backups")
        self.told: list[tuple[str, Any]] = []

    def reached(self, step: str) -> None:
        self.at.get(step, lambda: None)()

    def backups(self, **settings: str) -> Backups:
        """What the daemon has."""
        environ = {f"NEXUSD_STORAGE__BACKUPS__{name.upper()}": value for name, value in settings.items()}
        return Backups(
            load_settings(config=None, data=self.data, environ=environ), self.store, self.clock, random.Random(1),
            lambda topic, data: self.told.append((topic, data)), reached=self.reached,
        )

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in (self.data / "backups").iterdir())

    async def add(self, *texts: str) -> None:
        new = [NewEpisode(session_id=1, user_message=text, ai_response="ok") for text in texts]
        await self.store.write(insert_episodes, new, 1)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    data = tmp_path / "data"
    (data / "presets").mkdir(parents=True)
    (data / "presets" / "chef.yaml").write_text("name: chef\n")
    (data / "presets" / "planted.yaml").symlink_to("/etc/hostname")
    (data / "mcp-servers.json").write_text("{}")
    async with open_database(data / "nexus.db", synchronous="NORMAL") as store:
        house = House(data, store, ManualClock())
        await store.write(insert_session, CreateSession(external_id="s"), 1)
        await house.add("a hotel in Rome", "the garden")
        yield house


async def test_a_backup_holds_the_rows_of_one_moment_while_others_write(house: House, tmp_path: Path) -> None:
    backups = house.backups()
    writing = True
    await house.add(*(f"before {n} {'x' * 2000}" for n in range(3000)))     # several steps of copying

    async def write() -> int:
        done = 0
        while writing:
            await house.add(f"first {done}", f"second {done}")  # one transaction: both or neither
            done += 1
        return done

    task = asyncio.create_task(write())
    made = await backups.create("manual")
    writing = False
    assert await task > 0
    (tmp_path / "out").mkdir()
    unpack(house.data / "backups" / f"{made.name}.tar", tmp_path / "out")
    db = apsw.Connection(str(tmp_path / "out" / "nexus.db"))
    pairs = db.execute("SELECT count(*) FROM episodes WHERE user_message LIKE 'first %'").get
    assert pairs == db.execute("SELECT count(*) FROM episodes WHERE user_message LIKE 'second %'").get
    assert db.execute("SELECT count(*) FROM episodes").get == 3002 + 2 * pairs == made.rows["episodes"]
    db.close()
    assert (tmp_path / "out" / "files" / "presets" / "chef.yaml").read_text() == "name: chef\n"
    assert not (tmp_path / "out" / "files" / "presets" / "planted.yaml").exists()
    assert made.files == 2
    assert house.names == [f"{made.name}.tar"]
    assert (house.data / "backups" / f"{made.name}.tar").stat().st_mode & 0o777 == 0o600
    await backups.close()


async def test_every_tar_opens_it(house: House, tmp_path: Path) -> None:
    backups = house.backups()
    made = await backups.create("manual", "a note")
    path = house.data / "backups" / f"{made.name}.tar"
    await asyncio.to_thread(subprocess.run, ["tar", "xf", path], cwd=tmp_path, check=True)
    manifest = msgspec.json.decode((tmp_path / "manifest.json").read_bytes(), type=Manifest)
    assert (manifest.name, manifest.note) == (made.name, "a note")
    await backups.close()


async def test_two_at_once_are_one_and_a_refusal(house: House) -> None:
    backups = house.backups()
    first = asyncio.create_task(backups.create("manual"))
    await asyncio.sleep(0)
    with pytest.raises(BackupBusy):
        await backups.create("manual")
    with pytest.raises(BackupBusy):
        await backups.verify(None)
    with pytest.raises(BackupBusy):
        async with backups.exclusive("restoring"):
            pass
    made = await first
    async with backups.exclusive("restoring"):
        with pytest.raises(BackupBusy):
            await backups.create("manual")
    assert [one.name for one in await backups.list()] == [made.name]
    assert backups.status().last_error is None
    await backups.close()


async def test_it_goes_on_when_the_caller_goes_away_and_ends_when_the_daemon_does(house: House) -> None:
    backups = house.backups()
    caller = asyncio.create_task(backups.create("manual"))
    await asyncio.sleep(0.01)
    caller.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    assert backups._task is not None
    await asyncio.wait([backups._task])
    assert len(await backups.list()) == 1
    house.at["copied"] = backups.stop_waiting
    with pytest.raises(Exception, match="stopping"):
        await backups.create("manual")
    await backups.close()
    assert len(house.names) == 1    # nothing of the second is left


@pytest.mark.parametrize(("step", "number", "error"), [
    *((step, errno.ENOSPC, DiskFull) for step in STEPS), ("staged", errno.EROFS, ReadOnly),
])  # fmt: skip
async def test_a_disk_that_refuses_at_any_step_leaves_what_was_there_and_nothing_unfinished(
    house: House, step: str, number: int, error: type[Exception]
) -> None:
    backups = house.backups(max_count="1")
    old = await backups.create("manual")

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    house.at[step] = fail
    house.clock.advance(10)
    with pytest.raises(error):
        await backups.create("manual")
    left = [one.name for one in await backups.list()]
    assert not [name for name in house.names if name.endswith(".unfinished")]
    assert (old.name in left) == (step not in {"removed_one", "rotated"})   # it went after the new one was there
    assert (len(left) == 1) == (step in {*UNTIL_NAMED, "removed_one", "rotated"})
    status = backups.status()
    assert status.last_error is not None
    house.at.clear()
    await backups.verify(None)
    await backups.create("manual")
    assert (backups.status().last_error, len(await backups.list())) == (None, 1)
    await backups.close()


async def test_the_steps_are_those_that_the_module_names() -> None:
    told = (making.__doc__ or "").split("in this order: ")[1].replace("(of each that is rotated away)", "")
    assert tuple(re.findall("[a-z_]+", told)) == STEPS


@pytest.mark.parametrize("offset", ["manifest", "database", "file", "end"])
async def test_a_flipped_bit_is_found(house: House, offset: str) -> None:
    backups = house.backups()
    made = await backups.create("manual")
    path = house.data / "backups" / f"{made.name}.tar"
    data = bytearray(path.read_bytes())
    sum_at, file_at = data.index(b'"sha256": "') + 15, data.index(b"name: chef")
    places = {"manifest": sum_at, "database": len(data) // 2, "file": file_at}
    place = places.get(offset, 0)
    if offset == "end":
        data = data[: len(data) // 2]
    else:
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises((BackupInvalid, NoSuchBackup)):
        await backups.verify(made.name)
    await backups.close()


async def test_a_backup_that_was_found_bad_is_an_alarm_until_there_is_a_good_one(house: House) -> None:
    backups = house.backups()
    made = await backups.create("manual")
    task = asyncio.create_task(backups.run())
    while backups._due is None:
        await asyncio.sleep(0.001)
    path = house.data / "backups" / f"{made.name}.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"name: chef")] ^= 1
    path.write_bytes(data)
    with pytest.raises(BackupInvalid):
        await backups.verify(None)
    assert "did not pass" in (backups.alarm() or "")
    assert backups.status().newest is None
    house.clock.advance(10)
    await backups.create("manual")
    assert backups.alarm() is None
    task.cancel()
    await backups.close()


def lie(house: House, change: Callable[[dict[str, Any]], None]) -> Shelf:
    """Rewrite the manifest of the one backup there is; its checksums stay true."""
    [path] = (house.data / "backups").iterdir()
    data = path.read_bytes()
    size = int(data[124:135], 8)
    manifest = json.loads(data[512 : 512 + size])
    change(manifest)
    path.write_bytes(data[:512] + json.dumps(manifest).encode().ljust(size) + data[512 + size :])
    return Shelf(house.data / "backups")


@pytest.mark.parametrize(("change", "said"), [
    (lambda m: m["database"]["rows"].update(episodes=3), "episodes has 2 rows, not 3"),
    (lambda m: m["database"]["rows"].update(gone=0), "gone has None rows, not 0"),
    (lambda m: m["database"]["rows"].pop("meta"), "meta has"),
    (lambda m: m["database"].update(schemaVersion=99), "newer nexusd"),
    (lambda m: m["database"].update(schemaVersion=1), "schema_version is"),
    (lambda m: m["database"].update(applicationId=5), "another program"),
    (lambda m: m["database"].update(epoch="x"), "epoch is"),
    (lambda m: m["database"].update(bytes=7), "its database"),
    (lambda m: m["database"].update(sha256="0" * 64), "damaged"),
])  # fmt: skip
async def test_a_manifest_that_lies_is_found_out(
    house: House, change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    backups = house.backups()
    await backups.create("manual")
    shelf = lie(house, change)
    with pytest.raises(BackupInvalid, match=said):
        verify(shelf.find(None), tmp_path / "scratch", Course("proving", 0))
    assert not (tmp_path / "scratch").exists()
    await backups.close()


@pytest.mark.parametrize(("damage", "said"), [
    ("DELETE FROM episodes_fts_docsize; DELETE FROM episodes_fts_data WHERE id > 10", "full-text|damaged"),
    ("PRAGMA foreign_keys = OFF; UPDATE episodes SET session_id = 99 WHERE id = 1", "lead nowhere"),
])  # fmt: skip
async def test_a_database_that_is_damaged_becomes_no_backup(house: House, damage: str, said: str) -> None:
    backups = house.backups()
    good = await backups.create("manual")
    await house.store.close()
    db = apsw.Connection(str(house.data / "nexus.db"))
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    db.execute(damage)
    db.close()
    house.clock.advance(10)
    await house.store.open()
    with pytest.raises(BackupInvalid, match=said):
        await backups.create("manual")
    assert house.names == [f"{good.name}.tar"]
    await backups.close()


async def test_a_directory_that_takes_nothing_is_told(house: House) -> None:
    (house.data / "backups").write_text("a file in its place")
    backups = house.backups()
    with pytest.raises(ReadOnly):
        await backups.create("manual")
    await backups.close()


async def test_a_directory_without_room_is_refused_before_anything_is_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = house.backups()
    monkeypatch.setattr("nexusd.backup.making.RESERVE_BYTES", 2**60)
    house.at["staged"] = lambda: pytest.fail("it was begun")
    with pytest.raises(DiskFull, match="Nothing was changed"):
        await backups.create("manual")
    await backups.close()


async def test_what_is_kept_is_rotated_and_the_settings_can_change_meanwhile(house: House) -> None:
    backups = house.backups(max_count="3")
    names = []
    for _ in range(4):
        names.append((await backups.create("manual")).name)
        house.clock.advance(10)
    assert [one.name for one in await backups.list()] == names[:0:-1]
    backups.set_config(BackupsConfig(max_count=1))
    last = await backups.create("manual")
    assert [one.name for one in await backups.list()] == [last.name]
    await backups.close()


async def test_one_that_is_due_is_made_by_itself_and_what_was_done_is_remembered(house: House) -> None:
    for number in (1, 2):
        backups = house.backups(interval="60s")
        (house.data / "backups").mkdir(exist_ok=True)
        (house.data / "backups" / "left.unfinished").mkdir()
        made = asyncio.Event()
        house.at["rotated"] = partial(asyncio.get_running_loop().call_soon_threadsafe, made.set)
        task = asyncio.create_task(backups.run())
        while backups._due is None:
            await asyncio.sleep(0.001)
        assert (backups.status().newest is None) == (number == 1)
        assert (backups.status().last_tried_at is None) == (number == 1)
        house.clock.advance(70)
        backups._wake.set()
        async with asyncio.timeout(20):
            await made.wait()
        task.cancel()
        await backups.close()
        assert len(house.names) == number
    assert [one.manifest.kind for one in house.shelf.list()] == ["scheduled"] * 2


async def test_the_newest_being_too_old_is_an_alarm(house: House) -> None:
    backups = house.backups(interval="1h")
    task = asyncio.create_task(backups.run())
    while backups._due is None:
        await asyncio.sleep(0.001)
    assert backups.alarm() is None
    house.clock.advance(2 * 3600 + 1)
    assert backups.alarm() == "there is no good one"
    await backups.create("manual")
    assert backups.alarm() is None
    house.clock.advance(2 * 3600 + 1)
    assert backups.alarm() == "the newest good one is too old"
    backups.set_config(BackupsConfig(enabled=False))
    assert backups.alarm() is None
    task.cancel()
    await backups.close()


# --- before a migration ---


def old_store(path: Path, version: int = 1) -> None:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL")
    migrate(db, load_migrations()[:version])
    db.execute("INSERT INTO sessions (external_id, created_at, updated_at) VALUES ('old', 1, 1)")
    db.close()


def keeper_of(data: Path, **environ: str) -> tuple[Backups, dict[str, Any]]:
    settings = load_settings(config=None, data=data, environ=environ)
    holder: dict[str, Any] = {}
    backups = Backups(settings, None, ManualClock(), random.Random(1))  # type: ignore[arg-type]  # it is not open yet
    holder["before_migration"] = backups.before_migration
    return backups, holder


@pytest.mark.parametrize("version", range(1, len(load_migrations())))
async def test_a_backup_is_made_and_proven_before_the_schema_changes(tmp_path: Path, version: int) -> None:
    old_store(tmp_path / "nexus.db", version)
    backups, ways = keeper_of(tmp_path)
    async with open_database(tmp_path / "nexus.db", **ways):
        pass
    [made] = backups.shelf.list()
    assert (made.manifest.kind, made.manifest.database.schema_version) == ("migration", version)
    assert made.manifest.database.rows["sessions"] == 1
    verify(made, tmp_path / "scratch", Course("proving", 0))


async def test_a_migration_that_fails_again_and_again_does_not_fill_the_disk(tmp_path: Path) -> None:
    old_store(tmp_path / "nexus.db")
    backups, ways = keeper_of(tmp_path)
    hook = ways["before_migration"]

    def then_fail(db: Connection, old_version: int) -> None:
        hook(db, old_version)
        raise DatabaseRefusedError("step 2 failed")

    for _ in range(3):
        with pytest.raises(DatabaseRefusedError, match="step 2"):
            async with open_database(tmp_path / "nexus.db", before_migration=then_fail):
                pass
    assert len(backups.shelf.list()) == 1


@pytest.mark.parametrize(("number", "refusal"), [
    (errno.ENOSPC, StoreUnavailableError), (errno.EROFS, DatabaseRefusedError),
])  # fmt: skip
async def test_without_a_backup_the_schema_stays_as_it_is(
    tmp_path: Path, number: int, refusal: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    old_store(tmp_path / "nexus.db")
    backups, ways = keeper_of(tmp_path)

    def fail(step: str) -> None:
        if step == "checked":
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(backups, "_reached", fail)
    with pytest.raises(refusal, match=r"storage\.backups\.enabled to false"):
        async with open_database(tmp_path / "nexus.db", **ways):
            pass
    db = apsw.Connection(str(tmp_path / "nexus.db"))
    assert db.pragma("user_version") == 1
    db.close()


async def test_where_backups_are_off_the_schema_is_changed_without_one(tmp_path: Path) -> None:
    old_store(tmp_path / "nexus.db")
    backups, ways = keeper_of(tmp_path, NEXUSD_STORAGE__BACKUPS__ENABLED="false")
    async with open_database(tmp_path / "nexus.db", **ways) as store:
        assert store.stats().schema_version == len(load_migrations())
    assert backups.shelf.list() == []


# --- kill -9, and a disk that is really full ---

DRIVER = Path(__file__).parent.parent / "harness" / "killing_backup.py"


def test_killed_at_any_step_the_good_ones_stay_and_the_next_start_sweeps_the_rest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), *STEPS], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["step"] for one in told] == list(STEPS)
    for one in told:
        assert one["killed"], one
        assert one["good"] >= 1, one            # there is always a good one
        assert one["left"] == (one["step"] in (*UNTIL_NAMED, "named", "listed")), one
        assert one["leftAfterSweep"] == 0, one
        assert one["verified"], one


def test_on_a_disk_of_any_size_a_backup_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    sizes = [f"{size}k" for size in (8, 64, 700, 1500, 1900, 2300, 2700, 6000)]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, str(DRIVER), str(tmp_path), "--room", *sizes],
        capture_output=True, text=True, check=False, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {one["outcome"] for one in told} == {"made", "disk_full"}
    assert told[-1]["outcome"] == "made"
    for one in told:
        assert one["names"] == (["tar"] if one["outcome"] == "made" else []), one


async def test_the_course_of_a_run_ends_where_it_is_told_to(house: House, tmp_path: Path) -> None:
    course = Course("copying", 0)
    course.halt()
    maker = Maker(house.shelf, house.data / "nexus.db", Gatherer(tmp_path, 1024, None), house.clock)
    with pytest.raises(HaltedError):
        await asyncio.to_thread(maker.make, "manual", course, None)
    assert house.names == []
