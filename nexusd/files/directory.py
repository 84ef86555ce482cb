"""One directory of files that people and programs write: read with suspicion, written whole or not at all.

Owns every system call on these files. The directory is opened once an operation, no link is followed on the way,
and what is not a plain file with one name is not read. Everything here blocks and is called on the files' own
thread. Knows no content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexusd.errors import BadContent, DiskFull, OutcomeUnknown, ReadOnly, RpcError

TEMPORARY_PREFIX = ".nexusd-"       # what a crash leaves behind is known by it
TEMPORARY_SUFFIX = ".tmp"
CHUNK_BYTES = 1024 * 1024
DIRECTORY_MODE = 0o750
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in place of the file must not hold the thread
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file shows of a change without being read."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int     # the inode's own time, which nobody can set back

    @property
    def modified_ms(self) -> int:
        """When it was written, in milliseconds since 1970."""
        return max(0, self.modified_ns // 1_000_000)


class UnreadableError(Exception):
    """A file that is there and is not read; the message says why."""


class UnusableError(Exception):
    """A directory that cannot be used; the message says why."""


class Directory:
    """A directory, by its path or by its name inside another one that is given by its path."""

    def __init__(self, root: Path, name: str | None, max_file_bytes: int) -> None:
        self._root = root
        self._name = name
        self._max_file_bytes = max_file_bytes

    def shown(self, file: str) -> str:
        """A file of it, as messages name it."""
        return file if self._name is None else f"{self._name}/{file}"

    def make(self) -> bool:
        """Make it, with the directory that it is in, unless it is there; whether it was made.

        Raises:
            UnusableError: it cannot be made.
        """
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._name is None:
                return False
            root = os.open(self._root, _OPEN_DIRECTORY)
            try:
                os.mkdir(self._name, DIRECTORY_MODE, dir_fd=root)
                os.fsync(root)
            finally:
                os.close(root)
        except FileExistsError:
            return False
        except OSError as error:
            raise UnusableError(f"cannot be made: {error.strerror}") from None
        return True

    def become(self, other: Directory) -> None:
        """Take the name of another directory of the same root, which is not there or empty.

        Raises:
            UnusableError: it cannot.
        """
        try:
            self._path().rename(other._path())
        except OSError as error:
            raise UnusableError(f"cannot be made: {error.strerror}") from None

    def _path(self) -> Path:
        return self._root if self._name is None else self._root / self._name

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of it. A link to the root is the owner's own choice; a link inside it is not followed."""
        descriptor = os.open(self._root, _OPEN_DIRECTORY)
        try:
            if self._name is not None:
                inner = os.open(self._name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def sweep(self) -> int:
        """Remove what writes that never ended left behind; how many files that were."""
        count = 0
        with self._opened() as directory, os.scandir(directory) as entries:
            for entry in list(entries):
                if entry.name.startswith(TEMPORARY_PREFIX) and entry.name.endswith(TEMPORARY_SUFFIX):
                    os.unlink(entry.name, dir_fd=directory)
                    count += 1
        return count

    def entries(self) -> dict[str, Stamp | str]:
        """Every entry that is not hidden, by its file name: its stamp, or why it is none to be read.

        Raises:
            UnusableError: the directory cannot be read.
            FileNotFoundError: it is not there.
        """
        found: dict[str, Stamp | str] = {}
        try:
            with self._opened() as directory, os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    try:
                        found[entry.name] = _judged(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue    # it went meanwhile
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnusableError(self._reason(error)) from None
        return found

    def look(self, file: str) -> Stamp | str | None:
        """One entry, as `entries` has it; None where there is none.

        Raises:
            UnusableError: the directory cannot be read.
        """
        try:
            with self._opened() as directory:
                return _judged(os.stat(file, dir_fd=directory, follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableError(self._reason(error)) from None

    def read(self, file: str) -> tuple[bytes, Stamp]:
        """A file's bytes, and its stamp from before they were read: what changed meanwhile is read again.

        Raises:
            FileNotFoundError: it is not there.
            UnreadableError: it is no plain file, too large, or fails.
        """
        try:
            with self._opened() as directory:
                # before it is opened: opening a device may do something
                _plain(os.stat(file, dir_fd=directory, follow_symlinks=False))
                descriptor = os.open(file, _OPEN_FILE, dir_fd=directory)
                try:
                    stamp = _plain(os.fstat(descriptor))
                    if stamp.size > self._max_file_bytes:
                        raise UnreadableError(self._too_large(stamp.size))
                    return self._contents(descriptor), stamp
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableError(f"cannot be read: {error.strerror}") from None

    def _contents(self, descriptor: int) -> bytes:
        data = bytearray()
        while chunk := os.read(descriptor, CHUNK_BYTES):
            data += chunk
            if len(data) > self._max_file_bytes:    # it grows while we read
                raise UnreadableError(self._too_large(len(data)))
        return bytes(data)

    def _too_large(self, size: int) -> str:
        return f"has {size:,} bytes; at most {self._max_file_bytes:,} are taken (files.maxFileBytes)"

    def write(self, file: str, data: bytes, mode: int) -> Stamp:
        """Put a file there, whole: whoever reads, also after a power cut, finds the old one or the new one.

        An existing file's permissions stay; `mode` is for a new one.

        Raises:
            DiskFull, ReadOnly, OutcomeUnknown: the disk does not take it.
            BadContent: something that is no plain file has this name.
        """
        with self._told(file), self._opened() as directory:
            try:
                there = os.stat(file, dir_fd=directory, follow_symlinks=False)
                mode = stat.S_IMODE(there.st_mode) & 0o777
                _plain(there)
            except FileNotFoundError:
                pass
            except UnreadableError as error:
                raise BadContent(f"{self.shown(file)} {error}; it is not written over.") from None
            temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
            descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            try:
                try:
                    _write_all(descriptor, data)
                    os.fchmod(descriptor, mode)
                    os.fsync(descriptor)
                    os.rename(temporary, file, src_dir_fd=directory, dst_dir_fd=directory)
                except OSError:
                    self._forget(temporary, directory)
                    raise
                os.fsync(directory)
                return _stamp(os.fstat(descriptor))
            finally:
                os.close(descriptor)

    def remove(self, file: str) -> bool:
        """Remove a file, or a link itself; whether it was there.

        Raises:
            DiskFull, ReadOnly, OutcomeUnknown: the disk does not take it.
            BadContent: it is a directory.
        """
        with self._told(file), self._opened() as directory:
            try:
                os.unlink(file, dir_fd=directory)
            except FileNotFoundError:
                return False
            except IsADirectoryError:
                raise BadContent(f"{self.shown(file)} is a directory; it is not removed.") from None
            os.fsync(directory)
            return True

    @staticmethod
    def _forget(temporary: str, directory: int) -> None:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:     # a disk that fails: the next start sweeps it up
            return

    @contextlib.contextmanager
    def _told(self, file: str) -> Iterator[None]:
        """The system's errors on writing as ours."""
        try:
            yield
        except OSError as error:
            raise self._rpc_error(file, error) from error

    def _rpc_error(self, file: str, error: OSError) -> RpcError:
        if error.errno in _FULL:
            return DiskFull(f"The disk is full; {self.shown(file)} is as it was.")
        if error.errno == errno.EIO:
            return OutcomeUnknown(f"The disk failed while {self.shown(file)} was written.")
        return ReadOnly(f"{self.shown(file)} cannot be written: {self._reason(error)}.")

    def _reason(self, error: OSError) -> str:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and self._name is not None:
            return f"{self._name} is a link or no directory, and links are not followed"
        return str(error.strerror)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _plain(found: os.stat_result) -> Stamp:
    judged = _judged(found)
    if isinstance(judged, str):
        raise UnreadableError(judged)
    return judged


def _judged(found: os.stat_result) -> Stamp | str:
    """Its stamp, or what makes it none to be read: a link may point anywhere, also one that looks like a file."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link, which is not followed"
    if not stat.S_ISREG(found.st_mode):
        return "is no plain file"
    if found.st_nlink > 1:
        return "has a second name (a hard link), so that somebody else may own what it says"
    return _stamp(found)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
