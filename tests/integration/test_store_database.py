"""The database as a whole: writer thread, readers, opening and closing."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path

import apsw
import msgspec
import pytest
from harness.database import Gate, open_database

from nexusd.clock import SystemClock
from nexusd.config_sections import StorageConfig
from nexusd.errors import (
    Busy,
    Conflict,
    DatabaseRefusedError,
    DataDirectoryError,
    IdempotencyMismatch,
    SessionNotFound,
    Stopping,
)
from nexusd.model.episodes import CreateEpisode, Episode, NewEpisode
from nexusd.model.fields import MAX_PAGE
from nexusd.model.sessions import CreateSession, ListSessions, Session
from nexusd.store import checkpoints
from nexusd.store.checkpoints import PASSIVE_BYTES
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.episodes import count_episodes, insert_episode, select_episode
from nexusd.store.idempotency import Receipt
from nexusd.store.integrity import check_integrity
from nexusd.store.meta import get_epoch, get_meta, set_meta
from nexusd.store.migrations import load_migrations
from nexusd.store.sessions import insert_session, list_sessions, select_session

pytestmark = pytest.mark.anyio

FOR_EVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


async def gather_behind(database: Database, gate: Gate) -> asyncio.Task[None]:
    """Hold the writer; what is written from now on waits behind the gate."""
    held = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 30)
    return held


async def new_session(database: Database, external_id: str = "s") -> Session:
    return await database.write(insert_session, CreateSession(external_id=external_id), 1)


def said(session: Session, text: str) -> CreateEpisode:
    return CreateEpisode(session_id=session.id, user_message=text, ai_response="")


async def test_a_write_is_there_for_every_way_of_reading(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        session = await new_session(database)
        assert database.peek(select_session, session.id) == session
        assert await database.read(select_session, session.id) == session


async def test_what_gathers_is_one_commit_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        session = await new_session(database)
        gate = Gate()
        held = await gather_behind(database, gate)
        news = [said(session, f"m{i}") for i in range(100)]
        writes = [asyncio.create_task(database.write(insert_episode, new, 1)) for new in news]
        writes[50:50] = [asyncio.create_task(new_session(database, session.external_id))]
        missing = CreateEpisode(session_id=99, user_message="x", ai_response="")
        writes.append(asyncio.create_task(database.write(insert_episode, missing, 1)))
        await asyncio.sleep(0)
        before = database.progress().batches
        sizes_before = sum(database.progress().batches_by_size)
        gate.opened.set()
        answers = await asyncio.gather(held, *writes, return_exceptions=True)
        episodes = [answer for answer in answers if isinstance(answer, Episode)]
        assert [e.user_message for e in episodes] == [f"m{i}" for i in range(100)]
        others = {type(answer) for answer in answers} - {Episode}
        assert others == {type(None), Conflict, SessionNotFound}
        assert database.peek(count_episodes) == 100
        assert database.progress().largest_batch > 50
        progress = database.progress()
        assert progress.batches - before < 10
        assert sum(progress.batches_by_size) - sizes_before == progress.batches - before
        assert sum(progress.batches_by_size[6:]) > 0     # of more than 32 writes


@pytest.mark.parametrize(("writes", "place"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
async def test_commits_are_counted_by_the_number_of_their_writes(tmp_path: Path, writes: int, place: int) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        gate = Gate()
        held = await gather_behind(database, gate)
        before = database.progress().batches_by_size
        others = [asyncio.create_task(new_session(database, f"s{number}")) for number in range(writes)]
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(held, *others)
        grown = [new - old for new, old in zip(database.progress().batches_by_size, before, strict=True)]
        expected = [0] * len(grown)
        expected[0] += 1    # the one that stood still
        expected[place] += 1
        assert grown == expected


async def test_nobody_is_answered_before_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as database:
        answered_early: list[str | None] = []
        gate = Gate()

        def look_from_outside(_db: Connection) -> None:
            other = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            answered_early.append(get_meta(other, "k"))
            other.close()
            gate(_db)

        first = asyncio.create_task(database.write(set_meta, "k", "v"))
        second = asyncio.create_task(database.write(look_from_outside))
        await asyncio.to_thread(gate.entered.wait, 30)
        assert answered_early == [None]     # the same batch, still open
        assert not first.done()
        gate.opened.set()
        await asyncio.gather(first, second)
        assert database.peek(get_meta, "k") == "v"


async def test_cancelled_caller_leaves_the_write_committed(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        gate = Gate()
        held = await gather_behind(database, gate)
        gone = asyncio.create_task(database.write(set_meta, "k", "v"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.opened.set()
        await held
        await database.write(set_meta, "later", "v")
        assert database.peek(get_meta, "k") == "v"


async def test_a_full_queue_is_busy_and_recovers(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", max_queued_writes=4) as database:
        gate = Gate()
        held = await gather_behind(database, gate)
        waiting = [asyncio.create_task(database.write(set_meta, f"k{i}", "v")) for i in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await database.write(set_meta, "one too many", "v")
        assert refused.value.retry_after_ms
        gate.opened.set()
        await asyncio.gather(held, *waiting)
        await database.write(set_meta, "again", "v")
        assert database.peek(get_meta, "one too many") is None


async def test_on_commit_is_called_on_the_loop_after_each_batch(tmp_path: Path) -> None:
    threads: list[int] = []
    async with open_database(
        tmp_path / "nexus.db", on_commit=lambda: threads.append(threading.get_ident())
    ) as database:
        await database.write(set_meta, "k", "v")
        await asyncio.sleep(0)
        assert threads == [threading.get_ident()]


async def test_the_same_call_twice_at_once_is_done_once(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        session = await new_session(database)
        receipts = [Receipt(f"k{i % 40}", "uid:1", "episodes.create", b"h") for i in range(80)]
        answers = await asyncio.gather(
            *(database.write_once(r, insert_episode, said(session, r.key), 1) for r in receipts)
        )
        assert database.peek(count_episodes) == 40
        ids: dict[str, set[int]] = {}
        for receipt, answer in zip(receipts, answers, strict=True):
            row = msgspec.json.decode(answer, type=Episode) if isinstance(answer, msgspec.Raw) else answer
            ids.setdefault(receipt.key, set()).add(row.id)
        assert all(len(group) == 1 for group in ids.values())
        with pytest.raises(IdempotencyMismatch):
            await database.write_once(Receipt("k1", "uid:1", "other", b"h"), set_meta, "k", "v")
        assert isinstance(await database.write_once(None, insert_episode, said(session, "k1"), 1), Episode)


async def test_receipts_outlive_a_restart(tmp_path: Path) -> None:
    receipt = Receipt("k", "uid:1", "meta", b"h")
    async with open_database(tmp_path / "nexus.db") as database:
        epoch = database.peek(get_epoch)
        await database.write_once(receipt, set_meta, "k", "v")
    async with open_database(tmp_path / "nexus.db") as database:
        assert isinstance(await database.write_once(receipt, set_meta, "k", "other"), msgspec.Raw)
        assert database.peek(get_meta, "k") == "v"
        assert database.peek(get_epoch) == epoch


async def test_a_read_past_its_deadline_is_stopped_and_the_reader_goes_on(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", readers=1, read_timeout_s=0.5) as database:
        with pytest.raises(Busy):
            await database.read(lambda db: db.execute(FOR_EVER).fetchall())
        assert await database.read(get_epoch)


async def test_a_read_whose_time_passed_in_the_queue_is_not_begun(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", readers=1, read_timeout_s=0.1) as database:
        entered, queued = threading.Event(), threading.Event()
        begun: list[str] = []

        def hold(_db: Connection) -> None:
            entered.set()
            assert queued.wait(30)
            time.sleep(0.2)     # longer than the other read may wait

        holding = asyncio.create_task(database.read(hold))
        await asyncio.to_thread(entered.wait, 30)
        waiting = asyncio.create_task(database.read(lambda _db: begun.append("begun")))
        await asyncio.sleep(0)
        queued.set()
        with pytest.raises(Busy):
            await waiting
        await holding
        assert begun == []


async def test_a_read_sees_one_moment(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        looked, written = threading.Event(), threading.Event()

        def twice(db: Connection) -> list[str | None]:
            before = get_meta(db, "k")
            looked.set()
            assert written.wait(30)
            return [before, get_meta(db, "k")]

        read = asyncio.create_task(database.read(twice))
        await asyncio.to_thread(looked.wait, 30)
        await database.write(set_meta, "k", "v")
        written.set()
        assert await read == [None, None]


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        with pytest.raises(apsw.ReadOnlyError):
            await database.read(set_meta, "k", "v")
        with pytest.raises(apsw.ReadOnlyError):
            database.peek(set_meta, "k", "v")


async def test_closing_writes_what_was_queued_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as database:
        writes = [asyncio.create_task(database.write(set_meta, f"k{i}", "v")) for i in range(300)]
        await asyncio.sleep(0)
        await database.close()
        assert all(write.done() for write in writes)
        with pytest.raises(RuntimeError):
            await database.write(set_meta, "late", "v")
    assert names(tmp_path) == {"nexus.db", "nexus.db.lock"}
    async with open_database(path) as database:
        count = "SELECT count(*) FROM meta WHERE key LIKE 'k%'"
        assert await database.read(lambda db: db.execute(count).get) == 300
        assert await database.write(check_integrity) == []


async def test_writes_during_the_close_are_told_so(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        gate = Gate()
        held = await gather_behind(database, gate)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await database.write(set_meta, "k", "v")
        gate.opened.set()
        await asyncio.gather(held, closing)


async def test_a_second_daemon_is_kept_out_until_the_first_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as first:
        second = Database(path, StorageConfig(), SystemClock(), on_fatal=lambda _error: None)
        with pytest.raises(DataDirectoryError, match="holds"):
            await second.open()
        await first.write(set_meta, "k", "v")
    async with open_database(path) as again:
        assert again.peek(get_meta, "k") == "v"


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "nexus.db"
    database = Database(path, StorageConfig(), SystemClock(), on_fatal=lambda _error: None)
    with pytest.raises(DataDirectoryError, match=re.escape(str(path))):
        await database.open()


async def test_a_refused_file_is_left_as_it_was_and_its_lock_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    path.write_bytes(b"my diary\n" * 100)
    database = Database(path, StorageConfig(), SystemClock(), on_fatal=lambda _error: None)
    for _ in range(2):
        with pytest.raises(DatabaseRefusedError):
            await database.open()
    assert path.read_bytes() == b"my diary\n" * 100
    assert names(tmp_path) == {"nexus.db", "nexus.db.lock"}


async def test_idle_writer_empties_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as database:
        session = await new_session(database)
        await database.write(insert_episode, said(session, "x" * 100_000), 1)
        async with asyncio.timeout(30):
            while database.progress().wal_bytes:
                await asyncio.sleep(0.05)
        assert path.with_name("nexus.db-wal").stat().st_size == 0
        assert database.progress().turn_age_s < 20


async def test_the_wal_stays_small_under_load(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        session = await new_session(database)
        for i in range(40):
            await database.write(insert_episode, said(session, f"w{i} " * 100_000), 1)
        assert database.stats().writer.wal_bytes < 16 * 1024 * 1024


async def test_where_another_program_checkpoints_the_wal_is_left_to_it_when_idle_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.store.writer.IDLE_TURN_S", 0.01)
    path, wal = tmp_path / "nexus.db", tmp_path / "nexus.db-wal"
    async with open_database(path, checkpoints="litestream") as database:
        session = await new_session(database)
        for i in range(20):
            await database.write(insert_episode, said(session, f"w{i} " * 100_000), 1)
        written, first = database.progress().wal_bytes, wal.read_bytes()[:32]   # its header: another with each cut
        assert written > PASSIVE_BYTES
        async with asyncio.timeout(30):
            for _ in range(3):      # turns of the writer with nothing to do
                before = 0.0
                while (age := database.progress().turn_age_s) >= before:
                    before = age
                    await asyncio.sleep(0)
        assert wal.stat().st_size >= written
    assert wal.stat().st_size >= written
    async with open_database(path, checkpoints="litestream") as database:
        await database.write(insert_episode, said(session, "goes on where it ended"), 1)
        assert wal.read_bytes()[:32] == first
    async with open_database(path) as database:     # whoever takes it back folds all of it in
        assert await database.read(lambda db: db.execute("SELECT count(*) FROM episodes").get) == 21
    assert not wal.exists()


async def test_a_wal_that_no_other_program_follows_any_more_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "ABANDONED_BYTES", 2 * PASSIVE_BYTES)
    async with open_database(tmp_path / "nexus.db", checkpoints="litestream") as database:
        session = await new_session(database)
        largest = 0
        for i in range(60):
            await database.write(insert_episode, said(session, f"w{i} " * 100_000), 1)
            largest = max(largest, database.progress().wal_bytes)
        assert PASSIVE_BYTES < largest < 4 * PASSIVE_BYTES


async def test_a_visitor_that_locks_the_database_makes_writes_busy_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.store.connection.BUSY_TIMEOUT_MS", 20)
    path = tmp_path / "nexus.db"
    async with open_database(path) as database:
        visitor = apsw.Connection(str(path))
        visitor.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy):
            await database.write(set_meta, "k", "v")
        visitor.execute("ROLLBACK")
        visitor.close()
        await database.write(set_meta, "k", "v")


async def test_a_new_database_needs_no_backup_before_its_first_migration(tmp_path: Path) -> None:
    seen: list[int] = []
    path = tmp_path / "nexus.db"
    async with open_database(path, before_migration=lambda _db, version: seen.append(version)) as database:
        assert database.stats().schema_version == len(load_migrations())
    assert seen == []


async def test_pages_as_large_as_allowed_are_read(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        await asyncio.gather(*(new_session(database, f"s{i}") for i in range(MAX_PAGE + 1)))
        page = await database.read(list_sessions, ListSessions(limit=MAX_PAGE))
        assert len(page.items) == MAX_PAGE
        assert page.next_cursor is not None


async def test_select_of_a_new_row_says_pending(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        session = await new_session(database)
        new = NewEpisode(session_id=session.id, user_message="x", ai_response="")
        row = await database.write(insert_episode, new, 1)
        assert database.peek(select_episode, row.id).vector == "pending"


async def test_new_limits_hold_while_it_is_open(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", max_queued_writes=1) as database:
        gate = Gate()
        held = await gather_behind(database, gate)
        with pytest.raises(Busy):
            await database.write(set_meta, "k", "v")
        database.set_limits(StorageConfig(max_queued_writes=2, read_timeout_s=0.1))
        waiting = asyncio.create_task(database.write(set_meta, "k", "v"))
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(held, waiting)
        with pytest.raises(Busy):
            await database.read(lambda db: db.execute(FOR_EVER).fetchall())
        assert await database.read(get_meta, "k") == "v"
