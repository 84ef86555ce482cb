"""Rows on their way into the daemon's store, whatever file they are of.

Owns the batches that a message takes, their answers, and what tells a row from others that say the same. Keeps nothing
beside the store: what was taken is found there again, so that an import may be stopped at any point and run again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import BadName, InvalidParams, RpcError, TooLarge
from nexusd.model.imports import LastIds

MAX_ROWS = 500
MAX_BYTES = 512 * 1024  # of a batch: half of what a message on TCP may have
TIMEOUT_S = 60.0

# Of tables whose rows need not be unique: where a row is, and what tells it from the others there.
ALIKE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "projects": ((), ("name", "createdAt")),
    "episodes": (("sessionId", "createdAt"), ("userMessage", "aiResponse")),
    "summaries": (("sessionId", "createdAt"), ("content",)),
    "groups": ((), ("name", "createdAt")),
    "conversations": (("createdAt",), ("title", "userId")),
    "messages": (("conversationId", "createdAt"), ("role", "content")),
    "toolLogs": (("createdAt",), ("tool", "arguments", "result", "error")),
}


Given = ParamSpec("Given")


class Row(Protocol):
    """A row of a file, as the daemon's parameters."""

    @property
    def fields(self) -> dict[str, Any]:
        """By name; references are this store's ids by the time it is sent."""


AnyRow = TypeVar("AnyRow", bound=Row)


class RowRefusal(msgspec.Struct):
    """Why a row was not taken."""

    message: str
    data: dict[str, Any] = {}


class Answer(msgspec.Struct):
    """What became of a row."""

    id: int | str | None = None
    outcome: str = ""
    error: RowRefusal | None = None


class _Answers(msgspec.Struct):
    items: list[Answer]


class RowSender:
    """Sends one table's rows after another's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: Counter[bytes] = Counter()
        self._taken: Counter[tuple[Any, ...]] = Counter()   # rows that are here because of this file, by place

    def begin(self) -> LastIds:
        """Begin a table.

        Asked anew for each: others may write meanwhile, and one id that is taken pushes all after it on.
        """
        self._seen.clear()
        self._taken.clear()
        return self._client.execute(Request("imports.lastIds", {}, LastIds, mutates=False))

    def batches(self, table: str, rows: Iterable[AnyRow]) -> Iterator[list[AnyRow]]:
        """Rows in messages that are not too large. Whoever takes one tells what became of it before the next."""
        batch: list[AnyRow] = []
        size = 0
        for row in rows:
            length = len(msgspec.json.encode(row.fields))
            if batch and (len(batch) == MAX_ROWS or size + length > MAX_BYTES):
                yield batch
                batch, size = [], 0
            self._place(table, row.fields)
            batch.append(row)
            size += length
        if batch:
            yield batch

    def _place(self, table: str, fields: dict[str, Any]) -> None:
        """Say which of several equal rows it is, and how many of its neighbours are here because of this file."""
        if table not in ALIKE:
            return
        place = _place_of(table, fields)
        # by this store's ids: rows that belong to different ones in the file may belong to one here
        texts = msgspec.msgpack.encode([*place, *(fields.get(name) for name in ALIKE[table][1])])
        digest = hashlib.blake2b(texts, digest_size=16).digest()
        fields["occurrence"] = self._seen[digest]
        fields["takenBefore"] = self._taken[place]
        self._seen[digest] += 1

    def sent(self, table: str, rows: Sequence[Row], **how: Any) -> list[Answer]:
        """Store them."""
        return self._sent("imports.store", {"table": table, **how}, rows)

    def compared(self, table: str, rows: Sequence[Row]) -> list[Answer]:
        """Look where they are, and write nothing."""
        return self._sent("imports.compare", {"table": table}, rows)

    def _sent(self, method: str, params: dict[str, Any], rows: Sequence[Row]) -> list[Answer]:
        items = [row.fields for row in rows]
        request = Request(method, {**params, "items": items}, _Answers, mutates=method == "imports.store")
        try:
            return self._client.execute(request, timeout_s=TIMEOUT_S).items
        except TooLarge as error:
            if len(rows) == 1:
                return [Answer(error=RowRefusal(error.message))]
            middle = len(rows) // 2
            return self._sent(method, params, rows[:middle]) + self._sent(method, params, rows[middle:])

    def settle(self, table: str, fields: dict[str, Any], answer: Answer) -> None:
        """A row has its answer."""
        if answer.id is not None and table in ALIKE:
            self._taken[_place_of(table, fields)] += 1


def _place_of(table: str, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Where its like are looked for."""
    return tuple(fields.get(name) for name in ALIKE[table][0])


def answered(put: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
    """What became of a row that is a file, and is written by the method that anybody writes one by.

    Raises:
        RpcError, ClientError: it is not this file that is refused.
    """
    try:
        return put(*args, **kwargs)
    except (BadName, InvalidParams, TooLarge) as error:
        return Answer(error=RowRefusal(error.message))
    except RpcError as error:
        if error.kind != "bad_content":
            raise
        return Answer(error=RowRefusal(error.message))
