"""The tar file that a backup is: written in one go, read back, and its manifest found again.

Owns how the members lie in the file. The manifest comes first and tells sizes and checksums of what follows, so its
place is kept free and filled in at the end: nothing is written twice. Everything here blocks. Knows neither where the
database comes from nor where the file goes.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from nexusd.backup.course import Course
from nexusd.backup.manifest import (
    DATABASE_MEMBER,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    Manifest,
    Member,
    decode_manifest,
    encode_manifest,
)
from nexusd.errors import BackupInvalid

LEVEL = 1               # 500 MB in 2 s of one core; level 3 takes 6 s and saves a twentieth
CHUNK_BYTES = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
END_BYTES = 2 * BLOCK   # zeros, by which tar knows the end
PAUSE_S = 0.001         # after each chunk: compressing must not take a core away from who serves
SYNC_BYTES = 4 * 1024 * 1024    # written at once to the disk, so that no commit waits behind hundreds of megabytes
NO_SUM = "0" * 64
LARGEST = 10**18        # a size that takes more digits than any real one


@dataclass(frozen=True, slots=True)
class Extra:
    """A small file that goes in beside the database: its name in the tar, where it lies, and what it is."""

    name: str
    path: Path
    mode: int
    bytes: int
    sha256: str


def pack(target: Path, database: Path, manifest: Manifest, extras: Sequence[Extra], course: Course) -> Manifest:
    """Write `target`, which must not be there, and get it on disk; the manifest with its members filled in.

    Raises:
        HaltedError: the course was halted.
        OSError: the disk is full or fails.
    """
    others = [Member(name=extra.name, bytes=extra.bytes, sha256=extra.sha256) for extra in extras]
    placeholder = Member(name=DATABASE_MEMBER, bytes=LARGEST, sha256=NO_SUM)
    room = len(encode_manifest(msgspec.structs.replace(manifest, members=[placeholder, *others])))
    with _created(target) as file:
        at = BLOCK + _padded(room)
        file.seek(at + BLOCK)
        size, digest = _compress(database, file, course)
        _pad(file)
        for extra in extras:
            file.write(_header(extra.name, extra.bytes, manifest, extra.mode))
            with extra.path.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
            _pad(file)
        file.write(bytes(END_BYTES))
        packed = Member(name=DATABASE_MEMBER, bytes=size, sha256=digest)
        whole = msgspec.structs.replace(manifest, members=[packed, *others])
        file.seek(at)
        file.write(_header(DATABASE_MEMBER, size, manifest))
        file.seek(0)
        file.write(_header(MANIFEST_MEMBER, room, manifest))
        file.write(encode_manifest(whole).rstrip(b"\n").ljust(room - 1) + b"\n")
        file.flush()
        course.reached("packed")
        os.fsync(file.fileno())
        # what is read back then comes from the disk, not from memory
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return whole


def _created(path: Path) -> IO[bytes]:
    return os.fdopen(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb", CHUNK_BYTES
    )


def _header(name: str, size: int, manifest: Manifest, mode: int = 0o600) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, manifest.created_at // 1000
    return info.tobuf(format=tarfile.GNU_FORMAT, encoding="utf-8")  # of a short name one block, whatever the size


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % BLOCK))


class _Summing(io.RawIOBase):
    """Passes on what is written, and keeps its size and checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]  # zstandard gives bytes, nothing else
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


def _compress(database: Path, file: IO[bytes], course: Course) -> tuple[int, str]:
    total, done = max(1, database.stat().st_size), 0
    into, synced = _Summing(file), 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj(size=database.stat().st_size)
    with database.open("rb", buffering=0) as source:
        while chunk := source.read(CHUNK_BYTES):
            into.write(compressor.compress(chunk))
            done += len(chunk)
            course.at(done / total)
            course.pause(PAUSE_S)
            if into.size - synced >= SYNC_BYTES:
                file.flush()
                os.fdatasync(file.fileno())
                synced = into.size
    into.write(compressor.flush())
    return into.size, into.digest.hexdigest()


def read_back(path: Path, manifest: Manifest, course: Course) -> None:
    """Read the whole file again and compare it with its manifest; unpack the database on the way, into nothing.

    Raises:
        BackupInvalid: it is not what was written.
        HaltedError: the course was halted.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            total = max(1, sum(member.bytes for member in manifest.members))
            done = 0
            found = []
            for info in tar:
                if info.name == MANIFEST_MEMBER:
                    continue
                source = tar.extractfile(info)
                if source is None:
                    raise BackupInvalid(f"{info.name} is no file.")
                unpacked = _Unpacked() if info.name == DATABASE_MEMBER else None
                digest = hashlib.sha256()
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    if unpacked is not None:
                        unpacked.take(chunk)
                    done += len(chunk)
                    course.at(done / total)
                    course.pause(PAUSE_S)
                found.append(Member(name=info.name, bytes=info.size, sha256=digest.hexdigest()))
                if unpacked is not None and unpacked.found() != (manifest.database.bytes, manifest.database.sha256):
                    raise BackupInvalid("The database inside is not the one that was packed.")
    except (tarfile.TarError, zstandard.ZstdError) as error:
        raise BackupInvalid(f"The backup cannot be read: {error}") from error
    if found != manifest.members:
        raise BackupInvalid("The members of the backup are not those of its manifest.")


class _Unpacked:
    """Size and checksum of what a zstd frame unpacks to."""

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._size = 0
        self._digest = hashlib.sha256()

    def take(self, chunk: bytes) -> None:
        data = self._frame.decompress(chunk)
        self._size += len(data)
        self._digest.update(data)

    def found(self) -> tuple[int, str]:
        return self._size, self._digest.hexdigest()


def read_head(descriptor: int) -> Manifest:
    """The manifest at the beginning of a backup, if the file can be as long as that says.

    Raises:
        BackupInvalid: there is none, or the file is cut short.
        OSError: it cannot be read.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise BackupInvalid("It is no plain file.")
    head = os.pread(descriptor, BLOCK, 0)
    try:
        info = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
    except tarfile.HeaderError as error:
        raise BackupInvalid(f"It is no tar file: {error}") from None
    if info.name != MANIFEST_MEMBER or not info.isreg() or info.size > MAX_MANIFEST_BYTES:
        raise BackupInvalid(f"It does not begin with {MANIFEST_MEMBER}.")
    try:
        manifest = decode_manifest(os.pread(descriptor, info.size, BLOCK))
    except ValueError as error:
        raise BackupInvalid(f"In it {error}.") from None
    members = sum(BLOCK + _padded(member.bytes) for member in manifest.members)
    if found.st_size < BLOCK + _padded(info.size) + members + END_BYTES:
        raise BackupInvalid("It is cut short.")
    return manifest
