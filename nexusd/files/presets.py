"""Presets: the files in presets/ and their mirror, the table.

Owns the order of the two. A file is written first and its row after it, so that whatever happens between them the
next look at the directory finds a file that the row does not know, and mends it. A file that breaks leaves its row:
the last good content goes on being served. Knows no method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from nexusd.clock import Clock
from nexusd.config_sections import FilesConfig
from nexusd.errors import (
    BadContent,
    Busy,
    Conflict,
    DiskFull,
    OutcomeUnknown,
    PresetNotFound,
    ReadOnly,
    Stopping,
)
from nexusd.files.directory import TEMPORARY_PREFIX, Directory, Stamp, UnusableError
from nexusd.files.names import check_name
from nexusd.files.paging import cursor_after, names_of_page
from nexusd.files.receipts import Receipts
from nexusd.files.shelf import FileState, Shelf
from nexusd.files.yaml_content import ContentError, read_yaml, write_yaml
from nexusd.model.events import Publish
from nexusd.model.fields import Deletion, Listing
from nexusd.model.presets import ListPresets, Preset
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.idempotency import Receipt
from nexusd.store.presets import (
    delete_preset,
    mirror_presets,
    select_preset,
    select_preset_by_id,
    select_preset_names,
    upsert_preset,
)
from nexusd.store.text_budget import TextBudget

Want = Literal["create", "update", "put"]

TOPIC = "files"
DIRECTORY = "presets"
SUFFIX = ".yaml"
FILE_MODE = 0o640


class PresetFiles:
    """All presets, as files and as rows."""

    def __init__(
        self, root: Path, config: FilesConfig, store: Database, thread: Executor, clock: Clock, publish: Publish
    ) -> None:
        self._max_bytes = config.max_file_bytes
        directory = Directory(root, DIRECTORY, config.max_file_bytes)
        self.shelf = Shelf(directory, SUFFIX, self._parse, thread, clock)
        self._new_directory = Directory(root, f"{TEMPORARY_PREFIX}{DIRECTORY}", config.max_file_bytes)
        self._directory = directory
        self._store = store
        self._receipts = Receipts(store, clock)
        self._clock = clock
        self._publish = publish
        self._log = structlog.get_logger("nexusd.files")
        self._compared = False  # whether rows without a file were looked for since the start

    async def scan(self) -> None:
        """Take over what changed in the directory.

        Raises:
            DiskFull, ReadOnly, Busy: the rows cannot be written now; the next scan tries again.
        """
        async with self.shelf.lock:
            await self.shelf.refresh(self._commit, missing=self._restore)
            if not self._compared and not self.shelf.problem:
                rows = await self._store.read(select_preset_names)
                await self._commit([], [name for name in rows if name not in self.shelf.states])
                self._compared = True

    async def put(
        self, name: str, content: dict[str, Any], receipt: Receipt | None, want: Want
    ) -> Preset | msgspec.Raw:
        """Write a preset: its file, then its row. A file that says the same already is left as it is.

        Raises:
            BadName, BadContent: it cannot be a file.
            Conflict: `create`, and there is one of this name, good or broken.
            PresetNotFound: `update`, and there is none.
            DiskFull, ReadOnly: the file cannot be written; it is as it was.
            OutcomeUnknown: the file is written, the row is not yet.
        """
        name = check_name(name)
        async with self.shelf.lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            state = await self.shelf.off_loop(self._write, name, content, want)
            encoded = msgspec.json.encode(content).decode()
            try:
                stored = await self._store.write_once(receipt, upsert_preset, name, encoded, self._clock.now_ms())
            except (Busy, DiskFull, ReadOnly, Stopping) as error:
                raise OutcomeUnknown(
                    f"{self._file(name)} is written, its row in the database is not: "
                    "it follows as soon as the database takes writes."
                ) from error
            self.shelf.note(state)
            return stored

    async def delete(self, name: str, receipt: Receipt | None) -> Deletion | msgspec.Raw:
        """Remove a preset, good or broken: its file, then its row.

        Raises:
            BadName, PresetNotFound: there is none.
            BadContent: a directory has its name.
            DiskFull, ReadOnly, OutcomeUnknown: as for `put`.
        """
        name = check_name(name)
        async with self.shelf.lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            removed = await self.shelf.off_loop(self._directory.remove, self._file_name(name))
            try:
                gone = await self._store.write_once(receipt, _delete, name, removed)
            except (Busy, DiskFull, ReadOnly, Stopping) as error:
                raise OutcomeUnknown(
                    f"{self._file(name)} is removed, its row in the database is not: "
                    "it follows as soon as the database takes writes."
                ) from error
            self.shelf.states.pop(name, None)
            return gone

    def get(self, *, name: str | None = None, preset_id: int | None = None) -> Preset:
        """One preset, with what is wrong with its file if anything is.

        Raises:
            BadName, PresetNotFound: there is none.
            BadContent: there is a file that was never good.
        """
        if preset_id is not None:
            return self._judged(self._store.peek(select_preset_by_id, preset_id))
        name = check_name(name or "")
        try:
            return self._judged(self._store.peek(select_preset, name))
        except PresetNotFound:
            state = self.shelf.states.get(name)
            if state is None or not state.problem:
                raise
            raise BadContent(f"{self._file(name)}: {state.problem}") from None

    async def page(self, params: ListPresets) -> Listing[Preset]:
        """A page of presets by name, those with broken files among them."""
        broken = {name: state for name, state in self.shelf.states.items() if state.problem}
        return await self._store.read(_list, params, broken)

    def broken(self) -> dict[str, str]:
        """Every file that cannot be taken, with what is wrong with it."""
        found = {self._file(name): state.problem for name, state in self.shelf.states.items() if state.problem}
        return found | {self._directory.shown(file): why for file, why in self.shelf.passed_over.items()}

    def _file_name(self, name: str) -> str:
        return self.shelf.file(name)

    def _file(self, name: str) -> str:
        return self._directory.shown(self.shelf.file(name))

    def _judged(self, preset: Preset) -> Preset:
        state = self.shelf.states.get(preset.name)
        return _with_problem(preset, state.problem) if state is not None and state.problem else preset

    def _parse(self, data: bytes) -> bytes:
        return msgspec.json.encode(read_yaml(data, max_bytes=self._max_bytes))

    def _write(self, name: str, content: dict[str, Any], want: Want) -> FileState[bytes]:
        """Write the file, unless it holds this content already. On the files' thread."""
        try:
            there = self._directory.look(self._file_name(name))
        except UnusableError as error:
            raise ReadOnly(f"{self._file(name)} cannot be written: {error}.") from None
        if want == "create" and there is not None:
            raise Conflict("There is a preset of this name already.")
        if want == "update" and there is None:
            raise PresetNotFound
        encoded = msgspec.json.encode(content)
        if isinstance(there, Stamp):
            try:
                state = self.shelf.read(name)
            except FileNotFoundError:   # it went between two looks
                state = FileState(name)
            if state.value == encoded:
                return state
        try:
            data = write_yaml(content, max_bytes=self._max_bytes)
        except ContentError as error:
            raise BadContent(f"The content cannot be a preset: {error}.") from None
        return self.shelf.state(name, data, self._directory.write(self._file_name(name), data, FILE_MODE), encoded)

    async def _commit(self, states: Sequence[FileState[bytes]], gone: Sequence[str]) -> None:
        good = [(state.name, state.value.decode()) for state in states if state.value is not None]
        changed: list[str] = []
        if good or gone:
            changed = await self._store.write(mirror_presets, good, gone, self._clock.now_ms())
        for state in states:
            if state.problem:
                self._tell(state.name, "broken")
            elif self._compared or state.name in changed:   # at the start most are as they were
                self._tell(state.name, "changed")
        for name in gone:
            self._tell(name, "removed")

    def _tell(self, name: str, change: str) -> None:
        self._publish(TOPIC, {"kind": "preset", "name": name, "change": change})

    async def _restore(self) -> None:
        """There is no directory: make it, with a file for each row. Whoever removes presets removes files."""
        names = await self._store.read(select_preset_names)
        await self.shelf.off_loop(self._new_directory.make)
        for name in names:
            preset = await self._store.read(select_preset, name)
            await self.shelf.off_loop(self._write_again, preset)
        await self.shelf.off_loop(self._new_directory.become, self._directory)
        if names:
            self._log.warning("the directory of the presets was gone; made anew from the database", files=len(names))

    def _write_again(self, preset: Preset) -> None:
        """A row's file, in a directory that has not its name yet: a crash must not leave half of them there."""
        try:
            data = write_yaml(preset.content or {}, max_bytes=self._max_bytes)
        except ContentError as error:   # the bound was lowered meanwhile
            self._log.warning("no file can be made of a preset", file=self._file(preset.name), problem=str(error))
            return
        self._new_directory.write(self._file_name(preset.name), data, FILE_MODE)


def _with_problem(preset: Preset, problem: str) -> Preset:
    return msgspec.structs.replace(preset, state="broken", problem=problem)


def _never_good(state: FileState[bytes]) -> Preset:
    return Preset(
        id=None, name=state.name, content=None, state="broken", problem=state.problem, created_at=None, updated_at=None
    )


def _delete(db: Connection, name: str, removed: bool) -> Deletion:  # noqa: FBT001 (given by position to the writer)
    rows = int(delete_preset(db, name))
    if not rows and not removed:
        raise PresetNotFound
    return Deletion(deleted={"presets": rows, "files": int(removed)}, points_queued=0)


def _list(db: Connection, params: ListPresets, broken: Mapping[str, FileState[bytes]]) -> Listing[Preset]:
    rows = set(select_preset_names(db))
    budget, items, more = TextBudget(), list[Preset](), False
    for name in names_of_page(DIRECTORY, sorted(rows | broken.keys()), params):
        preset = select_preset(db, name) if name in rows else _never_good(broken[name])
        more = len(items) == params.limit or not budget.take(msgspec.json.encode(preset.content).decode())
        if more:
            break
        items.append(_with_problem(preset, broken[name].problem) if name in broken else preset)
    return Listing(items=items, next_cursor=cursor_after(DIRECTORY, items[-1].name) if more else None)
