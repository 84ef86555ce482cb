"""A disk that fails on command: an apsw VFS in front of the real one."""

from __future__ import annotations

import threading

import apsw

FULL = apsw.FullError
BROKEN = apsw.IOError


class FaultyDisk(apsw.VFS):
    """The real file system with its locks and shared memory, until `write_error` or `sync_error` is set."""

    def __init__(self, name: str) -> None:
        self.vfs_name = name
        self.write_error: type[Exception] | None = None
        self.sync_error: type[Exception] | None = None
        self.refused = threading.Event()    # something was refused
        self.writes_to_pass = 0             # so many writes succeed before write_error holds
        self.syncs_to_pass = 0              # and so many syncs before sync_error
        self.unreadable_from: int | None = None     # from this byte of each file on
        super().__init__(name, base="")

    def xOpen(self, name, flags):  # noqa: N802, ANN001, ANN201 - the name and shape that SQLite's interface has
        return FaultyFile(self, name, flags)


class FaultyFile(apsw.VFSFile):
    """One file on that disk."""

    def __init__(self, disk: FaultyDisk, name, flags) -> None:  # noqa: ANN001 - as SQLite passes them
        self.disk = disk
        super().__init__("", name, flags)

    def xLock(self, level) -> None:  # noqa: N802, ANN001 - SQLite's name
        # A connection that only reads asks for the exclusive lock when it closes a WAL database. The real disk refuses,
        # and SQLite goes on; a refusal that came through here would be raised, unless it is "busy".
        try:
            super().xLock(level)
        except apsw.IOError as error:
            raise apsw.BusyError(str(error)) from None

    def xRead(self, amount, offset) -> bytes:  # noqa: N802, ANN001 - SQLite's name
        if self.disk.unreadable_from is not None and offset >= self.disk.unreadable_from:
            error = apsw.IOError("unreadable by the test")
            error.extendedresult = apsw.SQLITE_IOERR_READ
            raise error
        return super().xRead(amount, offset)

    def xWrite(self, data, offset) -> None:  # noqa: N802, ANN001 - SQLite's name
        if self.disk.write_error is not None:
            if self.disk.writes_to_pass <= 0:
                self.disk.refused.set()
                raise self.disk.write_error("refused by the test")
            self.disk.writes_to_pass -= 1
        super().xWrite(data, offset)

    def xSync(self, flags) -> None:  # noqa: N802, ANN001 - SQLite's name
        if self.disk.sync_error is not None:
            if self.disk.syncs_to_pass <= 0:
                self.disk.refused.set()
                raise self.disk.sync_error("refused by the test")
            self.disk.syncs_to_pass -= 1
        super().xSync(flags)
