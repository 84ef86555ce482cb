"""Replication by Litestream, examined: whether it is there where the settings count on it, and keeps up.

Owns what is said of it. It is a program of its own: what can be seen of it are its lock on the database, and the files
that it keeps beside it. Plain functions, called beside the loop.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from nexusd.checkup_surroundings import finding, ok, shown_span
from nexusd.config import Settings
from nexusd.model.system import Check
from nexusd.store.followers import other_holders

UNIT = "nexusd-litestream"
BEHIND_S = 60.0     # it looks at the WAL every second


def check_replication(settings: Settings) -> Check:
    """Whether the settings and what runs beside the daemon belong together."""
    database, storage = settings.database_path, settings.config.storage
    copies = _newest_copy_s(database)
    followed = bool(other_holders(database)) and copies is not None
    if storage.checkpoints == "litestream":
        return _check_followed(database, copies) if followed else _missing()
    if not followed:
        return ok("replication", "none is set up: between two backups there is no copy")
    says = "Litestream replicates the database, unknown to the settings: after each pause it copies everything anew"
    advice = f"Set storage.checkpoints: litestream, and: systemctl restart nexusd {UNIT}"
    if storage.secure_delete:
        says = "Litestream replicates the database: what is deleted stays in the WAL and in its replica"
        advice = f"Choose: systemctl disable --now {UNIT}, and delete its replica; or storage.secureDelete: false"
        return finding("replication", "problem", says, advice)
    return finding("replication", "warning", says, advice)


def _missing() -> Check:
    says = "storage.checkpoints is litestream, and no Litestream has the database open: nothing is replicated"
    return finding("replication", "problem", says, f"systemctl status {UNIT}; without it, set storage.checkpoints: own")


def _check_followed(database: Path, copied_s: float | None) -> Check:
    behind_s = _written_s(database) - (copied_s or 0.0)
    if behind_s > BEHIND_S:
        says = f"Litestream has the database open, and has not copied what was written for {shown_span(behind_s)}"
        return finding("replication", "problem", says, f"journalctl -u {UNIT} -n 50")
    return ok("replication", "Litestream follows the database. Whether its replica can be reached, its own log says")


def _written_s(database: Path) -> float:
    """When the WAL was written, which Litestream does as well."""
    try:
        return database.with_name(f"{database.name}-wal").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _newest_copy_s(database: Path) -> float | None:
    """When Litestream last took something out of the WAL; None where it never did."""
    directory = database.with_name(f".{database.name}-litestream") / "ltx" / "0"
    newest_s = None
    with contextlib.suppress(FileNotFoundError):        # it never did
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):    # it keeps the newest, and has just taken this away
                newest_s = max(newest_s or 0.0, path.stat().st_mtime)
    return newest_s
