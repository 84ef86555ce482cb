"""`storage.secureDelete` in the database: neither its files nor kept replies hold anything of what was deleted."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from harness.database import open_database
from harness.methods import real_table

from nexusd.errors import Busy, Conflict, IdempotencyMismatch, ReplyErased
from nexusd.model.entities import SearchEntities, UpsertEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.fields import Deletion
from nexusd.model.sessions import CreateSession
from nexusd.model.tool_logs import AppendToolLog, PruneToolLogs
from nexusd.store.cascades import ENTITY, SESSION
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.entities import delete_entity, search_entities, upsert_entity
from nexusd.store.episodes import delete_episode, insert_episodes
from nexusd.store.idempotency import Receipt
from nexusd.store.secure_delete import REPLIES
from nexusd.store.sessions import insert_session
from nexusd.store.tool_logs import insert_tool_log, prune_bound, prune_slice

pytestmark = pytest.mark.anyio

NOW_MS = 1_700_000_000_000
WORD = "zqkwvbtrwxgl"
# What a call of these answers is no text of anybody's: counts, states, names of what stays in the file system.
WITHOUT_TEXTS = {
    "outbox.retry", "semantic.upsert", "index.repair", "index.reembed", "index.forget", "backup.create",
    "backup.restore",
}  # fmt: skip


def receipt(method: str, key: str = "k", parameters: bytes = b"p") -> Receipt:
    return Receipt(key, "uid:1", method, parameters)


def traces(database: Path) -> list[str]:
    """The files beside the database, and itself, that hold the word; a term may have lost what it begins with."""
    files = [path for path in database.parent.iterdir() if path.name.startswith(database.name)]
    return sorted(path.name for path in files if WORD[4:].encode() in path.read_bytes().lower())


async def a_session(store: Database, texts: list[str]) -> int:
    session = (await store.write(insert_session, CreateSession(external_id=f"s {len(texts)}"), NOW_MS)).id
    new = [NewEpisode(session_id=session, user_message=text, ai_response=f"{text} too") for text in texts]
    await store.write(insert_episodes, new, NOW_MS)
    return session


def check_full_text(db: Connection) -> None:
    """Raises where an index holds other words than its table."""
    for table in ("episodes", "entities", "summaries", "messages"):
        db.execute(f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)")


async def erased(store: Database) -> None:
    async with asyncio.timeout(20):
        await store.erased()


async def test_what_was_deleted_leaves_the_files_and_the_other_rows_stay_and_are_found(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path, secure_delete=True) as store:
        texts = [f"{WORD} and tea number {n}" if n % 2 else f"only tea number {n}" for n in range(60)]
        await a_session(store, texts)
        for n in range(60):
            name, notes = (f"{WORD}{n}", f"of {WORD}") if n % 2 else (f"tea {n}", "of tea")
            new = UpsertEntity(name=name, type="thing", notes=notes)
            await store.write(upsert_entity, new, NOW_MS)
        assert traces(path)
        for row in range(2, 61, 2):
            await store.write(delete_episode, row)
            await store.write(delete_entity, row)
        await erased(store)
        assert traces(path) == []
        await store.write(check_full_text)
        assert len((await store.read(search_entities, SearchEntities(query="tea", limit=100))).items) == 30
        assert (await store.read(search_entities, SearchEntities(query=WORD, limit=100))).items == []
    assert traces(path) == []


async def test_where_deletes_are_not_secure_it_stays_there_until_they_become_so(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as store:
        await a_session(store, [f"{WORD} {n}" if n % 2 else f"tea {n}" for n in range(60)])
        for row in range(2, 61, 2):
            await store.write(delete_episode, row)
        await store.write_once(receipt("episodes.create"), lambda _db: {"text": WORD})
        await store.write(lambda db: db.execute("ANALYZE").fetchall())
    assert traces(path) == ["nexus.db"]
    async with open_database(path, secure_delete=True) as store:
        assert traces(path) == []
        await store.write(check_full_text)
        assert store.peek(lambda db: db.execute("SELECT count(*) FROM episodes").get) == 30
        with pytest.raises(ReplyErased):
            await store.write_once(receipt("episodes.create"), lambda _db: {"text": WORD})
    async with open_database(path) as store:  # and off again: nothing is left on
        options = "SELECT v FROM episodes_fts_config WHERE k = 'secure-delete'"
        assert store.peek(lambda db: db.execute(options).get) == 0
        assert await store.write(lambda db: db.pragma("secure_delete")) == 0
        await store.write_once(receipt("episodes.create", "k 2"), lambda _db: {"text": WORD})
        await store.write(delete_episode, 1)
        again: Any = await store.write_once(receipt("episodes.create", "k 2"), lambda _db: None)
        assert WORD.encode() in bytes(again)


async def test_every_full_text_table_takes_words_out_for_good(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", secure_delete=True) as store:
        tables = "SELECT name FROM pragma_table_list WHERE type = 'virtual' AND name LIKE '%_fts'"
        names = store.peek(lambda db: [name for (name,) in db.execute(tables)])
        assert len(names) >= 4
        for name in names:
            option = f"SELECT v FROM {name}_config WHERE k = 'secure-delete'"
            assert store.peek(lambda db, sql=option: db.execute(sql).get) == 1, name


async def test_a_delete_leaves_the_wal_soon_though_others_write_without_a_pause(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path, secure_delete=True) as store:
        session = await a_session(store, [WORD])
        stop = asyncio.Event()

        async def write_on() -> None:
            while not stop.is_set():
                await store.write(insert_tool_log, AppendToolLog(tool="clock"), NOW_MS)

        writing = asyncio.create_task(write_on())
        await store.delete_in_slices(None, SESSION, lambda _db: session)
        await erased(store)
        assert not writing.done()
        assert traces(path) == []
        stop.set()
        await writing


async def test_a_reader_in_the_way_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path, secure_delete=True) as store:
        session = await a_session(store, [WORD])
        inside, leave = threading.Event(), threading.Event()

        def stay(db: Connection) -> None:
            db.execute("SELECT count(*) FROM episodes").fetchall()
            inside.set()
            assert leave.wait(20)

        reading = asyncio.create_task(store.read(stay))
        await asyncio.get_running_loop().run_in_executor(None, inside.wait)
        await store.delete_in_slices(None, SESSION, lambda _db: session)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await store.erased()
        leave.set()
        await reading
        await erased(store)
        assert traces(path) == []


async def test_a_delete_empties_the_kept_replies_of_its_kind_and_of_what_went_with_it(tmp_path: Path) -> None:
    def answer(_db: Connection) -> dict[str, str]:
        return {"text": WORD}

    async with open_database(tmp_path / "nexus.db", secure_delete=True) as store:
        session = await a_session(store, ["tea"])
        for method in ("sessions.create", "episodes.create", "entities.upsert"):
            await store.write_once(receipt(method, method), answer)
        kept = receipt("sessions.delete", "d")
        gone = await store.delete_in_slices(kept, SESSION, lambda _db: session)
        assert isinstance(gone, Deletion)
        for method in ("sessions.create", "episodes.create"):
            with pytest.raises(Conflict, match="erased"):
                await store.write_once(receipt(method, method), answer)
            with pytest.raises(IdempotencyMismatch):
                await store.write_once(receipt(method, method, b"other"), answer)
        entity = await store.write_once(receipt("entities.upsert", "entities.upsert"), answer)
        assert WORD.encode() in bytes(entity)  # type: ignore[arg-type]  # none went: its reply stays
        # the receipt of a delete tells no text, and stays
        again = await store.delete_in_slices(kept, SESSION, lambda _db: session)
        assert b'"episodes":1' in bytes(again)  # type: ignore[arg-type]


async def test_links_that_go_with_an_entity_empty_the_replies_of_links(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db", secure_delete=True) as store:
        new = UpsertEntity(name="Ada", type="person")
        entity = (await store.write(upsert_entity, new, NOW_MS)).id
        link = "INSERT INTO relationships (from_id, to_id, label, created_at, updated_at) VALUES (1, 1, 'x', 1, 1)"
        await store.write(lambda db: db.execute(link).fetchall())
        await store.write_once(receipt("relationships.upsert"), lambda _db: WORD)
        await store.delete_in_slices(None, ENTITY, lambda _db: entity)
        with pytest.raises(ReplyErased):
            await store.write_once(receipt("relationships.upsert"), lambda _db: WORD)


async def test_a_prune_is_a_delete(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path, secure_delete=True) as store:
        await store.write(insert_tool_log, AppendToolLog(tool="clock", result=WORD), NOW_MS)
        await store.write_once(receipt("toolLogs.append"), lambda _db: WORD)
        bound = await store.read(prune_bound, PruneToolLogs(keep=0), NOW_MS)
        await store.write(prune_slice, bound)
        await erased(store)
        assert traces(path) == []


async def test_a_write_that_is_undone_erases_nothing(tmp_path: Path) -> None:
    def fail(db: Connection) -> None:
        delete_episode(db, 1)
        raise Busy

    async with open_database(tmp_path / "nexus.db", secure_delete=True) as store:
        await a_session(store, ["tea"])
        await store.write_once(receipt("episodes.create"), lambda _db: WORD)
        with pytest.raises(Busy):
            await store.write(fail)
        again: Any = await store.write_once(receipt("episodes.create"), lambda _db: "done twice")
        assert WORD.encode() in bytes(again)


async def test_a_crash_before_the_old_traces_were_wiped_wipes_them_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nexus.db"
    async with open_database(path) as store:
        await a_session(store, [WORD, "tea"])
        await store.write(delete_episode, 1)
    monkeypatch.setattr("nexusd.store.secure_delete.SPILL", "PRAGMA no such thing")
    with pytest.raises(Exception, match="syntax error"):
        async with open_database(path, secure_delete=True):
            pass
    monkeypatch.undo()
    async with open_database(path, secure_delete=True):
        assert traces(path) == []


def test_every_method_that_stores_a_text_is_among_those_whose_replies_are_emptied() -> None:
    mutating = {method.name for method in real_table() if method.mutates}
    deletes = {name for name in mutating if name.endswith((".delete", ".prune"))}
    of_files = {"tools.put", "mcpServers.put"}  # emptied by their own deletes: they have no table
    without_receipt = {"cache.set", "cache.clear", "tokens.create", "tokens.revoke"}
    emptied = {name for methods in REPLIES.values() for name in methods}
    assert mutating - deletes - of_files - without_receipt - WITHOUT_TEXTS == emptied
