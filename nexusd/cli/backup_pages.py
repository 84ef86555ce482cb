"""Backups as people see them: one that was made, the list, a verification, how things stand.

Results in, rich renderables out. Asks the daemon nothing.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexusd.cli.invocation import now_ms
from nexusd.cli.texts import age, count, duration, safe, size
from nexusd.model.backups import Backup, BackupStatus, VerifiedBackup
from nexusd.model.fields import Listing


def made(backup: Backup) -> RenderableType:
    """The answer of backup.create."""
    return Text.assemble(
        ("✓ ", "green"), (safe(backup.name), "bold"), f" · {size(backup.bytes)} · ",
        f"{count(sum(backup.rows.values()), 'row')}, {count(backup.files, 'file')}, proven",
    )  # fmt: skip


def listed(listing: Listing[Backup]) -> RenderableType:
    """The answer of backup.list."""
    if not listing.items:
        return Text("There is no backup yet: nexusctl backup now")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("name", no_wrap=True)
    table.add_column("made", no_wrap=True)
    for name in ("size", "database", "rows", "files"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    now = now_ms()
    for one in listing.items:
        table.add_row(
            safe(one.name), age(one.created_at, now), size(one.bytes), size(one.database_bytes),
            f"{sum(one.rows.values()):,}", f"{one.files:,}", safe(one.note or ""),
        )  # fmt: skip
    return table


def verified(found: VerifiedBackup) -> RenderableType:
    """The answer of backup.verify."""
    lines = [Text(f"  {safe(check)}", style="dim") for check in found.checks]
    took = duration(found.took_ms) if found.took_ms >= 1000 else f"{found.took_ms} ms"
    return Group(Text.assemble(("✓ ", "green"), f"{safe(found.backup.name)} is good, in {took}:"), *lines)


def standing(found: BackupStatus) -> RenderableType:
    """The answer of backup.status."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    if found.alarm is not None:
        grid.add_row("alarm", Text(safe(found.alarm), style="red"))
    if found.running is not None:
        grid.add_row("now", f"{found.running.step} {found.running.done:.0%}")
    newest = found.newest
    told = "none yet" if newest is None else f"{safe(newest.name)} · {age(newest.created_at, now_ms())}"
    grid.add_row("newest", told)
    grid.add_row("kept", f"{found.count:,} in {safe(found.directory)} · {size(found.bytes)}")
    if not found.enabled:
        grid.add_row("next", Text("none by itself: storage.backups.enabled is false", style="yellow"))
    elif found.next_in_ms is not None:
        grid.add_row("next", f"in {duration(found.next_in_ms)}")
    if found.last_error is not None:
        grid.add_row("last try", Text(f"failed: {safe(found.last_error)}", style="yellow"))
    if found.drill is not None:
        outcome = "came back whole" if found.drill.error is None else f"failed: {safe(found.drill.error)}"
        grid.add_row("drill", f"{safe(found.drill.backup)} {outcome} · {age(found.drill.at, now_ms())}")
    return grid
