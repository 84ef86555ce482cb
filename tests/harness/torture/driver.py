"""The daemon of the campaign: real but for its embedder, with a handle on its steps, its disk and its index.

Run as a program it forks such daemons, see `harness.torture.spawning`. Two methods of its own: torture.arm (die at a
step; let the disk fail) and torture.points (what the index holds). The index is the embedded one, or, where
TORTURE_INDEX is "held", one in memory with a journal of its own beside the database, which starts faster.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any
from unittest import mock

from fakes.embedder import FakeEmbedder
from fakes.faulty_disk import BROKEN, FULL, FaultyDisk
from fakes.index import FakeIndex
from harness.torture.spawning import serve
from msgspec import Meta, Struct

import nexusd.app
import nexusd.parts
from nexusd.__main__ import main
from nexusd.embedding.embedder import EmbedderDied, RejectedText, Vector
from nexusd.errors import IndexUnavailable
from nexusd.index.index import CollectionSpec, Point
from nexusd.model.fields import NoParams, Params
from nexusd.parts import Parts
from nexusd.store.database import Database
from nexusd.wire.methods import Call, Method

DISK = "torture"


class Armed:
    """What is to go wrong in this process."""

    def __init__(self) -> None:
        self.kill_at = ""

    def reached(self, step: str) -> None:
        """Die here, as in a power cut, if this is the step."""
        caller = sys._getframe(2).f_globals["__name__"]  # the module that names it: several have a step of one name
        if self.kill_at == f"{caller}:{step}":
            os.kill(os.getpid(), signal.SIGKILL)


class FragileEmbedder(FakeEmbedder):
    """Refuses some texts and dies over others, while a kill is armed."""

    armed: Armed

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        if self.armed.kill_at:
            if any("deadly" in text for text in texts):
                raise EmbedderDied("died before it answered")
            for position, text in enumerate(texts):
                if "poison" in text:
                    raise RejectedText("the model refuses this text", position)
        return await super().embed_documents(texts)


class HeldIndex(FakeIndex):
    """A fake that outlives its process: what it is told is in a journal, on disk before it answers."""

    def __init__(self, path: Path, on_up: Callable[[], None], on_running: Callable[[bool], None]) -> None:
        super().__init__()
        self._path = path
        self._on_up, self._on_running = on_up, on_running
        self._journal: IO[bytes] | None = None

    async def start(self) -> None:
        self.incarnation = os.urandom(8).hex()
        whole = 0
        if self._path.exists():
            for line in self._path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # it was cut off in the middle, so nobody was answered
                self._again(json.loads(line))
                whole += len(line)
        self._journal = self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
        self._journal.seek(whole)
        self._journal.truncate()
        if whole == 0:
            self._write([["incarnation", self.incarnation]])
        loop = asyncio.get_running_loop()
        loop.call_soon(self._on_running, True)
        loop.call_soon(self._on_up)

    def _again(self, entry: list[Any]) -> None:
        match entry:
            case ["incarnation", name]:
                self.incarnation = name
            case ["ensure", name, dimension]:
                self._specs[name] = CollectionSpec(name, dimension)
                self._points.setdefault(name, {})
            case ["drop", name]:
                self._specs.pop(name, None)
                self._points.pop(name, None)
            case ["upsert", name, points]:
                for id_, version, vector, payload in points:
                    self._points[name][id_] = Point(id_, version, base64.b64decode(vector), payload)
            case ["delete", name, ids]:
                for id_ in ids:
                    self._points[name].pop(id_, None)

    def _write(self, entries: list[list[Any]]) -> None:
        """On disk, or nothing of it."""
        assert self._journal is not None
        data = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        before = self._journal.tell()
        try:
            os.posix_fallocate(self._journal.fileno(), before, len(data))  # a write could be cut short by a full disk
            self._journal.write(data)
            os.fdatasync(self._journal.fileno())
        except OSError as error:
            try:
                self._journal.seek(before)
                self._journal.truncate()
            except OSError:
                self.down = True  # what is on disk now only the next start can tell
            raise IndexUnavailable(f"its journal cannot be written: {error.strerror}") from None

    async def ensure(self, spec: CollectionSpec) -> str:
        if spec.name not in self._specs:
            self._write([["ensure", spec.name, spec.dimension]])
        return await super().ensure(spec)

    async def drop(self, collection: str) -> None:
        self._write([["drop", collection]])
        await super().drop(collection)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        rows = [[p.id, p.version, base64.b64encode(p.vector).decode(), dict(p.payload)] for p in points]
        self._held(collection)
        self._write([["upsert", collection, rows]])
        await super().upsert(collection, points)

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        self._held(collection)
        self._write([["delete", collection, list(ids)]])
        await super().delete(collection, ids)


class Arm(Params, frozen=True, kw_only=True):
    """Parameters of torture.arm."""

    kill_at: Annotated[str, Meta(max_length=200, description="MODULE:STEP")] = ""
    fault: Annotated[str, Meta(max_length=20, description="write, sync, full, or nothing: all is well again.")] = ""
    after: Annotated[int, Meta(ge=0, le=10_000, description="So many writes or syncs succeed before.")] = 0


class Points(Struct, frozen=True):
    """What the index holds: versions by id, by logical collection."""

    points: dict[str, dict[int, int]]


def enter(arguments: list[str]) -> int:
    """Be such a daemon."""
    gc.enable()
    armed = Armed()
    disk = FaultyDisk(DISK) if os.environ.get("TORTURE_DISK") else None
    FragileEmbedder.armed = armed

    class TorturedParts(Parts):
        """With the two methods."""

        def _register_methods(self) -> None:
            super()._register_methods()
            self.table.register([
                Method("torture.arm", "Let something go wrong.", Arm, bool, self._arm, "admin"),
                Method("torture.points", "What the index holds.", NoParams, Points, self._points, "admin"),
            ])

        async def _arm(self, _call: Call, params: Arm) -> bool:
            armed.kill_at = params.kill_at
            if disk is not None:
                disk.write_error = disk.sync_error = None
                disk.writes_to_pass = disk.syncs_to_pass = params.after
                disk.write_error = {"write": BROKEN, "full": FULL}.get(params.fault)
                disk.sync_error = BROKEN if params.fault == "sync" else None
            return True

        async def _points(self, _call: Call, _params: NoParams) -> Points:
            found: dict[str, dict[int, int]] = {}
            for collection in self.collections.logical:
                after, held = 0, found.setdefault(collection, {})
                while page := await self.index.scroll(self.collections.physical(collection), after, 1000):
                    held.update({point.id: point.version for point in page})
                    after = page[-1].id
            return Points(found)

    def held(directory: Path, *_: Any, on_up: Any, on_running: Any, **__: Any) -> HeldIndex:
        return HeldIndex(directory.with_name("held.log"), on_up, on_running)

    replaced: dict[str, Any] = {
        "nexusd.app.Parts": TorturedParts,
        "nexusd.parts.make_embedder": lambda *_a, **_k: FragileEmbedder(),
        "nexusd.sync.preparing.PATIENCE_S": 0.0,  # so that large claims give rows back
        **{f"nexusd.parts.{name}": _followed(kind, armed) for name, kind in followed_parts().items()},
    }
    if os.environ.get("TORTURE_INDEX") == "held":
        replaced["nexusd.parts.EmbeddedIndex"] = held
    if disk is not None:
        replaced["nexusd.parts.Database"] = functools.partial(Database, vfs=DISK)
    for target, value in replaced.items():
        mock.patch(target, value).start()
    return main(arguments)


def followed_parts() -> Mapping[str, type]:
    """The parts that tell their steps."""
    return {
        name: kind for name, kind in vars(nexusd.parts).items()
        if inspect.isclass(kind) and kind.__module__.startswith("nexusd.")
        and "reached" in inspect.signature(kind).parameters
    }  # fmt: skip


def _followed(kind: type, armed: Armed) -> Callable[..., Any]:
    def make(*args: Any, reached: Callable[[str], None] | None = None, **kwargs: Any) -> Any:
        def told(step: str) -> None:
            if reached is not None:
                reached(step)
            armed.reached(step)

        return kind(*args, reached=told, **kwargs)

    return make


if __name__ == "__main__":
    gc.freeze()
    serve(enter)
