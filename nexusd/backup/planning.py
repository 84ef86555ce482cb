"""What a restore changes, told before it is done.

Owns the comparison of a backup with what is there. Changes nothing.
"""

from __future__ import annotations

from nexusd.backup.places import Places
from nexusd.backup.shelf import Shelved
from nexusd.backup.unpacking import files_in
from nexusd.model.backups import RestorePlan
from nexusd.store.facts import Facts


def plan(
    shelved: Shelved, places: Places, now: Facts | None, set_aside: str, *, restoring: bool
) -> RestorePlan:
    """What changes. `now` is what is there; None where that cannot be read, or where nothing is."""
    manifest = shelved.manifest
    rows = manifest.database.rows
    there = now.rows if now is not None else {}
    unread = now is None and places.database.exists()
    written = files_in(manifest)
    return RestorePlan(
        backup=shelved.shown(),
        rows={name: (None if unread else there.get(name, 0), rows.get(name, 0)) for name in sorted(rows | there)},
        set_aside=str(places.aside(set_aside)),
        files_written=sorted(written),
        files_set_aside=[name for name in places.present_files() if name not in set(written)],
        same_model=now is None or now.model is None or manifest.database.model in {None, now.model},
        restoring=restoring,
    )
