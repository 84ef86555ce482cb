"""imports.*: rows of another store, taken in without doubling what is here."""

from __future__ import annotations

from collections.abc import Callable

import apsw
import msgspec

from nexusd.api.bulk import checked_items, write_together
from nexusd.api.receipts import receipt_for
from nexusd.errors import RpcError
from nexusd.model.bulk import Answers, ItemError
from nexusd.model.fields import NoParams, Params
from nexusd.model.imports import ImportedRow, ImportTable, ImportVector, LastIds, StoreImports
from nexusd.model.numbers import packed
from nexusd.store.database import Database
from nexusd.store.imports import TARGETS, import_rows, last_ids
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
        rows = [
            _fitting(row, dimension, place, call)
            for place, row in enumerate(checked_items(TARGETS[params.table].row, params.items, call))
        ]
        return await self._store.write_once(receipt, _store, rows, call.request_id, params.table, model)

    def last_ids(self, _call: Call, _params: NoParams) -> LastIds:
        """The largest ids."""
        return self._store.peek(last_ids)

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


def _fitting(row: Params | ItemError, dimension: int, place: int, call: Call) -> Params | ItemError:
    """The row, or what is wrong with its own vector: one that the index refuses would be a dead letter."""
    if isinstance(row, ImportVector) and row.embedding is not None:
        try:
            packed(row.embedding, dimension, f"items[{place}].embedding")
        except RpcError as error:
            return ItemError(error_object(error, call.request_id))
    return row


def _store(
    db: apsw.Connection, rows: list[Params | ItemError], request_id: str, table: ImportTable, model: str
) -> Answers[ImportedRow]:
    return write_together(db, rows, request_id, lambda db, good: import_rows(db, good, table, model))
