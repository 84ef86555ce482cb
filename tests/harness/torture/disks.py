"""Disks that can be filled and cut off: a small tmpfs, an ext4 file system on a loop device.

Owns mounting, filling and the power cut. Needs root, and is meant for a mount namespace of its own, so that whatever
happens to this process no mount is left behind (`scripts/torture` sees to that).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NOLOGFLUSH = 2  # the journal is not written out first: what was not synced is gone
IMAGE_BYTES = 96 * 1024 * 1024
SMALL_BYTES = 24 * 1024 * 1024  # the embedded index alone takes a good part of it


class Disk:
    """A plain directory: it holds what the kernel was given, whatever becomes of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def attach(self) -> None:
        """Make it usable, and empty."""
        self.path.mkdir(parents=True)

    def detach(self) -> None:
        """Let it go, with what is on it."""
        shutil.rmtree(self.path)


class Mounted(Disk):
    """A file system of its own."""

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self.path)], check=True, capture_output=True)

    def unmount(self) -> None:
        """Until whoever had files open there is gone for good."""
        for _ in range(200):
            done = subprocess.run(["umount", str(self.path)], check=False, capture_output=True)
            if done.returncode == 0:
                return
            time.sleep(0.01)
        raise AssertionError(f"{self.path} stays busy: {done.stderr.decode()}")

    def detach(self) -> None:
        self.unmount()
        self.path.rmdir()

    def fill(self, room: int) -> None:
        """Leave so many bytes of it."""
        block = b"x" * 65536
        with (self.path / "filler").open("wb", buffering=0) as filler:
            with contextlib.suppress(OSError):  # full: that is the point
                while filler.write(block):
                    pass
            filler.truncate(max(0, filler.tell() - room))

    def empty(self) -> None:
        """Give the room back."""
        (self.path / "filler").unlink(missing_ok=True)


class SmallTmpfs(Mounted):
    """A disk in memory that is soon full."""

    def attach(self) -> None:
        self.path.mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs")


class LoopExt4(Mounted):
    """ext4 on a file, whose power can be cut."""

    @property
    def _image(self) -> Path:
        return self.path.with_name(f"{self.path.name}.img")

    def attach(self) -> None:
        self.path.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        """As at a boot: the journal is played again first."""
        self._mount("-o", "loop", str(self._image))

    def cut_power(self) -> None:
        """From now on nothing reaches it any more; whoever writes or syncs is told EIO."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(directory)

    def detach(self) -> None:
        super().detach()
        self._image.unlink()


def why_no_mounts(scratch: Path) -> str | None:
    """Why file systems cannot be mounted here; None if they can."""
    if os.geteuid() != 0:
        return "needs root to mount file systems"
    return _why_not(SmallTmpfs(scratch / "try"))


def why_no_loop(scratch: Path) -> str | None:
    """Why ext4 on a loop device cannot be had here; None if it can."""
    if (reason := why_no_mounts(scratch)) is not None:
        return reason
    if shutil.which("mkfs.ext4") is None:
        return "there is no mkfs.ext4"
    return _why_not(LoopExt4(scratch / "try"))


def _why_not(disk: Disk) -> str | None:
    try:
        disk.attach()
    except subprocess.CalledProcessError as error:
        shutil.rmtree(disk.path)
        return f"a {type(disk).__name__} cannot be mounted: {error.stderr.decode().strip()}"
    disk.detach()
    return None
