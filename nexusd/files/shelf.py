"""One directory of files of one kind, and what is known of each of them.

Owns what has changed since it was last looked at, and that a change counts as seen only when whoever keeps the
contents has taken it over. Files are read on the files' own thread, a bounded amount at a time; what is known is
touched on the event loop alone. Knows no kind: what a file must hold is a function's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Generic, ParamSpec, TypeVar

import structlog

from nexusd.clock import Clock
from nexusd.errors import BadName
from nexusd.files.directory import Directory, Stamp, UnreadableError, UnusableError
from nexusd.files.names import check_name
from nexusd.files.yaml_content import ContentError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

BATCH_FILES = 64
BATCH_BYTES = 4 * 1024 * 1024   # of files read before the first of them is handed over
# A file may change twice in one tick of the disk's clock and look the same after: what changed just now is
# read once more.
UNSETTLED_MS = 100


@dataclass(frozen=True, slots=True)
class FileState(Generic[T]):
    """A file as it was last read: its content, or the problem with it. Without a stamp it is read again."""

    name: str
    stamp: Stamp | None = None
    digest: str = ""
    value: T | None = None
    size: int = 0
    modified_ms: int = 0
    problem: str = ""


# Takes over what changed: files as they were read, and names whose files are gone.
Commit = Callable[[Sequence[FileState[T]], Sequence[str]], Awaitable[None]]


class Shelf(Generic[T]):
    """The files of one directory with one ending. `parse` runs on the files' thread; it raises ContentError."""

    def __init__(
        self, directory: Directory, suffix: str, parse: Callable[[bytes], T], thread: Executor, clock: Clock
    ) -> None:
        self.directory = directory
        self.states: dict[str, FileState[T]] = {}
        self.problem = ""               # of the directory itself
        self.lock = asyncio.Lock()      # a file and what is kept of it change together
        self._suffix = suffix
        self._parse = parse
        self._thread = thread
        self._clock = clock
        self._log = structlog.get_logger("nexusd.files")
        self._passed_over: dict[str, str] = {}

    def file(self, name: str) -> str:
        """The file of this name."""
        return name + self._suffix

    async def off_loop(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function on the files' thread. One at a time, also when a caller goes away meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def refresh(self, commit: Commit[T], *, missing: Callable[[], Awaitable[None]]) -> None:
        """Look for changes and hand them over; `missing` is called when there is no directory. Hold the lock."""
        try:
            entries = await self._look()
            if entries is None:
                await missing()
                entries = await self._look() or {}
        except UnusableError as error:
            self._complain(str(error))
            return
        self._complain("")
        for batch in _batches([name for name, entry in entries.items() if self._changed(name, entry)], entries):
            read = await self.off_loop(self._read_all, batch, entries)
            if new := [state for state in read if self._differs(state)]:
                await commit(new, [])
            for state in read:
                self.note(state)
        gone = [name for name in self.states if name not in entries]
        if gone:
            await commit([], gone)
        for name in gone:
            del self.states[name]

    def note(self, state: FileState[T]) -> None:
        """Know this of a file from now on; a problem is logged when it is new."""
        before = self.states.get(state.name)
        self.states[state.name] = replace(state, value=None)    # it is kept elsewhere
        if state.problem and (before is None or (before.problem, before.digest) != (state.problem, state.digest)):
            self._log.warning("file cannot be taken", file=self.directory.shown(self.file(state.name)),
                              problem=state.problem)

    def read(self, name: str, seen: Stamp | None = None) -> FileState[T]:
        """The file as it is now; one that cannot be read has the stamp that was `seen`. Blocks.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            data, stamp = self.directory.read(self.file(name))
        except UnreadableError as error:
            size, modified_ms = (seen.size, seen.modified_ms) if seen is not None else (0, 0)
            return FileState(name, seen, problem=str(error), size=size, modified_ms=modified_ms)
        try:
            return self.state(name, data, stamp, self._parse(data))
        except ContentError as error:
            return self.state(name, data, stamp, None, str(error))

    def state(
        self, name: str, data: bytes, stamp: Stamp, value: T | None, problem: str = ""
    ) -> FileState[T]:
        """The file that holds these bytes since it had this stamp."""
        settled = abs(self._clock.now_ms() - stamp.changed_ns // 1_000_000) > UNSETTLED_MS
        digest = hashlib.sha256(data).hexdigest()
        return FileState(
            name, stamp if settled else None, digest, value, len(data), stamp.modified_ms, problem
        )

    async def _look(self) -> dict[str, Stamp | str] | None:
        """Every file of this kind by its name; None where there is no directory."""
        try:
            files, passed_over = await self.off_loop(self._sorted_out, frozenset(self.states))
        except FileNotFoundError:
            return None
        for file in passed_over.keys() - self._passed_over.keys():
            self._log.warning("file is passed over", file=self.directory.shown(_printable(file)),
                              problem=passed_over[file])
        self._passed_over = passed_over
        return files

    @property
    def passed_over(self) -> dict[str, str]:
        """Files that are not read because of their names, with the reason; the names as they can be shown."""
        return {_printable(file): why for file, why in self._passed_over.items()}

    def _sorted_out(self, known: frozenset[str]) -> tuple[dict[str, Stamp | str], dict[str, str]]:
        """The files of this kind by their names, and those that are passed over with the reason. Blocks."""
        files: dict[str, Stamp | str] = {}
        passed_over: dict[str, str] = {}
        for file, entry in sorted(self.directory.entries().items()):
            if not file.endswith(self._suffix):
                if file.endswith(".yml") and self._suffix == ".yaml":
                    passed_over[file] = "is not read: rename it to end in .yaml"
                continue
            name = file.removesuffix(self._suffix)
            if name not in known:   # a name that was good is: of thousands, each is judged once
                try:
                    if check_name(name) != name:
                        passed_over[file] = "is not read: its name is not in Unicode's composed form (NFC)"
                        continue
                except BadName as error:
                    passed_over[file] = f"is not read: {error.message}"
                    continue
            files[name] = entry
        return files, passed_over

    def _changed(self, name: str, entry: Stamp | str) -> bool:
        known = self.states.get(name)
        if known is None:
            return True
        return known.problem != entry if isinstance(entry, str) else known.stamp != entry

    def _differs(self, state: FileState[T]) -> bool:
        known = self.states.get(state.name)
        return known is None or (known.digest, known.problem) != (state.digest, state.problem)

    def _read_all(self, names: Sequence[str], entries: dict[str, Stamp | str]) -> list[FileState[T]]:
        read = []
        for name in names:
            entry = entries[name]
            try:
                read.append(FileState(name, problem=entry) if isinstance(entry, str) else self.read(name, entry))
            except FileNotFoundError:   # it went meanwhile; the next look sees that
                continue
        return read

    def _complain(self, problem: str) -> None:
        if problem and problem != self.problem:
            self._log.warning("directory cannot be used", directory=self.directory.shown(""), problem=problem)
        self.problem = problem


def _batches(names: Sequence[str], entries: dict[str, Stamp | str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        entry = entries[name]
        size += entry.size if isinstance(entry, Stamp) else 0
        if batch and (len(batch) == BATCH_FILES or size > BATCH_BYTES):
            yield batch
            batch, size = [], entry.size if isinstance(entry, Stamp) else 0
        batch.append(name)
    if batch:
        yield batch


def _printable(file: str) -> str:
    """A file name that may hold anything, also bytes that are no text, as a log or a reply may show it."""
    return "".join(one if unicodedata.category(one)[0] != "C" else "?" for one in file)
