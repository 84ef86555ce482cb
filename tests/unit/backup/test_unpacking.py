"""A backup's file is read with suspicion: only what its manifest says comes out, whole, or nothing is believed."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from harness.backup_files import backup_of, fill, lying
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.backup.manifest import DATABASE_MEMBER, MANIFEST_MEMBER, Manifest, Member
from nexusd.backup.unpacking import CHUNK_BYTES, read_manifest, unpack
from nexusd.errors import BackupInvalid, DiskFull, NoSuchBackup

FILES = {"presets/kind.yaml": b"prompt: hello\n", "tools/count.js": b"1\n", "mcp-servers.json": b"{}\n"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("database") / "nexus.db", ["a kettle", "a lamp"])


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (place := tmp_path / "into").mkdir()
    return place


def test_a_backup_comes_out_as_it_went_in(tmp_path: Path, database: Path, into: Path) -> None:
    backup = backup_of(tmp_path / "b.tar", database, FILES)
    manifest = unpack(backup, into)
    assert manifest == read_manifest(backup)
    assert (into / "nexus.db").read_bytes() == database.read_bytes()
    assert {name: (into / "files" / name).read_bytes() for name in FILES} == FILES
    assert (into / "files/mcp-servers.json").stat().st_mode & 0o777 == 0o600
    assert (into / "files/tools/count.js").stat().st_mode & 0o777 == 0o640


def member(name: str, data: bytes = b"") -> Callable[[Manifest], Manifest]:
    """A manifest that names one more."""
    more = Member(name=name, bytes=len(data), sha256="0" * 64)
    return lambda manifest: msgspec.structs.replace(manifest, members=[*manifest.members, more])


def without(name: str) -> Callable[[Manifest], Manifest]:
    return lambda manifest: msgspec.structs.replace(
        manifest, members=[one for one in manifest.members if one.name != name]
    )


HOSTILE = {
    "a path that leads out": ({"lie": member("files/presets/../../../x")}, "which no backup holds"),
    "an absolute path": ({"lie": member("/etc/cron.d/x")}, "which no backup holds"),
    "a file beside the file store": ({"lie": member("files/x")}, "which no backup holds"),
    "a member twice": ({"lie": member("files/tools/count.js")}, "names a member twice"),
    "a member that is not in the manifest": ({"after": {"files/tools/more.js": b"1"}}, "more than its manifest names"),
    "a member that is only in the manifest": ({"lie": member("files/tools/more.js")}, "it ends before"),
    "no database": ({"lie": without(DATABASE_MEMBER)}, "names no database"),
    "another name": ({"rename": {"files/tools/count.js": "../count.js"}}, "where its manifest names"),
    "a symbolic link": ({"kind": {"files/tools/count.js": tarfile.SYMTYPE}}, "is no plain file"),
    "a hard link": ({"kind": {"files/tools/count.js": tarfile.LNKTYPE}}, "is no plain file"),
    "a device": ({"kind": {"files/tools/count.js": tarfile.CHRTYPE}}, "is no plain file"),
    "a FIFO": ({"kind": {"files/tools/count.js": tarfile.FIFOTYPE}}, "is no plain file"),
    "a bomb": ({"lie": lying(bytes=100)}, "larger than the 100 bytes"),
    "a database that is smaller": ({"lie": lying(bytes=10**9)}, "is damaged"),
    "another database": ({"lie": lying(sha256="0" * 64)}, "is damaged"),
    "a newer format": ({"lie": lambda one: msgspec.structs.replace(one, format=2)}, "format 2"),
    "a link for a manifest": ({"kind": {MANIFEST_MEMBER: tarfile.SYMTYPE}}, "does not begin with"),
    "no manifest": ({"rename": {MANIFEST_MEMBER: "readme"}}, "does not begin with"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_no_backup_holds_is_refused(tmp_path: Path, database: Path, into: Path, how: str) -> None:
    wrong, said = HOSTILE[how]
    backup = backup_of(tmp_path / "b.tar", database, FILES, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BackupInvalid, match=said):
        unpack(backup, into)
    assert {path.name for path in tmp_path.iterdir()} == {"b.tar", "into"}
    assert not [path for path in into.rglob("*") if path.is_symlink()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_means_nothing(
    tmp_path_factory: pytest.TempPathFactory, database: Path, at: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("flipped")
    backup = backup_of(directory / "b.tar", database, FILES)
    data = bytearray(backup.read_bytes())
    data[at % len(data)] ^= 1 << bit
    backup.write_bytes(data)
    (into := directory / "into").mkdir()
    try:
        unpack(backup, into)
    except BackupInvalid:
        return
    # padding, or what a manifest says of the time: what came out is what went in
    assert (into / "nexus.db").read_bytes() == database.read_bytes()
    assert {name: (into / "files" / name).read_bytes() for name in FILES} == FILES


@settings(max_examples=30, deadline=None)
@given(cut=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, database: Path, cut: float) -> None:
    directory = tmp_path_factory.mktemp("cut")
    backup = backup_of(directory / "b.tar", database, FILES)
    last = backup.read_bytes().rstrip(b"\0")
    backup.write_bytes(last[: int(len(last) * cut)])
    (into := directory / "into").mkdir()
    with pytest.raises(BackupInvalid):
        unpack(backup, into)


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=3000))
def test_noise_is_refused_in_one_way(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    (backup := tmp_path_factory.mktemp("noise") / "b.tar").write_bytes(noise)
    with pytest.raises(BackupInvalid):
        read_manifest(backup)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, into: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    with (backup := tmp_path / "b.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(2**32 + 2 * CHUNK_BYTES)      # a sparse file: it takes no room
    with pytest.raises(BackupInvalid, match="a header that no backup has"):
        unpack(backup, into)


def test_a_frame_that_asks_for_gigabytes_is_refused(tmp_path: Path, database: Path, into: Path) -> None:
    window = zstandard.ZstdCompressionParameters(window_log=30)
    packed = zstandard.ZstdCompressor(compression_params=window).compressobj()
    greedy = packed.compress(database.read_bytes()) + packed.flush()
    backup = backup_of(tmp_path / "b.tar", database)
    manifest = read_manifest(backup)
    only = Member(name=DATABASE_MEMBER, bytes=len(greedy), sha256=hashlib.sha256(greedy).hexdigest())
    backup_of(
        backup, database, lie=lambda _: msgspec.structs.replace(manifest, members=[only]),
        after={DATABASE_MEMBER: greedy},
    )  # fmt: skip
    with pytest.raises(BackupInvalid, match="is damaged, or was never"):
        unpack(backup, into)


def test_a_planted_link_is_not_followed(tmp_path: Path, database: Path, into: Path) -> None:
    backup = backup_of(tmp_path / "real.tar", database)
    (link := tmp_path / "b.tar").symlink_to(backup)
    with pytest.raises(BackupInvalid, match="is a link"):
        unpack(link, into)
    os.mkfifo(tmp_path / "c.tar")
    with pytest.raises(BackupInvalid, match="no plain file"):
        read_manifest(tmp_path / "c.tar")
    with pytest.raises(NoSuchBackup):
        read_manifest(tmp_path / "d.tar")


def test_nothing_is_written_over(tmp_path: Path, database: Path, into: Path) -> None:
    backup = backup_of(tmp_path / "b.tar", database)
    (victim := tmp_path / "victim").write_text("kept")
    (into / "nexus.db").symlink_to(victim)
    with pytest.raises(Exception, match="cannot be written"):
        unpack(backup, into)
    assert victim.read_text() == "kept"


def test_a_full_disk_is_told_as_one(tmp_path: Path, database: Path) -> None:
    backup = backup_of(tmp_path / "b.tar", database)
    (into := tmp_path / "into").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(DiskFull):
            unpack(backup, into)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
