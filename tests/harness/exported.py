"""A daemon inside the test's process as nexusctl's commands see it: a client that blocks, in a thread of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from harness.whole_daemon import WholeDaemon

from nexusd.cli.export_command import ExportReport, export_to
from nexusd.cli.export_import import import_export
from nexusd.cli.export_reading import ExportFile
from nexusd.cli.import_report import ImportReport
from nexusd.cli.transfer_progress import Silent
from nexusd.client.core import Request
from nexusd.client.errors import WireError, rebuilt
from nexusd.model.exports import ExportScope


class LoopClient:
    """What the commands need of a client. `calls`: how often each method was called."""

    def __init__(self, daemon: WholeDaemon) -> None:
        self.calls: list[str] = []
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()

    def execute(self, request: Request[Any], *, timeout_s: float | None = None) -> Any:
        self.calls.append(request.method)
        asked = self._daemon.answer(request.method, request.params)
        reply = msgspec.json.decode(asyncio.run_coroutine_threadsafe(asked, self._loop).result(timeout_s))
        if "error" in reply:
            raise rebuilt(msgspec.convert({**reply["error"], "data": msgspec.Raw(
                msgspec.json.encode(reply["error"]["data"])
            )}, WireError))
        return msgspec.json.decode(msgspec.json.encode(reply["result"]), type=request.result)


async def exported(
    daemon: WholeDaemon, path: Path, *, of: str = "everything", scope: int | None = None, vectors: bool = False
) -> ExportReport:
    """Export it into this file."""
    what = ExportScope(of=of, id=scope)  # type: ignore[arg-type]  # one of three
    return await asyncio.to_thread(
        export_to, LoopClient(daemon), str(path), Silent(), scope=what, vectors=vectors, replace=True  # type: ignore[arg-type]  # all that is asked of it
    )


async def imported(
    daemon: WholeDaemon, path: Path, *, rule: str = "skip", dry_run: bool = False, client: LoopClient | None = None
) -> ImportReport:
    """Import this file into it."""
    return await asyncio.to_thread(
        import_export, client or LoopClient(daemon), ExportFile(path), Silent(), rule=rule, dry_run=dry_run  # type: ignore[arg-type]  # as above
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows in an export, in order."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()[1:-1]]


def counts(report: ImportReport) -> dict[str, tuple[int, int, int, int, int]]:
    """By table: inserted, existing, updated, kept, refused."""
    return {
        table.table: (table.inserted, table.existing, table.updated, table.kept, table.refused)
        for table in report.tables
    }
