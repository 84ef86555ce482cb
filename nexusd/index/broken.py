"""Collections that could not be loaded: moved out of the way, for people to look at. Runs in the index's child only.

Owns their names, `<collection>.broken-<n>`, and how many are kept. Knows no shard.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from nexusd.index.durable import sync_directory

KEPT_BROKEN = 2  # evidence for people; more would only fill the disk


def set_aside(directory: Path, reason: str, kept: int = KEPT_BROKEN) -> Path:
    """Move a broken collection out of the way, keeping the newest few for people to look at."""
    numbers = [int(path.name.rpartition("-")[2]) for path in _broken(directory)]
    target = directory.with_name(f"{directory.name}.broken-{max(numbers, default=0) + 1}")
    directory.rename(target)
    (target / "reason").write_text(reason + "\n")
    sync_directory(directory.parent)
    newest_first = sorted(_broken(directory), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in newest_first[kept:]:
        shutil.rmtree(path, ignore_errors=True)
    return target


def remove_broken(directory: Path) -> None:
    """Remove all that was set aside here."""
    for path in directory.glob("*.broken-*"):
        shutil.rmtree(path, ignore_errors=True)


def _broken(directory: Path) -> list[Path]:
    pattern = re.compile(re.escape(directory.name) + r"\.broken-[0-9]+")
    return [path for path in directory.parent.iterdir() if pattern.fullmatch(path.name)]
