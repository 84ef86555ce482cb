"""The rows of an export, taken into the daemon's store.

Owns the course: tables in the order of the file, batches, whose id became whose, what becomes of a row that is here
and says something else, and the account at the end. Keeps nothing beside the store: what was taken is found there
again, so that an import may be stopped at any point and run again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from nexusd.cli.export_reading import ExportFile, FileRow, Outline, Stretch
from nexusd.cli.transfer_progress import Progress
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import BadName, InvalidParams, NotFound, RpcError, TooLarge
from nexusd.model.imports import LastIds, Rule

MAX_ROWS = 500
MAX_BYTES = 512 * 1024  # of a batch: half of what a message on TCP may have
TIMEOUT_S = 60.0

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
# Files, each written by the method that anybody writes one by: the field that is compared, and the methods.
FILES: Mapping[str, tuple[str, str, str]] = {
    "presets": ("content", "presets.get", "presets.put"),
    "tools": ("source", "tools.get", "tools.put"),
    "mcpServers": ("config", "mcpServers.get", "mcpServers.put"),
}
_REFERRED_TO = frozenset(parent for fields in REFERENCES.values() for parent, _ in fields.values())


class Refusal(msgspec.Struct, frozen=True):
    """A row that was not taken, and why."""

    line: int
    table: str
    reason: str


class TableReport(msgspec.Struct, rename="camel"):
    """What came of one table's rows, or would."""

    table: str
    rows: int
    inserted: int = 0
    existing: int = 0   # and the same
    updated: int = 0
    kept: int = 0       # existing, and left as they were
    refused: int = 0
    new_ids: int = 0    # inserted under another id than in the file


class TransferReport(msgspec.Struct, rename="camel"):
    """What came of a file, or would. `vectors`: whether those in the file were of use."""

    file: str
    dry_run: bool
    vectors: bool
    tables: list[TableReport]
    refusals: list[Refusal]
    conflicts: list[int]    # lines of rows that are here and say something else


class _Error(msgspec.Struct):
    message: str
    data: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    id: int | str | None = None
    outcome: str = ""
    error: _Error | None = None


class _Answers(msgspec.Struct):
    items: list[_Answer]


class ConflictFound(ValueError):
    """A row is here and says something else, and the rule is to fail; the message names the line."""


class Transfer:
    """One run over a file that was found whole."""

    def __init__(
        self, client: Client, file: ExportFile, outline: Outline, progress: Progress, *, rule: Rule, dry_run: bool
    ) -> None:
        self.report = TransferReport(str(file.path), dry_run, vectors=False, tables=[], refusals=[], conflicts=[])
        self._client = client
        self._file = file
        self._outline = outline
        self._progress = progress
        self._rule = rule
        self._dry_run = dry_run
        self._ids: dict[str, dict[int, int | None]] = {}   # None: it would be inserted, by a run that is not dry
        self._seen: Counter[bytes] = Counter()
        self._taken: Counter[tuple[Any, ...]] = Counter()
        self._model = ""

    def run(self) -> TransferReport:
        """Take everything that can be.

        Raises:
            ConflictFound: the rule is to fail.
            RpcError, ClientError: the daemon refuses as a whole, or is gone; run it again to go on.
        """
        for stretch in self._outline.stretches:
            report = TableReport(stretch.table, stretch.rows)
            self.report.tables.append(report)
            self._progress.table(stretch.table, stretch.rows)
            if stretch.table in FILES:
                for row in self._file.rows(stretch, None):
                    self._account(report, row, self._take_file(stretch.table, row))
            else:
                self._take_rows(stretch, report)
        return self.report

    def _take_rows(self, stretch: Stretch, report: TableReport) -> None:
        self._ids[stretch.table] = {}
        self._seen.clear()
        self._taken.clear()
        # asked anew for each: others may write meanwhile, and one id that is taken pushes all after it on
        last = self._client.execute(Request("imports.lastIds", {}, LastIds, mutates=False))
        self._model = last.model
        self.report.vectors = self._outline.header.vectors and self._outline.header.model.key == last.model
        for batch in self._batches(stretch, report, last.tables.get(stretch.table)):
            for row, answer in zip(batch, self._sent(stretch.table, batch), strict=True):
                self._settle(stretch.table, row, answer)
                self._account(report, row, answer)

    def _batches(self, stretch: Stretch, report: TableReport, last_id: int | None) -> Iterator[list[FileRow]]:
        batch: list[FileRow] = []
        size = 0
        for row in self._file.rows(stretch, last_id):
            if (answer := self._resolve(stretch.table, row.fields)) is not None:
                self._settle(stretch.table, row, answer)
                self._account(report, row, answer)
                continue
            length = len(msgspec.json.encode(row.fields))
            if batch and (len(batch) == MAX_ROWS or size + length > MAX_BYTES):
                yield batch
                batch, size = [], 0
            self._place(stretch.table, row.fields)
            batch.append(row)
            size += length
        if batch:
            yield batch

    def _resolve(self, table: str, fields: dict[str, Any]) -> _Answer | None:
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
                return _Answer(outcome="new")
            else:
                return _Answer(error=_Error(f"{name}: {old} is not among the {parent} that were taken"))
        if not self.report.vectors:
            fields.pop("vector", None)
            fields.pop("textHash", None)
        return None

    def _place(self, table: str, fields: dict[str, Any]) -> None:
        """Say which of several equal rows it is, and how many of its neighbours are here because of this file."""
        if table not in ALIKE:
            return
        where, said = ALIKE[table]
        place = tuple(fields.get(name) for name in where)
        texts = msgspec.msgpack.encode([*place, *(fields.get(name) for name in said)])
        digest = hashlib.blake2b(texts, digest_size=16).digest()
        fields["occurrence"] = self._seen[digest]
        fields["takenBefore"] = self._taken[place]
        self._seen[digest] += 1

    def _sent(self, table: str, batch: list[FileRow]) -> list[_Answer]:
        params: dict[str, Any] = {"table": table, "items": [row.fields for row in batch]}
        request = Request("imports.compare", params, _Answers, mutates=False)
        if not self._dry_run:
            params |= {"onConflict": self._rule, "model": self._model}
            request = Request("imports.store", params, _Answers, mutates=True)
        try:
            return self._client.execute(request, timeout_s=TIMEOUT_S).items
        except TooLarge as error:
            if len(batch) == 1:
                return [_Answer(error=_Error(error.message))]
            middle = len(batch) // 2
            return self._sent(table, batch[:middle]) + self._sent(table, batch[middle:])

    def _settle(self, table: str, row: FileRow, answer: _Answer) -> None:
        """Remember where the row is now."""
        if answer.error is None and table in _REFERRED_TO and isinstance(row_id := row.fields.get("id"), int):
            self._ids[table][row_id] = answer.id if isinstance(answer.id, int) else None
        if answer.id is not None and table in ALIKE:
            self._taken[tuple(row.fields.get(name) for name in ALIKE[table][0])] += 1

    def _account(self, report: TableReport, row: FileRow, answer: _Answer) -> None:
        self._progress.advance(1)
        if answer.error is not None:
            if self._rule == "fail" and answer.error.data.get("kind") == "conflict":
                raise ConflictFound(f"line {row.line}: {answer.error.message} Run it again with another rule.")
            report.refused += 1
            self.report.refusals.append(Refusal(row.line, report.table, answer.error.message))
            return
        match answer.outcome:
            case "inserted" | "new":
                report.inserted += 1
                own_ids = report.table not in {"users", "vectors", *FILES}
                report.new_ids += own_ids and answer.id is not None and answer.id != row.fields.get("id")
            case "updated":
                report.updated += 1
            case "kept" | "different":
                self.report.conflicts.append(row.line)
                report.updated += answer.outcome == "different" and self._rule == "update"
                report.kept += answer.outcome == "kept" or self._rule != "update"
            case _:
                report.existing += 1

    def _take_file(self, table: str, row: FileRow) -> _Answer:
        """A preset, a tool or an entry of mcp-servers.json."""
        member, get, put = FILES[table]
        name, content = row.fields["name"], row.fields[member]
        try:
            try:
                here = self._client.execute(Request(get, {"name": name}, dict, mutates=False)).get(member)
            except NotFound:
                here = None
            if here is not None and _same(here, content):
                return _Answer(name, "existing")
            if here is not None and (self._dry_run or self._rule == "skip"):
                return _Answer(name, "different" if self._dry_run else "kept")
            if here is not None and self._rule == "fail":
                return _Answer(error=_Error("It is here already and says something else.", {"kind": "conflict"}))
            if not self._dry_run:
                self._client.execute(Request(put, {"name": name, member: content}, msgspec.Raw, mutates=True))
        except (BadName, InvalidParams, TooLarge) as error:
            return _Answer(error=_Error(error.message))
        except RpcError as error:
            if error.kind != "bad_content":
                raise
            return _Answer(error=_Error(error.message))
        return _Answer(name, "inserted" if here is None else "updated")


def _same(one: object, other: object) -> bool:
    """As JSON: to Python 1 and true are equal."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")


def import_export(
    client: Client, file: ExportFile, progress: Progress, *, rule: Rule, dry_run: bool
) -> TransferReport:
    """Check the file as a whole, then take it.

    Where the rule is to fail, a dry run comes first: with any conflict nothing is written.

    Raises:
        ExportFileError: the file is damaged, or no export. Nothing was written.
        ConflictFound: a row is here and says something else, and the rule is to fail.
    """
    outline = file.check(progress)

    def transfer(*, dry: bool) -> TransferReport:
        return Transfer(client, file, outline, progress, rule=rule, dry_run=dry).run()

    if rule == "fail" or dry_run:
        report = transfer(dry=True)
        if rule == "fail" and report.conflicts and not dry_run:
            raise ConflictFound(f"{_listed(report.conflicts)}: here, saying something else. Nothing was written.")
        if dry_run:
            return report
    return transfer(dry=False)


def _listed(lines: Iterable[int], most: int = 20) -> str:
    all_of_them = list(lines)
    more = f" and {len(all_of_them) - most} more" if len(all_of_them) > most else ""
    return f"line{'s' * (len(all_of_them) > 1)} {', '.join(map(str, all_of_them[:most]))}{more}"


def describe_transfer(report: TransferReport, made_safe: Callable[[str], str], shown_refusals: int = 20) -> str:
    """The account at the end, for people."""
    width = max((len(table.table) for table in report.tables), default=0)
    lines = [f"export: {report.file}" + (" (dry run: nothing was written)" if report.dry_run else "")]
    for table in report.tables:
        parts = [f"{table.inserted:,} {'would be taken' if report.dry_run else 'taken'}"]
        if table.new_ids:
            parts.append(f"{table.new_ids:,} of them under a new id")
        if table.existing:
            parts.append(f"{table.existing:,} were here already")
        if table.updated:
            parts.append(f"{table.updated:,} {'would be' if report.dry_run else ''} changed".replace("  ", " "))
        if table.kept:
            parts.append(f"{table.kept:,} say something else here and stay")
        if table.refused:
            parts.append(f"{table.refused:,} not taken")
        lines.append(f"  {table.table:<{width}}  {', '.join(parts)}")
    if report.conflicts:
        lines.append(f"different here: {_listed(report.conflicts)}")
    lines += (
        f"not taken: line {one.line}, {one.table}: {made_safe(one.reason)}" for one in report.refusals[:shown_refusals]
    )
    if len(report.refusals) > shown_refusals:
        lines.append(f"... and {len(report.refusals) - shown_refusals} more; --json lists all")
    if not report.dry_run:
        lines.append("What was taken is found by words at once; the vector index follows (nexusctl status).")
    return "\n".join(lines)
