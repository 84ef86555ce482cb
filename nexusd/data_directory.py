"""The data directory: made for this user alone, or tried out without a trace.

Owns what is said when it cannot be had. Knows nothing of what lies in it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from nexusd.errors import DataDirectoryError


def make_data_directory(path: Path) -> None:
    """Make it, with the directories above, unless it is there.

    Raises:
        DataDirectoryError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataDirectoryError(f"the data directory {path} cannot be made: {error.strerror}") from None


def try_data_directory(path: Path) -> None:
    """Say what the start would say of it. Only trying tells: something is made there, and gone again at once.

    Raises:
        DataDirectoryError: it is not there and cannot be made, or this user cannot write into it.
    """
    refused = "made"
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
        if nearest == path:
            refused = "written to"
        with tempfile.TemporaryDirectory(prefix=".nexusd-check-", dir=nearest):
            pass
    except OSError as error:
        raise DataDirectoryError(f"the data directory {path} cannot be {refused}: {error.strerror}") from None
