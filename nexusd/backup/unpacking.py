"""A backup's file read with suspicion: its manifest, and its members unpacked with every size and checksum held.

Owns what a tar must look like to be a backup: the members that its manifest names, in their order, and nothing else; no
links, no devices, no path that leads anywhere but below the directory that was given. What is read never becomes more
than the manifest says, however it is packed. Everything here blocks. Knows neither what the database holds nor where
any of it goes in the end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

from nexusd.backup.manifest import (
    CONFIG_MEMBER,
    DATABASE_MEMBER,
    FILES_PREFIX,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    Manifest,
    Member,
    decode_manifest,
)
from nexusd.errors import BackupInvalid, DiskFull, NoSuchBackup, ReadOnly

DATABASE_FILE = "nexus.db"      # under this name the database is unpacked
FILES_DIRECTORY = "files"
SERVERS_FILE = "mcp-servers.json"
DIRECTORIES = ("presets", "tools")  # of the file store, each without further ones
CHUNK_BYTES = 1024 * 1024
MAX_WINDOW_BYTES = 128 * 1024 * 1024    # what zstd asks for at its highest level; a frame makes us hold no more
FILE_MODE = 0o600               # of the database, and of the file that tokens stand in
PERMISSIONS = 0o666             # of a member's mode; the rest is not taken: nothing here is run
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_MESSAGE = "The disk is full; nothing was changed."

Progress = Callable[[float], None]


def nobody(_done: float) -> None:
    """Where nobody waits."""


def read_manifest(path: Path) -> Manifest:
    """What the backup says of itself; reads one block of it. Whether it is true only `unpack` finds.

    Raises:
        NoSuchBackup: there is no such file.
        BackupInvalid: it is no backup, or one of a newer format.
    """
    with _opened(path) as tar:
        return _manifest(tar, path)


def unpack(path: Path, into: Path, files_into: Path | None = None, *, progress: Progress = nobody) -> Manifest:
    """Unpack it into a directory that is there and empty: nexus.db, config.yaml, and the file store below files/.

    With `files_into` the file store's go below that directory. What was unpacked before an error stays there.

    Raises:
        NoSuchBackup: there is no such file.
        BackupInvalid: it is not what its manifest says, or it holds what no backup holds.
        DiskFull, ReadOnly: the directory does not take it.
    """
    files_into = into / FILES_DIRECTORY if files_into is None else files_into
    with _opened(path) as tar:
        manifest = _manifest(tar, path)
        for member in manifest.members:
            with _member(tar, path, member) as (source, mode), writing(path):
                if member.name == DATABASE_MEMBER:
                    _unpack_database(source, into / DATABASE_FILE, manifest, path, progress)
                elif member.name == CONFIG_MEMBER:
                    _copy(source, into / CONFIG_MEMBER, FILE_MODE)
                else:
                    name = file_of(member)
                    target = files_into / name
                    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _copy(source, target, FILE_MODE if name == SERVERS_FILE else FILE_MODE | mode & PERMISSIONS)
        with _understood(path):
            if tar.next() is not None:
                raise _invalid(path, "it holds more than its manifest names")
    return manifest


def file_of(member: Member) -> str:
    """The path of one of the file store's, inside the file store."""
    return member.name.removeprefix(FILES_PREFIX)


def files_in(manifest: Manifest) -> list[str]:
    """The paths of all of them."""
    return [file_of(member) for member in manifest.members if member.name.startswith(FILES_PREFIX)]


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded(io.RawIOBase):
    """The file, of which nobody reads much at once: a tar's own headers may claim to be gigabytes."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= CHUNK_BYTES:
            raise _invalid(self._path, "it has a header that no backup has")
        try:
            return self._file.read(size)
        except OSError as error:
            raise _invalid(self._path, f"it cannot be read: {error.strerror}") from error

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Hashed:
    """A member's bytes, counted and hashed as they are read."""

    def __init__(self, source: _Source) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._source = source

    def read(self, size: int, /) -> bytes:
        chunk = self._source.read(min(size, CHUNK_BYTES))
        self.bytes += len(chunk)
        self.digest.update(chunk)
        return chunk


def _invalid(path: Path, what: str) -> BackupInvalid:
    return BackupInvalid(f"{path.name} is no good: {what}.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        # a link in the directory of backups may lead anywhere, and opening a FIFO would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoSuchBackup(f"There is no backup {path}.") from None
    except OSError as error:
        what = "it is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise _invalid(path, str(what)) from None
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  of a descriptor, which pathlib does not open
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _invalid(path, "it is no plain file")
        with _understood(path):
            tar = tarfile.TarFile(fileobj=_Bounded(file, path))
        with tar:
            yield tar


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    """What the readers of tar and zstd stumble over as one error."""
    try:
        yield
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, OverflowError) as error:
        raise _invalid(path, f"it is damaged, or was never a backup ({error})") from error


@contextlib.contextmanager
def writing(path: Path | None = None) -> Iterator[None]:
    """The system's errors on writing as ours; `path` is the backup that the names come from."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(FULL_MESSAGE) from error
        if path is not None and error.errno in {errno.ENAMETOOLONG, errno.EILSEQ}:
            raise _invalid(path, "it holds a name that no file here can have") from error
        raise ReadOnly(f"{error.filename or 'What it holds'} cannot be written: {error.strerror}.") from error


def _manifest(tar: tarfile.TarFile, path: Path) -> Manifest:
    with _understood(path):
        first = tar.next()
        if first is None or first.name != MANIFEST_MEMBER or not _is_plain(first):
            raise _invalid(path, f"it does not begin with {MANIFEST_MEMBER}")
        if first.size > MAX_MANIFEST_BYTES:
            raise _invalid(path, f"its manifest has {first.size:,} bytes")
        file = tar.extractfile(first)
        data = bytearray()
        while file is not None and (chunk := file.read(CHUNK_BYTES)):
            data += chunk
    try:
        manifest = decode_manifest(bytes(data))
    except ValueError as error:
        raise _invalid(path, str(error)) from None
    names = [member.name for member in manifest.members]
    if len(set(names)) < len(names):
        raise _invalid(path, "its manifest names a member twice")
    if DATABASE_MEMBER not in names:
        raise _invalid(path, "its manifest names no database")
    for name in names:
        if not _is_ours(name):
            raise _invalid(path, f"its manifest names {name[:100]!r}, which no backup holds")
    return manifest


def _is_ours(name: str) -> bool:
    """Whether a backup may hold a member of this name. What leads out of the directory is none of these."""
    if name in {DATABASE_MEMBER, CONFIG_MEMBER, FILES_PREFIX + SERVERS_FILE}:
        return True
    match name.split("/"):
        case ["files", directory, file]:
            return directory in DIRECTORIES and file not in {"", ".", ".."} and "\0" not in file
    return False


def _is_plain(info: tarfile.TarInfo) -> bool:
    return info.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not info.issparse()


@contextlib.contextmanager
def _member(tar: tarfile.TarFile, path: Path, member: Member) -> Iterator[tuple[_Hashed, int]]:
    """The next member of the tar, which must be this one; its bytes and its mode. Afterwards its checksum is held."""
    with _understood(path):
        info = tar.next()
    tar.members = []  # type: ignore[attr-defined]  # it would keep every header that it has read
    if info is None:
        raise _invalid(path, f"it ends before {member.name}")
    if info.name != member.name:
        raise _invalid(path, f"it holds {info.name[:100]!r} where its manifest names {member.name!r}")
    if not _is_plain(info):
        raise _invalid(path, f"{member.name} is no plain file in it")
    if info.size != member.bytes:
        raise _invalid(path, f"{member.name} has {info.size:,} bytes in it, {member.bytes:,} in its manifest")
    with _understood(path):
        file = tar.extractfile(info)
        assert file is not None  # noqa: S101  a plain one has always content; for the type checker
        source = _Hashed(file)
        yield source, info.mode
        while source.read(CHUNK_BYTES):
            pass  # what was not wanted belongs to the checksum all the same
    if source.bytes != member.bytes or source.digest.hexdigest() != member.sha256:
        raise _invalid(path, f"{member.name} is damaged: its checksum is another one than its manifest's")


def _copy(source: _Source, target: Path, mode: int) -> None:
    with _created(target, mode) as file:
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)


def _unpack_database(
    source: _Hashed, target: Path, manifest: Manifest, path: Path, progress: Progress
) -> None:
    facts = manifest.database
    size, digest = 0, hashlib.sha256()
    unpacked = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
        cast("IO[bytes]", source), read_size=CHUNK_BYTES, closefd=False     # it asks for no more than `read`
    )
    with _created(target, FILE_MODE) as file:
        while chunk := unpacked.read(CHUNK_BYTES):
            size += len(chunk)
            if size > facts.bytes:
                raise _invalid(path, f"its database is larger than the {facts.bytes:,} bytes of its manifest")
            digest.update(chunk)
            file.write(chunk)
            progress(size / max(1, facts.bytes))
    if size != facts.bytes or digest.hexdigest() != facts.sha256:
        raise _invalid(path, "its database is damaged: it is not the one that its manifest describes")


@contextlib.contextmanager
def _created(target: Path, mode: int) -> Iterator[IO[bytes]]:
    """A new file, on disk when it is left; never one that is there, nor through a link."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with open(descriptor, "wb") as file:  # noqa: PTH123  of a descriptor
        os.fchmod(descriptor, mode)
        yield file
        file.flush()
        os.fsync(descriptor)
