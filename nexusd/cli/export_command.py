"""nexusctl export: everything in the memory, a session or a project, as lines of JSON.

Owns the course of an export over the wire: the rows come in pages, in the order of the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from nexusd.cli.export_writing import STANDARD_OUTPUT, ExportWriter, opened_for_export
from nexusd.cli.invocation import BROKEN_PIPE, Json, complain, invocation_of, write
from nexusd.cli.params import ParameterError
from nexusd.cli.sessions import SessionName, session_id_of
from nexusd.cli.texts import safe
from nexusd.cli.transfer_progress import Progress, shown_progress
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import NotFound, RpcError
from nexusd.model.exports import FORMAT, VERSION, ExportBegun, ExportEnd, ExportHeader, ExportScope

PAGE_ROWS = 1000
TIMEOUT_S = 60.0
NOT_WRITTEN = 1


class _Page(msgspec.Struct, rename="camel"):
    items: list[msgspec.Raw]
    next_cursor: str | None


class _Row(msgspec.Struct, rename="camel"):
    """What has to be known of a row on its way."""

    table: str
    id: int | str = 0
    session_id: int = 0


class _Table(msgspec.Struct):
    table: str


class _Named(msgspec.Struct):
    name: str
    problem: str | None = None
    content: dict[str, Any] | None = None


class _Listing(msgspec.Struct, rename="camel"):
    items: list[_Named]
    next_cursor: str | None = None


class ExportReport(msgspec.Struct, rename="camel"):
    """What was written. `leftOut`: files that cannot be read as they are."""

    file: str
    rows: dict[str, int]
    sha256: str
    left_out: list[str]


class Exporter:
    """One run of an export."""

    def __init__(self, client: Client, progress: Progress, *, scope: ExportScope, vectors: bool) -> None:
        self.left_out: list[str] = []
        self._client = client
        self._progress = progress
        self._scope = scope
        self._vectors = vectors

    def begin(self) -> ExportBegun:
        """Note where the tables end.

        Raises:
            NotFound: there is no such session or project.
        """
        params: dict[str, Any] = {"vectors": self._vectors}
        if self._scope.of != "everything":
            params[f"{self._scope.of}Id"] = self._scope.id
        return self._client.execute(Request("exports.begin", params, ExportBegun, mutates=False), timeout_s=TIMEOUT_S)

    def header(self, begun: ExportBegun) -> ExportHeader:
        """The first line."""
        created = datetime.fromtimestamp(begun.created_at // 1000, UTC)
        return ExportHeader(
            format=FORMAT, version=VERSION, created_at=begun.created_at, created=created.isoformat(),
            program=f"nexusd {begun.program}", schema_version=begun.schema_version, epoch=begun.epoch,
            scope=self._scope, vectors=self._vectors, model=begun.model, rows=begun.rows,
        )

    def write(self, writer: ExportWriter, begun: ExportBegun) -> None:
        """All rows."""
        sessions: set[int] = set()
        shown = ""
        for page in self._pages(begun.cursor):
            if not page.items:
                continue
            lines = [bytes(item) for item in page.items]
            table = msgspec.json.decode(lines[0], type=_Table).table
            if table != shown:
                self._progress.table(table, begun.rows.get(table, 0))
                shown = table
            if self._scope.of == "project":
                lines = _of_known_sessions(lines, sessions)
            writer.add(table, lines)
            self._progress.advance(len(page.items))
        if self._scope.of == "everything":
            for table in ("presets", "tools", "mcpServers"):
                writer.add(table, list(self._files(table)))

    def _pages(self, cursor: str | None) -> Iterator[_Page]:
        while cursor is not None:
            params = {"cursor": cursor, "limit": PAGE_ROWS}
            page = self._client.execute(Request("exports.page", params, _Page, mutates=False), timeout_s=TIMEOUT_S)
            yield page
            cursor = page.next_cursor

    def _files(self, table: str) -> Iterator[bytes]:
        params: dict[str, Any] = {"limit": 500}
        while True:
            listing = self._client.execute(Request(f"{table}.list", params, _Listing, mutates=False))
            for one in listing.items:
                line = self._file(table, one)
                if line is None:
                    self.left_out.append(f"{table} {one.name}: {one.problem or 'it cannot be read'}")
                else:
                    yield msgspec.json.encode({"table": table, "name": one.name, **line})
            if listing.next_cursor is None:
                return
            params["cursor"] = listing.next_cursor

    def _file(self, table: str, listed: _Named) -> dict[str, Any] | None:
        if table == "presets":
            return None if listed.content is None else {"content": listed.content}
        member = {"tools": "source", "mcpServers": "config"}[table]
        try:
            got = self._client.execute(Request(f"{table}.get", {"name": listed.name}, dict, mutates=False))
        except NotFound:    # it went meanwhile
            return None
        except RpcError as error:
            if error.kind != "bad_content":
                raise
            return None
        return {member: got[member]}


def _of_known_sessions(lines: list[bytes], sessions: set[int]) -> list[bytes]:
    """The rows of sessions that are in the file: one may have come into the project meanwhile."""
    kept = []
    for line in lines:
        row = msgspec.json.decode(line, type=_Row)
        if row.table == "sessions" and isinstance(row.id, int):
            sessions.add(row.id)
        if row.session_id == 0 or row.session_id in sessions:
            kept.append(line)
    return kept


def export_to(
    client: Client, name: str, progress: Progress, *, scope: ExportScope, vectors: bool, replace: bool
) -> ExportReport:
    """Export into a file of this name, or to standard output.

    Raises:
        FileExistsAlready: it is there, and was not to be replaced.
        OSError: it cannot be written.
    """
    exporter = Exporter(client, progress, scope=scope, vectors=vectors)
    begun = exporter.begin()
    with opened_for_export(name, replace=replace) as out:
        writer = ExportWriter(out, exporter.header(begun))
        exporter.write(writer, begun)
        end: ExportEnd = writer.end()
    return ExportReport(name, end.rows, end.sha256, exporter.left_out)


def export(
    ctx: typer.Context,
    *,
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="Compressed if it ends in .zst or .gz; - is standard output.")
    ] = STANDARD_OUTPUT,
    session: SessionName = None,
    project: Annotated[int | None, typer.Option("--project", min=1, help="Only this project, by its id.")] = None,
    with_vectors: Annotated[
        bool, typer.Option("--with-vectors", help="With the embeddings: larger, but nothing is embedded again.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    json: Json = False,
) -> None:
    """Write the memory as lines of JSON, for another machine or for good.

    Everything, or a session or a project. nexusctl import takes it. The file holds what the memory holds, and the
    MCP servers' settings with their secrets: only its owner can read it.
    """
    invocation = invocation_of(ctx, json=json)
    if session is not None and project is not None:
        raise ParameterError("expected one of --session and --project, got both")
    with invocation.client() as nexus, shown_progress() as progress:
        scope = ExportScope(of="everything")
        if session is not None:
            scope = ExportScope(of="session", id=session_id_of(nexus, session))
        elif project is not None:
            scope = ExportScope(of="project", id=project)
        try:
            report = export_to(nexus, file, progress, scope=scope, vectors=with_vectors, replace=force)
        except BrokenPipeError:
            sys.exit(BROKEN_PIPE)
        except OSError as error:
            complain(f"{file} cannot be written: {error.strerror}")
            raise typer.Exit(NOT_WRITTEN) from None
    if file == STANDARD_OUTPUT:
        print(describe_export(report), file=sys.stderr)
    else:
        write(msgspec.json.encode(report) if invocation.json else describe_export(report).encode())


def describe_export(report: ExportReport) -> str:
    """What was written, for people."""
    rows = ", ".join(f"{table} {count:,}" for table, count in report.rows.items()) or "nothing"
    lines = [f"exported: {rows}", f"sha256 of the rows: {report.sha256}"]
    lines += (f"left out: {safe(one)}" for one in report.left_out)
    return "\n".join(lines)
