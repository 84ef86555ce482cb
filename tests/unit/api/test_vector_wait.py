from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from nexusd.api.bulk import kept_answers
from nexusd.api.vector_wait import VectorWait
from nexusd.errors import EntityNotFound
from nexusd.model.bulk import Answers, ItemError
from nexusd.model.entities import UpsertedEntity, UpsertEntities, UpsertEntity
from nexusd.model.fields import VectorState
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.sync.worker import OutboxWorker

pytestmark = pytest.mark.anyio


class Rows:
    """Store and worker as far as waiting goes: rows become indexed once they were waited for."""

    def __init__(self, *ids: int) -> None:
        self.states: dict[int, VectorState] = dict.fromkeys(ids, "pending")
        self.waits: list[tuple[str, list[int], float]] = []

    def peek(self, function: Any, *args: Any) -> Any:
        return function(None, *args)

    async def wait_for(self, collection: str, ids: Sequence[int], timeout_s: float) -> None:
        self.waits.append((collection, list(ids), timeout_s))
        self.states.update({id_: "indexed" for id_ in ids if id_ in self.states})

    def select(self, _db: Connection, id_: int) -> UpsertedEntity:
        if id_ not in self.states:
            raise EntityNotFound
        return row(id_, self.states[id_], notes="changed since")

    def waiting(self) -> VectorWait[UpsertedEntity]:
        store, worker = cast("Database", self), cast("OutboxWorker", self)
        return VectorWait(store, worker, "entities", UpsertedEntity, self.select)


def row(id_: int, vector: VectorState = "pending", notes: str | None = None) -> UpsertedEntity:
    return UpsertedEntity(
        id=id_, name="n", type="t", notes=notes, metadata={}, version=1, created_at=1, updated_at=1, vector=vector,
        created=True,
    )


def one(wait_for: Any = "indexed") -> UpsertEntity:
    return UpsertEntity(name="n", type="t", wait_for=wait_for, timeout_ms=1500)


def many(wait_for: Any = "indexed") -> UpsertEntities:
    return UpsertEntities(items=[{}], wait_for=wait_for, timeout_ms=1500)


async def test_who_does_not_wait_is_answered_at_once_with_what_there_is() -> None:
    rows = Rows(1)
    kept = msgspec.Raw(b"{}")
    assert await rows.waiting().one(kept, one(None)) is kept
    assert await rows.waiting().each(kept, many(None)) is kept
    assert rows.waits == []


async def test_the_reply_is_the_row_as_it_was_written_with_the_state_as_it_is_now() -> None:
    rows = Rows(1)
    assert await rows.waiting().one(row(1), one()) == row(1, "indexed")
    assert rows.waits == [("entities", [1], 1.5)]


async def test_a_row_that_went_while_it_was_waited_for_has_no_vector() -> None:
    assert await Rows().waiting().one(row(1), one()) == row(1, "none")


async def test_a_repeated_call_waits_as_the_first_one_did_and_its_reply_is_no_change() -> None:
    rows = Rows(1, 2)
    again = await rows.waiting().one(msgspec.Raw(msgspec.json.encode(row(1))), one())
    assert isinstance(again, msgspec.Raw)   # what dispatch tells nobody as an event
    assert msgspec.json.decode(again, type=UpsertedEntity) == row(1, "indexed")
    answers = Answers([row(1), ItemError({"code": 1}), row(2)])
    both = await rows.waiting().each(msgspec.Raw(msgspec.json.encode(answers)), many())
    assert isinstance(both, msgspec.Raw)
    waited = Answers([row(1, "indexed"), ItemError({"code": 1}), row(2, "indexed")])
    assert kept_answers(both, UpsertedEntity) == waited
    assert await rows.waiting().each(answers, many()) == waited
    assert rows.waits[1:] == [("entities", [1, 2], 1.5)] * 2


async def test_nobody_waits_for_items_that_were_all_refused() -> None:
    rows = Rows(1)
    answers: Answers[UpsertedEntity] = Answers([ItemError({"code": 1})])
    assert await rows.waiting().each(answers, many()) == answers
    assert rows.waits == []     # waiting for no rows would be waiting for all there are
