"""nexusctl import: an export, or the database of an older service, taken over.

Owns the command, and the course of an import from an older service: tables in the order in which they refer to each
other, batches, whose id became whose, and the account at the end. Keeps nothing beside the store: what was taken is
found there again, so that an import may be stopped at any point and run again.
"""

from __future__ import annotations

import enum
import hashlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nexusd.cli.export_import import ALIKE, describe_transfer, import_export
from nexusd.cli.export_reading import ExportFile, is_export
from nexusd.cli.invocation import Json, invocation_of, write
from nexusd.cli.older_files import OlderFile, OlderRow, OlderTable, RowError
from nexusd.cli.params import ParameterError
from nexusd.cli.texts import safe
from nexusd.cli.transfer_progress import Progress, shown_progress
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import BadName, Conflict, DimensionMismatch, InvalidParams, RpcError, TooLarge
from nexusd.model.imports import LastIds
from nexusd.model.numbers import packed
from nexusd.model.system import SystemStatus

MAX_ROWS = 500
MAX_BYTES = 512 * 1024  # of a batch: half of what a message on TCP may have
SHOWN_REFUSALS = 20
SOME_REFUSED = 1  # exit code
LOOSE_MESSAGES = "Imported messages of no conversation"
TIMEOUT_S = 60.0


class OnConflict(enum.Enum):
    """What becomes of a row that is here and says something else."""

    skip = "skip"
    update = "update"
    fail = "fail"


class _Error(msgspec.Struct):
    message: str


class _Answer(msgspec.Struct):
    id: int | str | None = None
    outcome: str = ""
    error: _Error | None = None


class _Answers(msgspec.Struct):
    items: list[_Answer]


class Refusal(msgspec.Struct, frozen=True):
    """A row that was not taken, and why."""

    table: str
    id: Any
    reason: str


class TableReport(msgspec.Struct, rename="camel"):
    """What came of one table's rows."""

    table: str
    rows: int
    inserted: int = 0
    existing: int = 0
    refused: int = 0
    new_ids: int = 0  # inserted under another id than in the file


class ImportReport(msgspec.Struct, rename="camel"):
    """What came of a file."""

    file: str
    kinds: list[str]
    tables: list[TableReport]
    refusals: list[Refusal]
    embeddings_left_out: int = 0  # that the daemon's model could not have made: their texts are embedded anew


class Importer:
    """One run of an import."""

    def __init__(self, client: Client, file: OlderFile, path: Path, progress: Progress) -> None:
        self.report = ImportReport(str(path), list(file.kinds), [], [])
        self._client = client
        self._file = file
        self._progress = progress
        self._ids: dict[str, dict[object, int | str]] = {}
        self._loose_messages: int | str | None = None
        self._seen: Counter[bytes] = Counter()
        self._taken: Counter[tuple[Any, ...]] = Counter()   # rows that are here because of this file, by place
        self._dimension: int | None = None

    def run(self) -> ImportReport:
        """Take everything over that can be.

        Raises:
            RpcError, ClientError: the daemon refuses as a whole, or is gone; run it again to go on.
        """
        for table in self._file.tables():
            report = TableReport(table.target, self._file.count(table))
            self.report.tables.append(report)
            self._progress.table(table.target, report.rows)
            self._ids[table.table] = {}
            self._seen.clear()
            self._taken.clear()
            # asked anew for each: others may write meanwhile, and one id that is taken pushes all after it on
            last_ids = self._client.execute(Request("imports.lastIds", {}, LastIds, mutates=False)).tables
            for batch in self._batches(table, report, last_ids.get(table.target)):
                self._send(table, report, batch)
        return self.report

    def _batches(self, table: OlderTable, report: TableReport, last_id: int | None) -> Iterator[list[OlderRow]]:
        batch: list[OlderRow] = []
        size = 0
        for row in self._file.rows(table, last_id):
            if isinstance(row, tuple):
                self._refuse(report, row[0], str(row[1]))
                continue
            try:
                ready = OlderRow(row.id, self._resolved(table, row.fields))
            except RowError as error:
                self._refuse(report, row.id, str(error))
                continue
            length = len(msgspec.json.encode(ready.fields))
            if batch and (len(batch) == MAX_ROWS or size + length > MAX_BYTES):
                yield batch
                batch, size = [], 0
            if table.same:
                ready.fields["takenBefore"] = self._taken[_place(table.target, ready.fields)]
            batch.append(ready)
            size += length
        if batch:
            yield batch

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
        if table.same:  # counted here: rows that belong to different ones in the file may belong to one here
            said = hashlib.sha256(repr([fields.get(name) for name in table.same]).encode()).digest()
            fields["occurrence"] = self._seen[said]
            self._seen[said] += 1
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
            row = {"title": LOOSE_MESSAGES, "createdAt": 0}
            (answer,) = self._store("conversations", [row])
            if answer.id is None:
                raise RowError("no conversation could be made for it")
            self._loose_messages = answer.id
        return self._loose_messages

    def _store(self, target: str, items: list[dict[str, Any]]) -> list[_Answer]:
        request = Request("imports.store", {"table": target, "items": items}, _Answers, mutates=True)
        return self._client.execute(request, timeout_s=TIMEOUT_S).items

    def _send(self, table: OlderTable, report: TableReport, batch: list[OlderRow]) -> None:
        if table.target == "presets":
            answers = [self._preset(row.fields) for row in batch]
        else:
            answers = self._stored(table.target, batch)
        ids = self._ids[table.table]
        for row, answer in zip(batch, answers, strict=True):
            if answer.id is None:
                self._refuse(report, row.id, answer.error.message if answer.error else "no answer")
                continue
            ids[row.id] = answer.id
            self._taken[_place(table.target, row.fields)] += 1
            if answer.outcome == "existing":
                report.existing += 1
            else:
                report.inserted += 1
                report.new_ids += table.own_ids and answer.id != row.id
        self._progress.advance(sum(answer.id is not None for answer in answers))    # the others were when refused

    def _stored(self, target: str, batch: list[OlderRow]) -> list[_Answer]:
        try:
            return self._store(target, [row.fields for row in batch])
        except TooLarge as error:
            if len(batch) == 1:
                return [_Answer(error=_Error(error.message))]
            middle = len(batch) // 2
            return self._stored(target, batch[:middle]) + self._stored(target, batch[middle:])

    def _preset(self, fields: dict[str, Any]) -> _Answer:
        """Presets are files: each is made by the method that anybody makes one by."""
        params = {"name": fields["name"], "content": fields.get("content", {})}
        try:
            self._client.execute(Request("presets.create", params, msgspec.Raw, mutates=True))
        except Conflict:
            return _Answer(fields["name"], "existing")
        except (BadName, InvalidParams, TooLarge) as error:
            return _Answer(error=_Error(error.message))
        except RpcError as error:
            if error.kind != "bad_content":
                raise
            return _Answer(error=_Error(error.message))
        return _Answer(fields["name"], "inserted")

    def _refuse(self, report: TableReport, row_id: object, reason: str) -> None:
        report.refused += 1
        shown = row_id if isinstance(row_id, int | str) or row_id is None else str(row_id)
        self.report.refusals.append(Refusal(report.table, shown, reason))
        self._progress.advance(1)


def _place(target: str, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Where its like are looked for."""
    return tuple(fields.get(name) for name in ALIKE[target][0]) if target in ALIKE else ()


def _one_of(ids: dict[object, int | str], wanted: object) -> int | str | None:
    """The new id for one of the file's; 5 and '5' are one to SQLite where columns differ in type."""
    if wanted in ids:
        return ids[wanted]
    if isinstance(wanted, str) and wanted.isascii() and wanted.isdigit() and len(wanted) < 20:
        return ids.get(int(wanted))
    return ids.get(str(wanted)) if isinstance(wanted, int) else None


def import_(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE|-", help="An export, or the SQLite file of an older service; - is stdin.")
    ],
    on_conflict: Annotated[
        OnConflict, typer.Option(help="What becomes of a row that is here and says something else.")
    ] = OnConflict.skip,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken, and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Take in what nexusctl export wrote, or the database of the memory service or of the storage core.

    What is here already is not doubled: an import may be stopped and run again. Exit code 1: some rows were not taken.
    """
    invocation = invocation_of(ctx, json=json)
    with spooled(file) as path, invocation.client() as nexus:
        if is_export(path):
            with shown_progress() as progress:
                taken = import_export(
                    nexus, ExportFile(path), progress, rule=on_conflict.value, dry_run=dry_run
                )
            write(msgspec.json.encode(taken) if invocation.json else describe_transfer(taken, safe).encode())
            refused = bool(taken.refusals)
        else:
            if dry_run or on_conflict is not OnConflict.skip:
                raise ParameterError("--dry-run and --on-conflict are for files of nexusctl export")
            report = import_file(nexus, path)
            write(msgspec.json.encode(report) if invocation.json else describe_report(report).encode())
            refused = bool(report.refusals)
    if refused:
        raise typer.Exit(SOME_REFUSED)


@contextmanager
def spooled(file: Path) -> Iterator[Path]:
    """The file; standard input as one, since all of it is checked before any of it is used."""
    if str(file) != "-":
        yield file
        return
    with tempfile.NamedTemporaryFile(prefix="nexusctl-import-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Path(spool.name)


def import_file(client: Client, path: Path) -> ImportReport:
    """Take an older service's file over.

    Raises:
        OlderFileError: it is no older service's database.
    """
    with closing(OlderFile(path)) as file, shown_progress() as progress:
        return Importer(client, file, path, progress).run()


def describe_report(report: ImportReport) -> str:
    """The account at the end, for people."""
    width = max((len(table.table) for table in report.tables), default=0)
    lines = [f"{' and '.join(report.kinds)}: {report.file}"]
    for table in report.tables:
        parts = [f"{table.inserted} taken"]
        if table.new_ids:
            parts.append(f"{table.new_ids} of them under a new id")
        if table.existing:
            parts.append(f"{table.existing} were here already")
        if table.refused:
            parts.append(f"{table.refused} not taken")
        lines.append(f"  {table.table:<{width}}  {', '.join(parts)}")
    if report.embeddings_left_out:
        lines.append(f"embeddings that do not fit: {report.embeddings_left_out}; their texts are embedded anew")
    lines += (f"not taken: {one.table} {one.id}: {safe(one.reason)}" for one in report.refusals[:SHOWN_REFUSALS])
    if len(report.refusals) > SHOWN_REFUSALS:
        lines.append(f"... and {len(report.refusals) - SHOWN_REFUSALS} more; --json lists all")
    lines.append("What was taken is found by words at once; the vector index follows (nexusctl status).")
    return "\n".join(lines)
