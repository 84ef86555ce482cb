"""Where the settings file and the daemon's directories are.

Owns how a path is made absolute, and what systemd's variables say. Reads no environment: it is given one. Knows no
setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CONFIG_FILE_NAME = "config.yaml"


def config_path_of(asked_for: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The settings file: the one that was asked for, or the usual one if it is there."""
    if asked_for is not None:
        return absolute(asked_for)  # and it must be there
    directory = first_path(environ, "CONFIGURATION_DIRECTORY") or Path()
    default = absolute(directory / CONFIG_FILE_NAME)
    return default if default.exists() else None


def first_path(environ: Mapping[str, str], name: str) -> Path | None:
    """The first of the directories in a variable of systemd's, which separates several by colons."""
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first else None


def absolute(path: Path) -> Path:
    """The path from the root, as it is written: a symlink is the admin's own choice."""
    return Path(os.path.normpath(Path.cwd() / path))
