"""systemd's journal as far as its native protocol goes: a datagram socket that reads entries back."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType

MAX_DATAGRAM = 4 * 1024 * 1024
F_GET_SEALS, ALL_SEALS = 1034, 0xF     # of Linux: seal, shrink, grow, write

END = "that is all"

Entry = dict[str, str]


def parse(data: bytes) -> Entry:
    """The fields of one entry; each may stand once. Strict: whatever the journal would drop is an error."""
    entry: Entry = {}
    while data:
        head, newline, rest = data.partition(b"\n")
        assert newline, "an entry ends with its last field"
        name, equals, value = head.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, data = rest[8:8 + length], rest[8 + length:9 + length], rest[9 + length:]
            assert end == b"\n"
            assert len(value) == length
        text = name.decode("ascii")
        assert 0 < len(text) <= 64, text
        assert text[0] not in "_0123456789", text
        assert all(c.isupper() or c.isdigit() or c == "_" for c in text), text
        assert text not in entry, f"{text} stands twice"
        entry[text] = value.decode("utf-8")
    assert "MESSAGE" in entry
    return entry


class FakeJournal:
    """Listens at a path until it is closed. `by_memory_file` counts the entries that came as a file descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_memory_file = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def next(self) -> Entry:
        """The next entry; waits for it."""
        data, ancillary, flags, _ = self.socket.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(4))
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not ancillary:
            return parse(data)
        assert data == b"", "a datagram with a descriptor has no content of its own"
        [(level, kind, packed)] = ancillary
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        descriptors = array.array("i")
        descriptors.frombytes(packed)
        [descriptor] = descriptors
        try:
            assert fcntl.fcntl(descriptor, F_GET_SEALS) == ALL_SEALS    # or the journal would not take it
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)
        self.by_memory_file += 1
        return parse(data)

    def entries(self) -> list[Entry]:
        """Every entry that is there by now."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(10)

    def close(self) -> None:
        """Be gone, path and all."""
        self.socket.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> FakeJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReadJournal(FakeJournal):
    """One that keeps up: its entries are taken as they come, as the real one's are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.socket.settimeout(None)
        self._taken: list[Entry] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while (entry := self.next())["MESSAGE"] != END:
            self._taken.append(entry)

    def entries(self) -> list[Entry]:
        """Every entry that was handed over by now; it takes no more from then on."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
                ending.sendto(f"MESSAGE={END}\n".encode(), str(self.path))
            self._thread.join(30)
        return self._taken

    def close(self) -> None:
        """Be gone, path, thread and all."""
        self.entries()
        super().close()
