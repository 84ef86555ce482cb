"""nexusctl import: an export, or the database of an older service, taken over.

Owns the command: which of the two a file is, what may be said with it, and the exit code.
"""

from __future__ import annotations

import enum
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nexusd.cli.export_import import import_export
from nexusd.cli.export_reading import ExportFile, is_export
from nexusd.cli.import_report import describe_report
from nexusd.cli.invocation import Json, invocation_of, write
from nexusd.cli.older_import import import_older
from nexusd.cli.params import ParameterError
from nexusd.cli.transfer_progress import shown_progress

SOME_REFUSED = 1  # exit code


class OnConflict(enum.Enum):
    """What becomes of a row that is here and says something else."""

    skip = "skip"
    update = "update"
    fail = "fail"


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
                report = import_export(nexus, ExportFile(path), progress, rule=on_conflict.value, dry_run=dry_run)
        elif dry_run or on_conflict is not OnConflict.skip:
            raise ParameterError("--dry-run and --on-conflict are for files of nexusctl export")
        else:
            with shown_progress() as progress:
                report = import_older(nexus, path, progress)
    write(msgspec.json.encode(report) if invocation.json else describe_report(report).encode())
    if report.refusals:
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
