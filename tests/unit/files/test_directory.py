from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusd.errors import BadContent, DiskFull, OutcomeUnknown, ReadOnly, RpcError
from nexusd.files.directory import Directory, Stamp, UnreadableError, UnusableError

LIMIT = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "files", "presets", LIMIT)
    assert made.make()
    return made


@pytest.fixture
def path(directory: Directory, tmp_path: Path) -> Path:
    del directory
    return tmp_path / "files" / "presets"


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_what_is_written_is_read_and_nothing_else_is_left(directory: Directory, path: Path) -> None:
    stamp = directory.write("a", b"one", 0o640)
    assert directory.read("a") == (b"one", stamp)
    assert directory.entries() == {"a": stamp}
    assert directory.look("a") == stamp
    assert names(path) == {"a"}
    assert stat.S_IMODE((path / "a").stat().st_mode) == 0o640
    assert directory.write("a", b"two", 0o640) != stamp
    assert directory.read("a")[0] == b"two"
    assert directory.look("b") is None


def test_the_permissions_that_somebody_chose_stay(directory: Directory, path: Path) -> None:
    directory.write("a", b"one", 0o640)
    (path / "a").chmod(0o600)
    directory.write("a", b"two", 0o640)
    assert stat.S_IMODE((path / "a").stat().st_mode) == 0o600


def symlink_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "secret")


def symlink_to_nothing(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "nothing")


def symlink_to_directory(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def hard_link(place: Path, outside: Path) -> None:
    place.hardlink_to(outside / "secret")


def fifo(place: Path, _outside: Path) -> None:
    os.mkfifo(place)


def directory_there(place: Path, _outside: Path) -> None:
    place.mkdir()


def unix_socket(place: Path, _outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{os.open(place.parent, os.O_PATH)}/{place.name}")


def device(place: Path, _outside: Path) -> None:
    try:
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 5))     # /dev/zero: it never ends
    except PermissionError:
        pytest.skip("only root makes devices")


TRICKS = [symlink_to_file, symlink_to_nothing, symlink_to_directory, hard_link, fifo, directory_there, unix_socket,
          device]


@pytest.mark.parametrize("trick", TRICKS)
def test_what_is_no_plain_file_is_neither_read_nor_written(
    directory: Directory, path: Path, tmp_path: Path, trick: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "secret").write_text("not yours")
    trick(path / "a", tmp_path)
    assert isinstance(directory.entries()["a"], str)
    assert isinstance(directory.look("a"), str)
    with pytest.raises(UnreadableError):
        directory.read("a")
    with pytest.raises(BadContent):
        directory.write("a", b"x", 0o640)
    assert (tmp_path / "secret").read_text() == "not yours"
    assert names(path) == {"a"}


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "files", tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("not yours")
    root.mkdir()
    (root / "presets").symlink_to(outside)
    directory = Directory(root, "presets", LIMIT)
    assert not directory.make()
    for refused in (directory.entries, lambda: directory.look("a")):
        with pytest.raises(UnusableError, match="link"):
            refused()
    with pytest.raises(UnreadableError):
        directory.read("a")
    with pytest.raises(ReadOnly, match="link"):
        directory.write("b", b"x", 0o640)
    with pytest.raises(ReadOnly, match="link"):
        directory.remove("a")
    with pytest.raises(OSError, match="directory"):
        directory.sweep()
    assert names(outside) == {"a"}


def test_a_link_to_the_root_is_the_owners_own_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "files").symlink_to(tmp_path / "real")
    directory = Directory(tmp_path / "files", "presets", LIMIT)
    assert directory.make()
    directory.write("a", b"x", 0o640)
    assert (tmp_path / "real" / "presets" / "a").read_bytes() == b"x"


def test_a_large_file_is_never_read_whole(directory: Directory, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "a").write_bytes(b"x" * LIMIT)
    assert len(directory.read("a")[0]) == LIMIT
    with (path / "a").open("wb") as file:
        file.truncate(10 * 1024**3)

    def no_reading(_descriptor: int, _size: int) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(os, "read", no_reading)
    with pytest.raises(UnreadableError, match="10,737,418,240 bytes"):
        directory.read("a")


def test_a_file_that_grows_while_it_is_read_is_given_up(
    directory: Directory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / "a").write_bytes(b"x")
    chunks = iter([b"x" * 1000] * 100)  # not for ever: whoever reads on must fail, and not fill the memory
    monkeypatch.setattr(os, "read", lambda _descriptor, _size: next(chunks, b""))
    with pytest.raises(UnreadableError, match="at most"):
        directory.read("a")


FAULTS: list[tuple[str, int, type[RpcError]]] = [
    ("write", errno.ENOSPC, DiskFull),
    ("write", errno.EDQUOT, DiskFull),
    ("fsync", errno.ENOSPC, DiskFull),
    ("fsync", errno.EIO, OutcomeUnknown),
    ("rename", errno.EROFS, ReadOnly),
    ("rename", errno.ENOSPC, DiskFull),
]


@pytest.mark.parametrize(("call", "number", "error"), FAULTS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    directory: Directory, path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[RpcError]
) -> None:
    directory.write("a", b"old", 0o640)

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(error):
            directory.write("a", b"new", 0o640)
    assert (path / "a").read_bytes() == b"old"
    assert names(path) == {"a"}


def test_a_disk_that_takes_little_at_a_time_gets_all_of_it(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    directory.write("a", b"x" * 1000, 0o640)
    assert directory.read("a")[0] == b"x" * 1000


def test_the_file_is_on_disk_before_it_has_its_name_and_the_name_before_the_answer(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        seen.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(*args: str, **kwargs: int) -> None:
        seen.append("rename")
        real_rename(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    directory.write("a", b"x", 0o640)
    assert seen == ["file", "rename", "directory"]
    directory.remove("a")
    assert seen[3:] == ["directory"]


def test_what_a_crash_left_is_swept_and_nothing_else(directory: Directory, path: Path) -> None:
    for name in ("a.yaml", ".nexusd-0123.tmp", ".hidden", ".nexusd-0123.keep"):
        (path / name).write_text("x")
    assert directory.sweep() == 1
    assert names(path) == {"a.yaml", ".hidden", ".nexusd-0123.keep"}
    assert set(directory.entries()) == {"a.yaml"}


def test_removing_takes_a_link_and_not_what_it_points_at(directory: Directory, path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not yours")
    (path / "a").symlink_to(tmp_path / "secret")
    assert directory.remove("a")
    assert not directory.remove("a")
    assert (tmp_path / "secret").exists()
    (path / "b").mkdir()
    with pytest.raises(BadContent):
        directory.remove("b")


def test_a_directory_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "files", "presets", LIMIT)
    with pytest.raises(FileNotFoundError):
        directory.entries()
    assert directory.look("a") is None
    with pytest.raises(ReadOnly):
        directory.write("a", b"x", 0o640)


def test_a_stamp_shows_every_change(directory: Directory, path: Path) -> None:
    first = directory.write("a", b"one", 0o640)
    os.utime(path / "a", ns=(0, 0))
    second = directory.look("a")
    assert isinstance(second, Stamp)
    assert second != first
    assert second.modified_ms == 0


def test_no_descriptor_is_left_open(directory: Directory, path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (path / "link").symlink_to("nowhere")
    for _ in range(20):
        directory.write("a", b"x", 0o640)
        directory.entries()
        directory.read("a")
        directory.remove("a")
        with pytest.raises(UnreadableError):
            directory.read("link")
        with pytest.raises(FileNotFoundError):
            directory.read("a")
        with pytest.raises(BadContent):
            directory.write("link", b"x", 0o640)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
