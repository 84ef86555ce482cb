"""imports.*: rows of another store, taken in without doubling what is here."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable

import apsw
import msgspec

from nexusd.api.bulk import checked_items, write_together
from nexusd.api.receipts import receipt_for
from nexusd.errors import RpcError
from nexusd.model.bulk import Answers, ItemError
from nexusd.model.fields import NoParams, Params
from nexusd.model.imports import (
    ComparedRow,
    CompareImports,
    ImportedRow,
    ImportTable,
    ImportVector,
    LastIds,
    Rule,
    StoreImports,
)
from nexusd.model.numbers import FLOAT_BYTES, packed
from nexusd.store.database import Database
from nexusd.store.import_targets import TARGETS
from nexusd.store.imports import compare_rows, import_rows, last_ids
from nexusd.wire.methods import Call, Method
from nexusd.wire.replies import error_object


class ImportsApi:
    """The methods on imports."""

    def __init__(self, store: Database, space: Callable[[], tuple[str, int]]) -> None:
        """`space` is the embedding model that a caller's own vectors belong to, and the dimension they must have."""
        self._store = store
        self._space = space

    async def store(self, call: Call, params: StoreImports) -> Answers[ImportedRow] | msgspec.Raw:
        """Take rows in."""
        receipt = receipt_for(call, "imports.store", params)
        model, dimension = self._space()
        rows = self._checked(params, call, dimension if params.model == model else None)
        return await self._store.write_once(
            receipt, _store, rows, call.request_id, params.table, model, params.on_conflict
        )

    async def compare(self, call: Call, params: CompareImports) -> Answers[ComparedRow]:
        """Say which rows are here."""
        model, _ = self._space()
        rows = self._checked(params, call, None)
        return await self._store.read(_compare, rows, call.request_id, params.table, model)

    def _checked(
        self, params: StoreImports | CompareImports, call: Call, vectors_of: int | None
    ) -> list[Params | ItemError]:
        model, dimension = self._space()
        items = checked_items(TARGETS[params.table].row, params.items, call)
        return [
            _with_vector(_fitting(row, model, dimension, place, call), vectors_of) for place, row in enumerate(items)
        ]

    def last_ids(self, _call: Call, _params: NoParams) -> LastIds:
        """The largest ids."""
        return self._store.peek(last_ids, self._space()[0])

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="imports.store",
                summary="Take up to 500 rows of another store in; a row that is here already is not doubled.",
                params=StoreImports,
                result=Answers[ImportedRow],
                handler=self.store,
                role="admin",
                mutates=True,
                subject=lambda params, result: {
                    "table": params.table,
                    "inserted": sum(1 for row in result.items if getattr(row, "outcome", "") == "inserted"),
                },
            ),
            Method(
                name="imports.compare",
                summary="Tell which rows of another store are here, and whether they say the same; writes nothing.",
                params=CompareImports,
                result=Answers[ComparedRow],
                handler=self.compare,
                role="admin",
            ),
            Method(
                name="imports.lastIds",
                summary="Tell the largest id that each table ever used; imported rows with larger ones keep theirs.",
                params=NoParams,
                result=LastIds,
                handler=self.last_ids,
                role="admin",
                immediate=True,
                example={},
            ),
        ]


def _fitting(row: Params | ItemError, model: str, dimension: int, place: int, call: Call) -> Params | ItemError:
    """The row, or what is wrong with its own vector: one that the index refuses would be a dead letter."""
    if isinstance(row, ImportVector) and row.embedding is not None:
        served = row.embedding_model in {None, model}   # another model's means nothing here until that one serves
        try:
            packed(row.embedding, dimension if served else len(row.embedding), f"items[{place}].embedding")
        except RpcError as error:
            return ItemError(error_object(error, call.request_id))
    return row


def _with_vector(row: Params | ItemError, dimension: int | None) -> Params | ItemError:
    """The row, without the vector that was made of it where the index would refuse that: it is made again."""
    vector = getattr(row, "vector", None)
    if vector is None or isinstance(row, ItemError) or (dimension is not None and _usable(vector, dimension)):
        return row
    return msgspec.structs.replace(row, vector=None)


def _usable(vector: str, dimension: int) -> bool:
    try:
        packed_vector = base64.b64decode(vector, validate=True)
    except binascii.Error:
        return False
    if len(packed_vector) != FLOAT_BYTES * dimension:
        return False
    numbers = struct.unpack(f"<{dimension}f", packed_vector)
    return any(numbers) and math.isfinite(math.fsum(map(abs, numbers)))


def _store(
    db: apsw.Connection, rows: list[Params | ItemError], request_id: str, table: ImportTable, model: str,
    rule: Rule | None,
) -> Answers[ImportedRow]:
    return write_together(db, rows, request_id, lambda db, good: import_rows(db, good, table, model, rule))


def _compare(
    db: apsw.Connection, rows: list[Params | ItemError], request_id: str, table: ImportTable, model: str
) -> Answers[ComparedRow]:
    return write_together(db, rows, request_id, lambda db, good: compare_rows(db, good, table, model))
