"""The rows of an export, taken into the daemon's store.

Owns the course: tables in the order of the file, whose id became whose, and what becomes of a row that is here and says
something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nexusd.cli.export_reading import ExportFile, FileRow, Outline, Stretch
from nexusd.cli.import_report import ImportReport, TableReport, listed
from nexusd.cli.import_rows import Answer, RowRefusal, RowSender, answered
from nexusd.cli.transfer_progress import Progress
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import NotFound
from nexusd.model.imports import Rule

# The fields that hold other rows' ids: the table, and whether the row is nothing without it.
REFERENCES: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "sessions": {"projectId": ("projects", False)},
    "episodes": {"sessionId": ("sessions", True)},
    "summaries": {
        "sessionId": ("sessions", True), "firstEpisodeId": ("episodes", False), "lastEpisodeId": ("episodes", False),
    },
    "relationships": {"fromId": ("entities", True), "toId": ("entities", True)},
    "conversations": {"groupId": ("groups", False)},
    "messages": {"conversationId": ("conversations", True)},
    "toolLogs": {"conversationId": ("conversations", False)},
}
# Files, each written by the method that anybody writes one by: the field that is compared, and the methods.
FILES: Mapping[str, tuple[str, str, str]] = {
    "presets": ("content", "presets.get", "presets.put"),
    "tools": ("source", "tools.get", "tools.put"),
    "mcpServers": ("config", "mcpServers.get", "mcpServers.put"),
}
_REFERRED_TO = frozenset(parent for fields in REFERENCES.values() for parent, _ in fields.values())


class ConflictFound(ValueError):
    """A row is here and says something else, and the rule is to fail; the message names the line."""


class Transfer:
    """One run over a file that was found whole."""

    def __init__(
        self, client: Client, file: ExportFile, outline: Outline, progress: Progress, *, rule: Rule, dry_run: bool
    ) -> None:
        self.report = ImportReport(file=str(file.path), kinds=["export"], dry_run=dry_run)
        self._client = client
        self._sender = RowSender(client)
        self._file = file
        self._outline = outline
        self._progress = progress
        self._rule = rule
        self._dry_run = dry_run
        self._ids: dict[str, dict[int, int | None]] = {}   # None: it would be inserted, by a run that is not dry
        self._model = ""

    def run(self) -> ImportReport:
        """Take everything that can be.

        Raises:
            ConflictFound: the rule is to fail.
            RpcError, ClientError: the daemon refuses as a whole, or is gone; run it again to go on.
        """
        for stretch in self._outline.stretches:
            report = self.report.table(stretch.table, stretch.rows)
            self._progress.table(stretch.table, stretch.rows)
            if stretch.table in FILES:
                for row in self._file.rows(stretch, None):
                    self._account(report, row, answered(self._take_file, stretch.table, row))
            else:
                self._take_rows(stretch, report)
        return self.report

    def _take_rows(self, stretch: Stretch, report: TableReport) -> None:
        self._ids[stretch.table] = {}
        last = self._sender.begin()
        self._model = last.model
        self.report.vectors = self._outline.header.vectors and self._outline.header.model.key == last.model
        ready = self._ready(stretch, report, last.tables.get(stretch.table))
        for batch in self._sender.batches(stretch.table, ready):
            for row, answer in zip(batch, self._sent(stretch.table, batch), strict=True):
                self._settle(stretch.table, row, answer)
                self._account(report, row, answer)

    def _ready(self, stretch: Stretch, report: TableReport, last_id: int | None) -> Iterator[FileRow]:
        """The rows that are to be sent; the others have their answers."""
        for row in self._file.rows(stretch, last_id):
            if (answer := self._resolve(stretch.table, row.fields)) is None:
                yield row
                continue
            self._settle(stretch.table, row, answer)
            self._account(report, row, answer)

    def _resolve(self, table: str, fields: dict[str, Any]) -> Answer | None:
        """Put this store's ids in place of the file's. An answer at once, where the daemon need not be asked."""
        for name, (parent, required) in REFERENCES.get(table, {}).items():
            old = fields.get(name)
            if old is None:
                continue
            known = self._ids.get(parent, {})
            if old in known and known[old] is not None:
                fields[name] = known[old]
            elif not required:
                del fields[name]    # gone when it was exported, or not there yet in a dry run
            elif old in known:
                return Answer(outcome="new")
            else:
                return Answer(error=RowRefusal(f"{name}: {old} is not among the {parent} that were taken"))
        if not self.report.vectors:
            fields.pop("vector", None)
            fields.pop("textHash", None)
        return None

    def _sent(self, table: str, batch: list[FileRow]) -> list[Answer]:
        if self._dry_run:
            return self._sender.compared(table, batch)
        return self._sender.sent(table, batch, onConflict=self._rule, model=self._model)

    def _settle(self, table: str, row: FileRow, answer: Answer) -> None:
        """Remember where the row is now."""
        if answer.error is None and table in _REFERRED_TO and isinstance(row_id := row.fields.get("id"), int):
            self._ids[table][row_id] = answer.id if isinstance(answer.id, int) else None
        self._sender.settle(table, row.fields, answer)

    def _account(self, report: TableReport, row: FileRow, answer: Answer) -> None:
        self._progress.advance(1)
        if answer.error is not None:
            if self._rule == "fail" and answer.error.data.get("kind") == "conflict":
                raise ConflictFound(f"line {row.line}: {answer.error.message} Run it again with another rule.")
            row_id = row.fields.get("id", row.fields.get("name"))
            self.report.refuse(report, row_id, answer.error.message, row.line)
            return
        outcome = answer.outcome
        if outcome in {"kept", "different"}:
            self.report.conflicts.append(row.line)
        if outcome == "different":
            outcome = "updated" if self._rule == "update" else "kept"
        own_ids = report.table not in {"users", "vectors", *FILES}
        report.count(outcome, new_id=own_ids and answer.id is not None and answer.id != row.fields.get("id"))

    def _take_file(self, table: str, row: FileRow) -> Answer:
        """A preset, a tool or an entry of mcp-servers.json."""
        member, get, put = FILES[table]
        name, content = row.fields["name"], row.fields[member]
        try:
            here = self._client.execute(Request(get, {"name": name}, dict, mutates=False)).get(member)
        except NotFound:
            here = None
        if here is not None and _same(here, content):
            return Answer(name, "existing")
        if here is not None and (self._dry_run or self._rule == "skip"):
            return Answer(name, "different" if self._dry_run else "kept")
        if here is not None and self._rule == "fail":
            return Answer(error=RowRefusal("It is here already and says something else.", {"kind": "conflict"}))
        if not self._dry_run:
            self._client.execute(Request(put, {"name": name, member: content}, msgspec.Raw, mutates=True))
        return Answer(name, "inserted" if here is None else "updated")


def _same(one: object, other: object) -> bool:
    """As JSON: to Python 1 and true are equal."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")


def import_export(
    client: Client, file: ExportFile, progress: Progress, *, rule: Rule, dry_run: bool
) -> ImportReport:
    """Check the file as a whole, then take it.

    Where the rule is to fail, a dry run comes first: with any conflict nothing is written.

    Raises:
        ExportFileError: the file is damaged, or no export. Nothing was written.
        ConflictFound: a row is here and says something else, and the rule is to fail.
    """
    outline = file.check(progress)

    def transfer(*, dry: bool) -> ImportReport:
        return Transfer(client, file, outline, progress, rule=rule, dry_run=dry).run()

    if rule == "fail" or dry_run:
        report = transfer(dry=True)
        if rule == "fail" and report.conflicts and not dry_run:
            raise ConflictFound(f"{listed(report.conflicts)}: here, saying something else. Nothing was written.")
        if dry_run:
            return report
    return transfer(dry=False)
