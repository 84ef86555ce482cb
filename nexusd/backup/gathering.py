"""The small files of a backup: those of the file store as they are at this moment, and the settings.

Owns which files these are and under which names they go into the tar. Each is copied first, so that its checksum is
known before the tar is begun and it cannot change meanwhile. Everything here blocks.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from nexusd.backup.course import Course
from nexusd.backup.manifest import CONFIG_MEMBER, FILES_PREFIX
from nexusd.backup.packing import Extra
from nexusd.backup.settings_copy import without_secrets
from nexusd.config_source import MAX_FILE_BYTES
from nexusd.files import mcp_servers, presets, tools
from nexusd.files.directory import Directory, Stamp, UnreadableError, UnusableError

KINDS = ((presets.DIRECTORY, presets.SUFFIX), (tools.DIRECTORY, tools.SUFFIX))
DEFAULT_MODE = 0o600


class Gatherer:
    """Takes the files along."""

    def __init__(self, files: Path, max_file_bytes: int, config_path: Path | None) -> None:
        self._files = files
        self._max_file_bytes = max_file_bytes
        self._config_path = config_path
        self._log = structlog.get_logger("nexusd.backup")

    def gather(self, into: Path, course: Course) -> list[Extra]:
        """Copy every file into this directory, the settings first; what each is.

        Raises:
            HaltedError: the course was halted.
            OSError: the disk is full or fails.
        """
        extras: list[Extra] = []
        for name, mode, data in self._contents():
            course.go_on()
            path = into / f"extra-{len(extras)}"
            path.write_bytes(data)
            extras.append(Extra(name, path, mode, len(data), hashlib.sha256(data).hexdigest()))
        return extras

    def _contents(self) -> Iterator[tuple[str, int, bytes]]:
        if (settings := self._settings()) is not None:
            yield CONFIG_MEMBER, DEFAULT_MODE, settings
        for directory, suffix in KINDS:
            yield from self._kind(directory, suffix)
        root = Directory(self._files, None, self._max_file_bytes)
        yield from self._file(root, mcp_servers.FILE)

    def _settings(self) -> bytes | None:
        path = self._config_path
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self._log.warning("the settings are not in the backup", reason=error.strerror)
            return None
        shown = without_secrets(text) if len(text) <= MAX_FILE_BYTES else None
        if shown is None:
            self._log.warning("the settings are not in the backup", reason="the file cannot be read as YAML")
        return shown

    def _kind(self, name: str, suffix: str) -> Iterator[tuple[str, int, bytes]]:
        directory = Directory(self._files, name, self._max_file_bytes)
        try:
            entries = directory.entries()
        except FileNotFoundError:
            return
        except UnusableError as error:
            self._log.warning("files are not in the backup", directory=name, reason=str(error))
            return
        for file in sorted(entries):
            if file.endswith(suffix) and _writable(file):
                yield from self._file(directory, file, entries[file])

    def _file(
        self, directory: Directory, file: str, found: Stamp | str | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """One file, unless it went meanwhile; what cannot be read is told and left out."""
        shown = directory.shown(file)
        if isinstance(found, str):
            self._log.warning("a file is not in the backup", file=shown, reason=found)
            return
        try:
            data, _ = directory.read(file)
            mode = stat.S_IMODE(os.lstat(self._files / shown).st_mode) & 0o777
        except FileNotFoundError:
            return
        except UnreadableError as error:
            self._log.warning("a file is not in the backup", file=shown, reason=str(error))
            return
        yield FILES_PREFIX + shown, mode, data


def _writable(name: str) -> bool:
    """Whether it is text: of other bytes no manifest can speak."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
