"""Backups that end badly: `killing_backup.py DIR STEP...` or `killing_backup.py DIR --room SIZE...`.

For each step a child of this process makes a backup and kills itself there; for each size one is made on a disk of that
size (the caller gives a mount namespace). A line of JSON tells what is left of each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import apsw

from nexusd.backup.course import Course
from nexusd.backup.gathering import Gatherer
from nexusd.backup.making import Maker
from nexusd.backup.shelf import Shelf
from nexusd.backup.verifying import verify
from nexusd.clock import SystemClock
from nexusd.config_sections import BackupsConfig
from nexusd.errors import RpcError
from nexusd.store.migrations import load_migrations, migrate

KEEP = BackupsConfig(max_count=1)


def make_store(path: Path, *, filling: int) -> None:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL")
    migrate(db, load_migrations())
    db.execute("INSERT INTO sessions (external_id, created_at, updated_at) VALUES ('s', 1, 1)")
    for _ in range(filling):
        db.execute(
            "INSERT INTO tool_logs (tool, status, result, created_at)"
            " VALUES ('t', 'ok', json_quote(hex(randomblob(9000))), 1)"
        )
    db.close()


def maker_in(directory: Path) -> Maker:
    return Maker(Shelf(directory / "backups"), directory / "nexus.db", Gatherer(directory, 1024, None), SystemClock())


def die_at(step: str) -> Any:
    def reached(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def killed(directory: Path, step: str) -> dict[str, Any]:
    maker = maker_in(directory)
    if not maker.shelf.list():
        maker.make("manual", Course("copying", 0), KEEP)
    child = os.fork()
    if child == 0:
        maker.make("manual", Course("copying", 0, die_at(step)), KEEP)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    shelf = Shelf(directory / "backups")
    good = shelf.list()
    told = {
        "step": step, "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "good": len(good),
        "left": bool(shelf.sweep()), "leftAfterSweep": len(list((directory / "backups").glob("*.unfinished"))),
        "verified": all(verify(one, directory / "scratch", Course("proving", 0)) for one in good),
    }  # fmt: skip
    maker.make("manual", Course("copying", 0), KEEP)
    return told


def on_a_disk_of(directory: Path, size: str) -> dict[str, Any]:
    place = directory / "backups"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    outcome = "made"
    try:
        with mock.patch.object(Maker, "_refuse_without_room"):  # so that the disk itself refuses
            maker_in(directory).make("manual", Course("copying", 0), KEEP)
    except RpcError as error:
        outcome = error.kind
    told = {"size": size, "outcome": outcome, "names": [path.suffix.strip(".") for path in place.iterdir()]}
    subprocess.run(["umount", str(place)], check=True)
    return told


def main() -> None:
    directory = Path(sys.argv[1])
    room = sys.argv[2] == "--room"
    make_store(directory / "nexus.db", filling=60 if room else 0)
    for one in sys.argv[3 if room else 2 :]:
        print(json.dumps(on_a_disk_of(directory, one) if room else killed(directory, one)), flush=True)


if __name__ == "__main__":
    main()
