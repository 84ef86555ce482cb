"""What a delete answers, how a large one makes room for others, and what waiting on a receipt waits for."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from fakes.index import FakeIndex
from harness.database import open_database
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.errors import ConversationNotFound, IdempotencyMismatch, SessionNotFound
from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.fields import Deletion
from nexusd.model.messages import NewMessage
from nexusd.model.projects import CreateProject
from nexusd.model.relationships import UpsertRelationship
from nexusd.model.sessions import CreateSession, DeleteSession
from nexusd.model.summaries import CreateSummary
from nexusd.model.tool_logs import AppendToolLog
from nexusd.store import slices
from nexusd.store.cascades import CONVERSATION, ENTITY, PROJECT, PROJECT_WITH_CONTENTS, SESSION
from nexusd.store.connection import Connection
from nexusd.store.conversations import insert_conversation, select_conversation
from nexusd.store.database import Database
from nexusd.store.deletions import last_seq
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import delete_episode, insert_episodes
from nexusd.store.idempotency import Receipt
from nexusd.store.messages import insert_messages
from nexusd.store.outbox import bury, claim_batch
from nexusd.store.projects import insert_project
from nexusd.store.relationships import upsert_relationship
from nexusd.store.sessions import insert_session, select_session, session_to_delete
from nexusd.store.slices import Cascade
from nexusd.store.summaries import insert_summary
from nexusd.store.tool_logs import insert_tool_log

pytestmark = pytest.mark.anyio

COLLECTIONS = ("episodes", "entities", "summaries", "messages", "vectors")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "nexus.db") as database:
        yield database


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        yield made


@pytest.fixture
def _a_chunk_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some rows are a large delete."""
    monkeypatch.setattr(slices, "SLICE_S", 0.0)


def rows(db: Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").get)


async def a_session(store: Database, name: str, episodes: int, project: int | None = None) -> int:
    made = await store.write(insert_session, CreateSession(external_id=name, project_id=project), NOW_MS)
    new = [NewEpisode(session_id=made.id, user_message=f"{name} {n}", ai_response="") for n in range(episodes)]
    await store.write(insert_episodes, new, NOW_MS)
    return made.id


def receipt(key: str, parameters: bytes = b"p") -> Receipt:
    return Receipt(key, "uid:1", "sessions.delete", parameters)


def nowhere(db: Connection) -> int:
    return session_to_delete(DeleteSession(external_id="nowhere"), db)


# ---- receipts


async def test_everything_in_a_project_goes_with_it_where_that_is_asked(store: Database) -> None:
    project = (await store.write(insert_project, CreateProject(name="Garden"), NOW_MS)).id
    sessions = [await a_session(store, f"s{n}", n, project) for n in range(4)]
    await store.write(insert_summary, CreateSummary(session_id=sessions[2], content="Tea."), NOW_MS)
    other = await a_session(store, "other", 2)
    gone = await store.delete_in_slices(None, PROJECT_WITH_CONTENTS, lambda _db: project)
    assert gone == Deletion(
        deleted={"projects": 1, "sessions": 4, "episodes": 6, "summaries": 1}, points_queued=7,
        outbox_seq=store.peek(last_seq),
    )
    assert [store.peek(rows, table) for table in ("projects", "sessions", "episodes", "summaries")] == [0, 1, 2, 0]
    assert store.peek(select_session, other).project_id is None


async def test_a_project_that_goes_alone_leaves_its_sessions_and_counts_their_points(store: Database) -> None:
    project = (await store.write(insert_project, CreateProject(name="Garden"), NOW_MS)).id
    sessions = [await a_session(store, f"s{n}", 3, project) for n in range(3)]
    gone = await store.delete_in_slices(None, PROJECT, lambda _db: project)
    assert isinstance(gone, Deletion)
    assert (gone.deleted, gone.points_queued) == ({"projects": 1}, 9)
    assert [store.peek(select_session, session).project_id for session in sessions] == [None] * 3
    assert store.peek(rows, "episodes") == 9


async def test_a_conversation_takes_its_messages_along_and_leaves_what_tools_did(store: Database) -> None:
    chat = (await store.write(insert_conversation, CreateConversation(), NOW_MS)).id
    new = [NewMessage(conversation_id=chat, role="user", content=f"m{n}") for n in range(20)]
    await store.write(insert_messages, new, NOW_MS)
    for _ in range(20):
        await store.write(insert_tool_log, AppendToolLog(tool="clock", conversation_id=chat), NOW_MS)
    gone = await store.delete_in_slices(None, CONVERSATION, lambda _db: chat)
    seq = store.peek(last_seq)
    assert gone == Deletion(deleted={"conversations": 1, "messages": 20}, points_queued=20, outbox_seq=seq)
    assert store.peek(rows, "tool_logs WHERE conversation_id IS NULL") == 20
    with pytest.raises(ConversationNotFound):
        store.peek(select_conversation, chat)


async def test_an_entity_takes_the_links_at_both_ends_along(store: Database) -> None:
    ids = [
        (await store.write(upsert_entity, NewEntity(name=name, type="person"), NOW_MS)).id for name in ("Ada", "Ben")
    ]
    for from_id, to_id in ((ids[0], ids[1]), (ids[1], ids[0]), (ids[0], ids[0]), (ids[1], ids[1])):
        link = UpsertRelationship(from_id=from_id, to_id=to_id, label="knows")
        await store.write(upsert_relationship, link, NOW_MS)
    gone = await store.delete_in_slices(None, ENTITY, lambda _db: ids[0])
    seq = store.peek(last_seq)
    assert gone == Deletion(deleted={"entities": 1, "relationships": 3}, points_queued=1, outbox_seq=seq)
    assert store.peek(rows, "relationships") == 1


async def test_a_delete_that_takes_over_an_older_place_in_the_outbox_is_within_its_receipt(store: Database) -> None:
    session = await a_session(store, "s", 3)  # queued as 1, 2 and 3, and not delivered
    gone = await store.write(delete_episode, 1)
    seqs = "SELECT json_group_array(seq) FROM outbox WHERE op = 'delete'"
    assert store.peek(lambda db: db.execute(seqs).get) == "[1]"
    assert 1 <= gone.outbox_seq == store.peek(last_seq)
    assert await store.delete_in_slices(None, SESSION, lambda _db: session) == Deletion(
        deleted={"sessions": 1, "episodes": 2, "summaries": 0}, points_queued=2, outbox_seq=store.peek(last_seq)
    )


# ---- waiting on a receipt


class HeldIndex(FakeIndex):
    """Deletes wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = asyncio.Event(), asyncio.Event()

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        self.began.set()
        await self.let_go.wait()
        await super().delete(collection, ids)


async def test_waiting_on_a_receipt_waits_for_its_points_and_for_no_other_work(tmp_path: Path) -> None:
    index = HeldIndex()
    async with make_bench(tmp_path, index=index) as bench:
        bench.start()
        first, second = await bench.add("tea"), await bench.add("coffee")
        await bench.drained()
        gone = await bench.store.write(delete_episode, first)
        waiting = asyncio.create_task(bench.worker.wait_for_deletes(gone.outbox_seq, 20))
        await index.began.wait()
        bench.embedder.unavailable = "down"
        await bench.add("water")  # never delivered in this test
        later = await bench.store.write(delete_episode, second)
        assert not waiting.done()
        index.let_go.set()
        waited = await waiting
        assert (waited.done, waited.pending, waited.dead) == (True, 0, 0)
        assert first not in bench.held
        assert (await bench.worker.wait_for_deletes(later.outbox_seq, 20)).done
        assert bench.held == {}
        assert (await bench.worker.wait_for_deletes(0, 1)).done  # where nothing had points


async def test_a_delete_that_the_next_model_owes_counts_whatever_its_number(bench: Bench) -> None:
    bench.start()
    row = await bench.add("tea")
    await bench.drained()
    owed = "INSERT INTO outbox_next (seq, collection, row_id, version, op, created_ms) VALUES (?, ?, ?, 2, ?, 1)"
    await bench.store.write(lambda db: db.execute(owed, (900, "episodes", row, "delete")).fetchall())
    await bench.store.write(lambda db: db.execute(owed, (901, "episodes", row + 1, "upsert")).fetchall())
    gone = await bench.store.write(delete_episode, row)
    waited = await bench.worker.wait_for_deletes(gone.outbox_seq, 0.3)
    assert (waited.done, waited.pending) == (False, 1)
    waiting = asyncio.create_task(bench.worker.wait_for_deletes(gone.outbox_seq, 20))
    await bench.store.write(lambda db: db.execute("DELETE FROM outbox_next WHERE seq = 900").fetchall())
    assert (await waiting).done


async def test_a_delete_that_was_given_up_is_told_and_not_waited_for(bench: Bench) -> None:
    row = await bench.add("tea")
    gone = await bench.store.write(delete_episode, row)
    (entry,) = await bench.store.write(claim_batch, 1, NOW_MS, 1000, COLLECTIONS)
    assert await bench.store.write(bury, entry, "internal_error", "ZeroDivisionError")
    bench.start()
    waited = await bench.worker.wait_for_deletes(gone.outbox_seq, 20)
    assert (waited.done, waited.pending, waited.dead) == (False, 0, 1)


async def test_nothing_is_proven_while_the_index_is_away(tmp_path: Path) -> None:
    index = FakeIndex()
    async with make_bench(tmp_path, index=index) as bench:
        index.down = True
        bench.start()
        waited = await bench.worker.wait_for_deletes(0, 0.05)
        assert (waited.done, waited.pending) == (False, 0)
        index.down = False
        assert (await bench.worker.wait_for_deletes(0, 20)).done


# ---- slices


@pytest.mark.usefixtures("_a_chunk_a_slice")
async def test_a_large_delete_lets_other_writes_through_and_counts_all(store: Database) -> None:
    session = await a_session(store, "s", 100)
    deleting = asyncio.create_task(store.delete_in_slices(None, SESSION, lambda _db: session))
    between = 0
    while not deleting.done():
        await store.write(insert_session, CreateSession(external_id=f"other {between}"), NOW_MS)
        between += 1
    assert between > 5
    assert await deleting == Deletion(
        deleted={"sessions": 1, "episodes": 100, "summaries": 0}, points_queued=100, outbox_seq=store.peek(last_seq)
    )


@pytest.mark.usefixtures("_a_chunk_a_slice")
async def test_what_is_made_below_a_parent_while_it_goes_goes_too(store: Database) -> None:
    session = await a_session(store, "s", 40)
    deleting = asyncio.create_task(store.delete_in_slices(None, SESSION, lambda _db: session))
    made = 0
    for n in range(10):
        new = [NewEpisode(session_id=session, user_message=f"late {n}", ai_response="")]
        (answer,) = await store.write(insert_episodes, new, NOW_MS)
        made += not isinstance(answer, SessionNotFound)
    gone = await deleting
    assert isinstance(gone, Deletion)
    assert made > 0
    assert gone.deleted["episodes"] == gone.points_queued == 40 + made
    assert store.peek(rows, "episodes") == 0


class CutOffError(Exception):
    """As if the daemon died here."""


def cut_after(chunks: int, of: Cascade) -> Cascade:
    """The same cascade, until so many chunks are done."""
    left = [chunks]

    def below(db: Connection, parent_id: int, tally: slices.Tally, chunk: int) -> bool:
        if not left[0]:
            raise CutOffError
        left[0] -= 1
        return of.below(db, parent_id, tally, chunk)

    return dataclasses.replace(of, below=below)


@pytest.mark.usefixtures("_a_chunk_a_slice")
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_delete_that_is_cut_off_leaves_the_parent_and_the_same_call_finishes_it(
    tmp_path: Path, key: str | None
) -> None:
    kept = receipt(key) if key is not None else None
    async with open_database(tmp_path / "nexus.db") as store:
        session = await a_session(store, "s", 100)
        await a_session(store, "other", 5)
        with pytest.raises(CutOffError):
            await store.delete_in_slices(kept, cut_after(5, SESSION), lambda _db: session)
        assert store.peek(select_session, session).id == session
        assert store.peek(rows, "episodes WHERE session_id = 1") == 100 - 5 * 8
        assert store.peek(rows, "outbox WHERE op = 'delete'") == 5 * 8
    async with open_database(tmp_path / "nexus.db") as store:
        with pytest.raises(CutOffError):  # and once more
            await store.delete_in_slices(kept, cut_after(2, SESSION), lambda _db: session)
        gone = await store.delete_in_slices(kept, SESSION, lambda _db: session)
        assert isinstance(gone, Deletion)
        # under a key all that went under it; else what this call deleted itself
        episodes = 100 if key else 100 - 7 * 8
        assert (gone.deleted, gone.points_queued) == (
            {"sessions": 1, "episodes": episodes, "summaries": 0}, episodes,
        )
        assert [store.peek(rows, table) for table in ("sessions", "episodes")] == [1, 5]
        if kept is not None:
            again = await store.delete_in_slices(kept, SESSION, lambda _db: session)
            assert not isinstance(again, Deletion)
            assert b'"episodes":100' in bytes(again)


@pytest.mark.usefixtures("_a_chunk_a_slice")
async def test_the_same_call_twice_at_once_counts_every_row_once(store: Database) -> None:
    session = await a_session(store, "s", 100)
    calls = [store.delete_in_slices(receipt("k"), SESSION, lambda _db: session) for _ in range(3)]
    answers = await asyncio.gather(*calls)
    counted = [answer for answer in answers if isinstance(answer, Deletion)]
    assert [answer.deleted["episodes"] for answer in counted] == [100]


@pytest.mark.usefixtures("_a_chunk_a_slice")
async def test_a_key_whose_call_was_cut_off_is_taken_for_that_call_alone(store: Database) -> None:
    session = await a_session(store, "s", 100)
    with pytest.raises(CutOffError):
        await store.delete_in_slices(receipt("k"), cut_after(2, SESSION), lambda _db: session)
    with pytest.raises(IdempotencyMismatch):
        await store.delete_in_slices(receipt("k", b"other"), SESSION, lambda _db: session)
    with pytest.raises(IdempotencyMismatch):
        await store.write_once(receipt("k", b"other"), insert_session, CreateSession(external_id="x"), NOW_MS)


@pytest.mark.usefixtures("_a_chunk_a_slice")
async def test_a_name_that_is_given_away_between_two_slices_is_not_followed(store: Database) -> None:
    session = await a_session(store, "s", 100)
    find = partial(session_to_delete, DeleteSession(external_id="s"))
    deleting = asyncio.create_task(store.delete_in_slices(None, SESSION, find))
    await asyncio.sleep(0)  # it has begun
    await store.write(lambda db: db.execute("UPDATE sessions SET external_id = 'was s'").fetchall())
    heir = await a_session(store, "s", 1)
    gone = await deleting
    assert isinstance(gone, Deletion)
    assert gone.deleted["episodes"] == 100
    assert store.peek(rows, f"episodes WHERE session_id = {heir}") == 1
    with pytest.raises(SessionNotFound):
        store.peek(select_session, session)


async def test_a_parent_that_is_not_there_is_not_found_and_leaves_no_receipt(store: Database) -> None:
    with pytest.raises(SessionNotFound):
        await store.delete_in_slices(receipt("k"), SESSION, nowhere)
    assert store.peek(rows, "idempotency") == 0
