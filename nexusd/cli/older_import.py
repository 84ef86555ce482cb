"""The database of an older service, taken into the daemon's store.

Owns the course: tables in the order in which they refer to each other, whose id became whose, and what has no place of
its own here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from nexusd.cli.import_report import ImportReport, TableReport
from nexusd.cli.import_rows import Answer, RowSender, answered
from nexusd.cli.older_files import OlderFile, OlderRow, OlderTable, RowError
from nexusd.cli.transfer_progress import Progress
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import Conflict, DimensionMismatch, InvalidParams
from nexusd.model.numbers import packed
from nexusd.model.system import SystemStatus

LOOSE_MESSAGES = "Imported messages of no conversation"


class OlderImport:
    """One run of an import."""

    def __init__(self, client: Client, file: OlderFile, path: Path, progress: Progress) -> None:
        self.report = ImportReport(file=str(path), kinds=list(file.kinds))
        self._client = client
        self._sender = RowSender(client)
        self._file = file
        self._progress = progress
        self._ids: dict[str, dict[object, int | str]] = {}
        self._loose_messages: int | str | None = None
        self._dimension: int | None = None

    def run(self) -> ImportReport:
        """Take everything over that can be.

        Raises:
            RpcError, ClientError: the daemon refuses as a whole, or is gone; run it again to go on.
        """
        for table in self._file.tables():
            report = self.report.table(table.target, self._file.count(table))
            self._progress.table(table.target, report.rows)
            self._ids[table.table] = {}
            last_ids = self._sender.begin().tables
            ready = self._ready(table, report, last_ids.get(table.target))
            for batch in self._sender.batches(table.target, ready):
                self._send(table, report, batch)
        return self.report

    def _ready(self, table: OlderTable, report: TableReport, last_id: int | None) -> Iterator[OlderRow]:
        """The rows that can be sent; the others are refused."""
        for row in self._file.rows(table, last_id):
            if isinstance(row, tuple):
                self._refuse(report, row[0], str(row[1]))
                continue
            try:
                ready = OlderRow(row.id, self._resolved(table, row.fields))
            except RowError as error:
                self._refuse(report, row.id, str(error))
                continue
            yield ready

    def _resolved(self, table: OlderTable, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with this store's ids in place of the file's.

        Raises:
            RowError: a row that it needs was not taken.
        """
        fields = dict(fields)
        for name, parent in table.references.items():
            if name not in fields:
                continue
            new = _one_of(self._ids.get(parent, {}), fields[name])
            if new is None and name in table.required:
                raise RowError(f"{name} {fields[name]} is not among the {parent}")
            if new is None:
                del fields[name]  # the older services let such a reference dangle
            else:
                fields[name] = new
        if table.target == "messages" and "conversationId" not in fields:
            fields["conversationId"] = self._conversation_of_loose_messages()
        embedding = fields.get("embedding")
        if embedding is not None and not self._fits(embedding):
            del fields["embedding"]
            self.report.embeddings_left_out += 1
        return fields

    def _fits(self, embedding: object) -> bool:
        if self._dimension is None:
            self._dimension = self._client.execute(
                Request("system.status", {}, SystemStatus, mutates=False)
            ).embedder.dimension
        if not isinstance(embedding, list) or not all(type(number) in {int, float} for number in embedding):
            return False
        try:    # by the rule for what callers store: zeros, say of an embedding that failed, would be a dead letter
            packed(embedding, self._dimension, "embedding")
        except (DimensionMismatch, InvalidParams):
            return False
        return True

    def _conversation_of_loose_messages(self) -> int | str:
        """One conversation for all messages that belong to none; the same whatever the file is called by now."""
        if self._loose_messages is None:
            row = OlderRow(LOOSE_MESSAGES, {"title": LOOSE_MESSAGES, "createdAt": 0})
            (answer,) = self._sender.sent("conversations", [row])
            if answer.id is None:
                raise RowError("no conversation could be made for it")
            self._loose_messages = answer.id
        return self._loose_messages

    def _send(self, table: OlderTable, report: TableReport, batch: list[OlderRow]) -> None:
        if table.target == "presets":
            answers = [answered(self._preset, row.fields) for row in batch]
        else:
            answers = self._sender.sent(table.target, batch)
        for row, answer in zip(batch, answers, strict=True):
            self._sender.settle(table.target, row.fields, answer)
            if answer.id is None:
                self._refuse(report, row.id, answer.error.message if answer.error else "no answer")
                continue
            self._ids[table.table][row.id] = answer.id
            report.count(answer.outcome, new_id=table.own_ids and answer.id != row.id)
            self._progress.advance(1)

    def _preset(self, fields: dict[str, Any]) -> Answer:
        params = {"name": fields["name"], "content": fields.get("content", {})}
        try:
            self._client.execute(Request("presets.create", params, msgspec.Raw, mutates=True))
        except Conflict:
            return Answer(fields["name"], "existing")
        return Answer(fields["name"], "inserted")

    def _refuse(self, report: TableReport, row_id: object, reason: str) -> None:
        self.report.refuse(report, row_id, reason)
        self._progress.advance(1)


def _one_of(ids: dict[object, int | str], wanted: object) -> int | str | None:
    """The new id for one of the file's; 5 and '5' are one to SQLite where columns differ in type."""
    if wanted in ids:
        return ids[wanted]
    if isinstance(wanted, str) and wanted.isascii() and wanted.isdigit() and len(wanted) < 20:
        return ids.get(int(wanted))
    return ids.get(str(wanted)) if isinstance(wanted, int) else None


def import_older(client: Client, path: Path, progress: Progress) -> ImportReport:
    """Take an older service's file over.

    Raises:
        OlderFileError: it is no older service's database.
    """
    with closing(OlderFile(path)) as file:
        return OlderImport(client, file, path, progress).run()
