"""The embedded index: qdrant-edge in a child process of our own.

Owns the child, what was ensured, and the check of every vector before it goes out. The engine holds the
interpreter's lock in every call, so it is never loaded here. Knows no table and no text.

A collection that this run has not ensured is IndexUnavailable: its owner has not come up yet, and an empty
answer would look like the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from nexusd.child import ChildDied, ChildProcess, ChildRefused, ChildUnavailable
from nexusd.clock import Clock
from nexusd.config_sections import IndexConfig
from nexusd.errors import BadContent, DimensionMismatch, IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.identity import check_name, check_spec, checked_id
from nexusd.index.index import CollectionSpec, Hit, IndexDied, IndexHealth, Point, PointVersion, Vector
from nexusd.index.stored_payload import within_64_bits
from nexusd.index.vectors import checked_vector

SHARD_PROCESS = "nexusd.index.shard_process"
WATCH_S = 15.0  # how long the child may keep quiet
WATCH_AGAIN_S = 0.5  # after it could not be asked


class EmbeddedIndex:
    """An Index in a child process; see the protocol for what each method promises."""

    def __init__(
        self,
        directory: Path,
        config: IndexConfig,
        clock: Clock,
        *,
        on_up: Callable[[], None] | None = None,
        on_running: Callable[[bool], None] | None = None,
        secure_delete: bool = False,
        child_module: str = SHARD_PROCESS,
    ) -> None:
        """`on_up` is called whenever the child has come up, with whatever it still holds; `on_running` then and
        when it went away. `secure_delete`: what was deleted leaves the files too, see `erased`.
        """
        self._seen = asyncio.Event()  # set, and made anew, when the child has told how it is doing
        self._on_up = on_up
        self._timeout_s = config.call_timeout_s
        self._clock = clock
        self._log = structlog.get_logger("nexusd.index")
        self._specs: dict[str, CollectionSpec] = {}
        self._incarnations: dict[str, str] = {}
        self._rebuilds: dict[str, Any] = {}  # what the child told last
        self._resident_bytes = 0
        self._watcher: asyncio.Task[None] | None = None
        self._child = ChildProcess(
            "index",
            child_module,
            [str(directory), str(config.rebuild_after), "secure" if secure_delete else "plain"],
            on_started=self._open_again,
            on_running=on_running,
        )

    async def start(self) -> None:
        """Start the child; does not wait for it."""
        self._child.start()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name="index:watch")

    async def close(self) -> None:
        """Let the child flush and end."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await self._child.close()

    async def ensure(self, spec: CollectionSpec) -> str:
        """Make or open the collection; answers its incarnation.

        Raises:
            BadName: not a name for a collection.
            DimensionMismatch: it exists with another dimension or distance.
            IndexUnavailable: not now.
        """
        check_name(spec.name)
        check_spec(self._specs.get(spec.name), spec)
        opened = await self._call("ensure", asdict(spec))
        self._specs[spec.name] = spec
        self._note_incarnation(spec.name, opened["incarnation"])
        return self._incarnations[spec.name]

    async def drop(self, collection: str) -> None:
        """Remove the collection."""
        check_name(collection)
        spec = self._specs.pop(collection, None)  # first: a restart meanwhile must not make it again
        try:
            await self._call("drop", {"collection": collection})
        except IndexUnavailable:
            if spec is not None:
                self._specs.setdefault(collection, spec)
            raise
        self._incarnations.pop(collection, None)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Store points; returns when they are on disk."""
        spec = self._spec(collection)
        rows = [
            (checked_id(point.id), point.version, checked_vector(point.vector, spec), point.payload)
            for point in points
        ]
        if rows:
            await self._call("upsert", {"collection": collection, "points": rows})

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Remove points; returns when that is on disk."""
        self._spec(collection)
        if ids:
            checked = [checked_id(id_) for id_ in ids]
            await self._call("delete", {"collection": collection, "ids": checked})

    async def search(self, collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        """The `limit` nearest points that pass the filter, nearest first."""
        asked = {
            "collection": collection,
            "vector": checked_vector(vector, self._spec(collection)),
            "limit": limit,
            "where": None if where is None else asdict(where),
        }
        return [Hit(*found) for found in await self._call("search", asked)]

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        """Up to `limit` points with ids greater than `after_id`, ascending."""
        self._spec(collection)
        asked = {"collection": collection, "after_id": after_id, "limit": limit}
        return [PointVersion(*found) for found in await self._call("scroll", asked)]

    async def count(self, collection: str) -> int:
        """How many points the collection holds, exactly."""
        self._spec(collection)
        (count,) = await self._call("count", {"collection": collection})
        return int(count)

    async def erased(self) -> None:
        """Return when nothing of a deleted point is left in the files; only with `secure_delete`.

        Every collection is written anew when nothing was deleted from it for a little while.
        """
        while True:
            seen = self._seen  # taken before the question: news that comes after it wakes us
            with contextlib.suppress(IndexUnavailable):  # it will be back
                if not await self._call("erasing", {}):
                    return
            await seen.wait()

    async def publish(self, names: Mapping[str, str]) -> None:
        """Nobody else can read it."""

    def health(self) -> IndexHealth:
        """The state as last seen."""
        child = self._child
        rebuilds = self._rebuilds if child.running else {}
        detail = rebuilds.get("failure", "") if child.running else child.last_error or "starting"
        return IndexHealth(
            available=child.running,
            detail=detail,
            rebuilding=bool(rebuilds.get("rebuilding")),
            restarts=child.restarts,
            process_ids=tuple(pid for pid in (child.pid, rebuilds.get("pid")) if pid),
            incarnations=dict(self._incarnations),
            resident_bytes=self._resident_bytes if child.running else 0,
        )

    async def _watch(self) -> None:
        """Keep `health` up to date.

        The child answers when something changed, at the latest after WATCH_S; so this also finds a child
        that has stopped while nobody asks it anything.
        """
        while True:
            asked = {"seen": self._rebuilds, "within_s": WATCH_S}
            try:
                seen = await self._child.call("watch", asked, timeout_s=WATCH_S + self._timeout_s)
            except (ChildUnavailable, ChildRefused):
                self._rebuilds = {}
                await asyncio.sleep(WATCH_AGAIN_S)
                continue
            self._resident_bytes = seen["resident_bytes"]
            self._note_rebuilds(seen["state"])
            self._seen.set()
            self._seen = asyncio.Event()

    def _note_rebuilds(self, state: dict[str, Any]) -> None:
        before, self._rebuilds = self._rebuilds, state
        if state["failure"] and state["failure"] != before.get("failure"):
            self._log.error("index rebuild failed; the old shard serves on", reason=state["failure"])
        if state["rebuilding"] and state["pid"] != before.get("pid"):
            self._log.info("index rebuild begins", collection=state["rebuilding"])
        if state["finished"] > before.get("finished", 0):
            self._log.info("index rebuild done", finished=state["finished"])

    def _spec(self, collection: str) -> CollectionSpec:
        spec = self._specs.get(collection)
        if spec is None:
            raise IndexUnavailable(f"the collection {collection} is not open yet")
        return spec

    async def _open_again(self, child: ChildProcess) -> None:
        """A fresh child knows no collection; and it is up only when it has answered something."""
        await child.call_starting("watch", {"seen": None, "within_s": 0.0}, timeout_s=self._timeout_s)
        for spec in list(self._specs.values()):
            try:
                opened = await child.call_starting("ensure", asdict(spec), timeout_s=self._timeout_s)
            except ChildRefused as error:  # the others are served; the next call on this one tries again
                self._log.error("index collection cannot be opened", collection=spec.name, reason=str(error))
            else:
                self._note_incarnation(spec.name, opened["incarnation"])
        if self._on_up is not None:
            self._on_up()

    def _note_incarnation(self, name: str, incarnation: str) -> None:
        before = self._incarnations.get(name, incarnation)
        self._incarnations[name] = incarnation
        if before != incarnation:
            self._log.error(
                "index collection could not be loaded; it was set aside and begun anew", collection=name
            )

    async def _call(self, op: str, asked: dict[str, Any]) -> Any:
        """Ask the child, in the one error that this index has.

        Raises:
            IndexUnavailable, DimensionMismatch, BadContent: as the protocol says.
        """
        try:
            return await self._ask(op, asked)
        except ChildDied as error:
            raise IndexDied(str(error)) from error
        except ChildUnavailable as error:
            raise IndexUnavailable(str(error)) from error
        except ChildRefused as error:
            if error.kind == "dimension_mismatch":
                raise DimensionMismatch(str(error)) from error
            if error.kind == "bad_content":
                raise BadContent(str(error)) from error
            raise IndexUnavailable(str(error)) from error
        except (TypeError, UnicodeEncodeError) as error:  # what msgpack cannot say, JSON cannot either
            raise BadContent(f"the payload cannot be stored: {error}") from error

    async def _ask(self, op: str, asked: dict[str, Any]) -> Any:
        try:
            return await self._child.call(op, asked, timeout_s=self._timeout_s)
        except OverflowError:  # a whole number past 64 bits: rare, so looked for only now
            return await self._child.call(op, within_64_bits(asked), timeout_s=self._timeout_s)
        except ChildRefused as error:
            spec = self._specs.get(asked.get("collection", ""))
            if error.kind != "no_collection" or spec is None:
                raise
            # it could not be opened when the child came up; perhaps it can now
            opened = await self._child.call("ensure", asdict(spec), timeout_s=self._timeout_s)
            self._note_incarnation(spec.name, opened["incarnation"])
            return await self._child.call(op, asked, timeout_s=self._timeout_s)
