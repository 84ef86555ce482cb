"""The account of an import, whatever file it was of: for programs as it is, for people in words.

Knows neither files nor the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nexusd.cli.texts import safe

SHOWN_LINES = 20
SHOWN_REFUSALS = 20


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that was not taken, and why. `line`: where it stands, in a file of lines."""

    table: str
    id: int | str | None
    reason: str
    line: int = 0


class TableReport(msgspec.Struct, rename="camel"):
    """What came of one table's rows, or would."""

    table: str
    rows: int
    inserted: int = 0
    existing: int = 0   # and the same, as far as that was asked
    updated: int = 0
    kept: int = 0       # existing, and left as they were
    refused: int = 0
    new_ids: int = 0    # inserted under another id than in the file

    def count(self, outcome: str, *, new_id: bool) -> None:
        """One of its rows is there, or would be."""
        match outcome:
            case "inserted" | "new":
                self.inserted += 1
                self.new_ids += new_id
            case "updated":
                self.updated += 1
            case "kept":
                self.kept += 1
            case _:
                self.existing += 1


class ImportReport(msgspec.Struct, kw_only=True, rename="camel"):
    """What came of a file, or would. `vectors`: whether those in an export were of use."""

    file: str
    kinds: list[str]
    dry_run: bool = False
    vectors: bool = False
    tables: list[TableReport] = []
    refusals: list[Refusal] = []
    conflicts: list[int] = []       # lines of rows that are here and say something else
    embeddings_left_out: int = 0    # that the daemon's model could not have made: their texts are embedded anew

    def table(self, name: str, rows: int) -> TableReport:
        """A table begins."""
        self.tables.append(TableReport(name, rows))
        return self.tables[-1]

    def refuse(self, table: TableReport, row_id: object, reason: str, line: int = 0) -> None:
        """One of its rows was not taken."""
        table.refused += 1
        shown = row_id if isinstance(row_id, int | str) or row_id is None else str(row_id)
        self.refusals.append(Refusal(table.table, shown, reason, line))


def describe_report(report: ImportReport) -> str:
    """The account at the end, for people."""
    width = max((len(table.table) for table in report.tables), default=0)
    note = " (dry run: nothing was written)" if report.dry_run else ""
    lines = [f"{' and '.join(report.kinds)}: {report.file}{note}"]
    would = "would be " if report.dry_run else ""
    for table in report.tables:
        parts = [f"{table.inserted:,} {would}taken"]
        if table.new_ids:
            parts.append(f"{table.new_ids:,} of them under a new id")
        if table.existing:
            parts.append(f"{table.existing:,} were here already")
        if table.updated:
            parts.append(f"{table.updated:,} {would}changed")
        if table.kept:
            parts.append(f"{table.kept:,} say something else here and stay")
        if table.refused:
            parts.append(f"{table.refused:,} not taken")
        lines.append(f"  {table.table:<{width}}  {', '.join(parts)}")
    if report.conflicts:
        lines.append(f"different here: {listed(report.conflicts)}")
    if report.embeddings_left_out:
        lines.append(f"embeddings that do not fit: {report.embeddings_left_out}; their texts are embedded anew")
    for one in report.refusals[:SHOWN_REFUSALS]:
        where = f"line {one.line}, {one.table}" if one.line else f"{one.table} {one.id}"
        lines.append(f"not taken: {where}: {safe(one.reason)}")
    if len(report.refusals) > SHOWN_REFUSALS:
        lines.append(f"... and {len(report.refusals) - SHOWN_REFUSALS} more; --json lists all")
    if not report.dry_run:
        lines.append("What was taken is found by words at once; the vector index follows (nexusctl status).")
    return "\n".join(lines)


def listed(numbers: Sequence[int]) -> str:
    """The first of these lines, and how many more there are."""
    more = f" and {len(numbers) - SHOWN_LINES} more" if len(numbers) > SHOWN_LINES else ""
    return f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:SHOWN_LINES]))}{more}"
