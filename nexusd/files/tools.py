"""Tools: the files in tools/. They are kept and handed out; nothing here runs them, or understands them.

Knows no method and no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from nexusd.clock import Clock
from nexusd.config_sections import FilesConfig
from nexusd.errors import BadContent, TooLarge, ToolNotFound
from nexusd.files.directory import Directory, Stamp, UnusableError
from nexusd.files.names import check_name
from nexusd.files.paging import cursor_after, names_of_page
from nexusd.files.receipts import Receipts
from nexusd.files.shelf import FileState, Shelf
from nexusd.files.yaml_content import ContentError
from nexusd.model.events import Publish
from nexusd.model.fields import Deletion, Listing
from nexusd.model.tools import ListTools, Tool, ToolFile
from nexusd.store.database import Database
from nexusd.store.idempotency import Receipt

TOPIC = "files"
DIRECTORY = "tools"
SUFFIX = ".js"
FILE_MODE = 0o640   # no one is meant to execute it by its name


class ToolFiles:
    """All tools."""

    def __init__(
        self, root: Path, config: FilesConfig, store: Database, thread: Executor, clock: Clock, publish: Publish
    ) -> None:
        self._max_bytes = config.max_file_bytes
        self._directory = Directory(root, DIRECTORY, config.max_file_bytes)
        self.shelf: Shelf[str] = Shelf(self._directory, SUFFIX, _text, thread, clock)
        self._receipts = Receipts(store, clock)
        self._publish = publish

    async def scan(self) -> None:
        """Take over what changed in the directory."""
        async with self.shelf.lock:
            await self.shelf.refresh(self._commit, missing=self._make)

    async def put(self, name: str, source: str, receipt: Receipt | None) -> ToolFile | msgspec.Raw:
        """Write a tool, new or in the place of the one that is there.

        Raises:
            BadName, TooLarge, BadContent: it cannot be a file.
            DiskFull, ReadOnly, OutcomeUnknown: the file cannot be written.
        """
        name, data = check_name(name), source.encode()
        if len(data) > self._max_bytes:
            raise TooLarge(f"The source has {len(data):,} bytes; at most {self._max_bytes:,} are taken.")
        async with self.shelf.lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            state = await self.shelf.off_loop(self._write, name, data)
            self.shelf.note(state)
            return await self._receipts.keep(receipt, _described(state))

    async def delete(self, name: str, receipt: Receipt | None) -> Deletion | msgspec.Raw:
        """Remove a tool, good or broken.

        Raises:
            BadName, ToolNotFound: there is none.
            BadContent: a directory has its name.
            DiskFull, ReadOnly, OutcomeUnknown: the disk does not take it.
        """
        name = check_name(name)
        async with self.shelf.lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            if not await self.shelf.off_loop(self._directory.remove, self.shelf.file(name)):
                raise ToolNotFound
            self.shelf.states.pop(name, None)
            gone = Deletion(deleted={"files": 1}, points_queued=0)
            return await self._receipts.keep_deletion(receipt, gone, "tools.put")

    async def get(self, name: str) -> Tool:
        """A tool as its file is now.

        Raises:
            BadName, ToolNotFound: there is none.
            BadContent: it cannot be read as a text.
        """
        name = check_name(name)
        try:
            state = await self.shelf.off_loop(self.shelf.read, name)
        except FileNotFoundError:
            raise ToolNotFound from None
        if state.value is None:
            raise BadContent(f"{self._directory.shown(self.shelf.file(name))}: {state.problem}")
        return Tool(
            name=name, source=state.value, bytes=state.size, modified_at=state.modified_ms, sha256=state.digest
        )

    def page(self, params: ListTools) -> Listing[ToolFile]:
        """A page of tools by name, broken ones among them."""
        names = names_of_page(DIRECTORY, sorted(self.shelf.states), params)
        items = [_described(self.shelf.states[name]) for name in names[: params.limit]]
        more = len(names) > params.limit
        return Listing(items=items, next_cursor=cursor_after(DIRECTORY, items[-1].name) if more else None)

    def broken(self) -> dict[str, str]:
        """Every file that cannot be taken, with what is wrong with it."""
        found = {self.shelf.file(name): state.problem for name, state in self.shelf.states.items() if state.problem}
        return {self._directory.shown(file): why for file, why in (found | self.shelf.passed_over).items()}

    def _write(self, name: str, data: bytes) -> FileState[str]:
        """Write the file, unless it holds this already. On the files' thread."""
        try:
            if isinstance(self._directory.look(self.shelf.file(name)), Stamp):
                state = self.shelf.read(name)
                if state.value is not None and state.value.encode() == data:
                    return state
        except (FileNotFoundError, UnusableError):  # the write says what is wrong
            pass
        stamp = self._directory.write(self.shelf.file(name), data, FILE_MODE)
        return self.shelf.state(name, data, stamp, None)

    async def _commit(self, states: Sequence[FileState[str]], gone: Sequence[str]) -> None:
        for state in states:
            self._tell(state.name, "broken" if state.problem else "changed")
        for name in gone:
            self._tell(name, "removed")

    def _tell(self, name: str, change: str) -> None:
        self._publish(TOPIC, {"kind": "tool", "name": name, "change": change})

    async def _make(self) -> None:
        await self.shelf.off_loop(self._directory.make)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ContentError("not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None


def _described(state: FileState[str]) -> ToolFile:
    return ToolFile(
        name=state.name,
        bytes=state.size,
        modified_at=state.modified_ms,
        sha256=None if state.problem else state.digest,
        state="broken" if state.problem else "ok",
        problem=state.problem or None,
    )
