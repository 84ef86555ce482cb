"""The one SQLite writer.

Owns the write connection, its thread, the queue before it, and what a full or failing disk or a damaged file does to
writes.
Callers hand it a function; it answers when that function's transaction is on disk. Knows no RPC method, and
no table but the row in `meta` by which it asks a full disk for room.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apsw
import structlog

from nexusd.clock import Clock
from nexusd.errors import Busy, DiskFull, ReadOnly, RpcError, Stopping, StoreDamaged
from nexusd.store.batch import BUSY_RETRY_MS, FULL_RETRY_MS, MAX_BATCH, GroupCommit, Request
from nexusd.store.checkpoints import Checkpointer
from nexusd.store.connection import Connection
from nexusd.store.damage import damage_of, lasts

DiskState = Literal["ok", "full", "failed", "damaged"]  # damaged: the disk may be well, what is on it is not

IDLE_TURN_S = 1.0           # how often the thread turns with nothing to do: heartbeat, checkpoint, probe
PROBE_BYTES = 256 * 1024    # room for a batch of exchanges: with less, the writes let in would fail at once

# ask the disk for room, for real: what is only written and undone never reaches it
PROBE = """
INSERT INTO meta (key, value) VALUES ('probe', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
# and give it back
FORGET_PROBE = "DELETE FROM meta WHERE key = 'probe'"


@dataclass(frozen=True, slots=True)
class WriterProgress:
    """What a watchdog and a status line want to know."""

    waiting: int            # writes not answered yet
    turn_age_s: float       # since the thread last turned: about a second at most, unless something is stuck
    batches: int
    writes: int
    lost_batches: int
    last_batch: int
    largest_batch: int
    batches_by_size: tuple[int, ...]    # commits of 1 write, of 2, of 3 and 4, ... up to MAX_BATCH
    wal_bytes: int
    disk: DiskState


class Writer:
    """The writer thread. Made, started, asked and closed on the event loop's thread."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        *,
        max_waiting: int,
        followed: bool = False,
        on_commit: Callable[[], None] | None,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._db = connection
        self._clock = clock
        self._max_waiting = max_waiting
        self._on_commit = on_commit
        self._on_fatal = on_fatal
        self._log = structlog.get_logger("nexusd.store")
        self._group = GroupCommit(connection)
        self._checkpointer = Checkpointer(connection, followed=followed)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        # touched on the loop's thread only
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._erased = asyncio.Event()      # set, and made anew, when the WAL was cut
        self._gathering: list[Request] = []
        self._unanswered = 0
        self._closing = False
        # from the loop to the thread; None says that nothing more will come
        self._handed_over: queue.SimpleQueue[list[Request] | StoreDamaged | None] = queue.SimpleQueue()
        # written on the writer's thread only; the loop reads the plain ones
        self._waiting: deque[Request] = deque()
        self._last_seen = False
        self._disk: DiskState = "ok"
        self._turned_at = clock.monotonic_s()
        self._batches = 0
        self._writes = 0
        self._lost_batches = 0
        self._last_batch = 0
        self._largest_batch = 0
        self._batches_by_size = [0] * ((MAX_BATCH - 1).bit_length() + 1)

    # ---- on the event loop's thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def set_max_waiting(self, count: int) -> None:
        """Let so many writes wait from now on."""
        self._max_waiting = count

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Queue a write. The future answers when it is on disk; cancelling the future does not undo it.

        Raises:
            Busy: the queue is full.
            DiskFull, ReadOnly, StoreDamaged, Stopping: nothing is written at the moment, or any more.
        """
        if self._closing:
            raise Stopping
        if self._disk != "ok":
            raise self._refusal()
        if self._unanswered >= self._max_waiting:
            raise Busy("Too many writes are waiting.", retry_after_ms=BUSY_RETRY_MS)
        if not self._gathering:
            # what one turn of the loop brings goes over together: one wake-up, one batch
            self._loop.call_soon(self._hand_over)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._gathering.append(Request(function, args, reply))
        self._unanswered += 1
        return reply

    def _hand_over(self) -> None:
        if self._gathering:
            self._handed_over.put(self._gathering)
            self._gathering = []

    def note_damage(self, damage: StoreDamaged) -> None:
        """A reader came upon it."""
        self._handed_over.put(damage)

    def note_deletion(self) -> None:
        """A write is deleting something for good. On the writer's thread."""
        self._checkpointer.note_deletion()

    async def erased(self) -> None:
        """Return when nothing is left in the WAL that was deleted for good."""
        while True:
            erased = self._erased       # taken before the look: a cut that comes after it wakes us
            if not self._checkpointer.erasing:
                return
            await erased.wait()

    def _announce_erased(self) -> None:
        self._erased.set()
        self._erased = asyncio.Event()

    async def ended(self) -> None:
        """Wait until the thread has ended: after `close`, or because it died."""
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Write all that was queued, checkpoint, end the thread. The connection stays open."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._handed_over.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def progress(self) -> WriterProgress:
        """A picture of now."""
        return WriterProgress(
            waiting=self._unanswered,
            turn_age_s=max(0.0, self._clock.monotonic_s() - self._turned_at),
            batches=self._batches,
            writes=self._writes,
            lost_batches=self._lost_batches,
            last_batch=self._last_batch,
            largest_batch=self._largest_batch,
            batches_by_size=tuple(self._batches_by_size),
            wal_bytes=self._checkpointer.wal_bytes,
            disk=self._disk,
        )

    def _refusal(self) -> RpcError:
        if self._disk == "full":
            return DiskFull(retry_after_ms=FULL_RETRY_MS)
        if self._disk == "damaged":
            return StoreDamaged()
        return ReadOnly("The disk failed; nothing is written before the daemon was started again.")

    def _answer(self, batch: Sequence[Request]) -> None:
        self._unanswered -= len(batch)
        for request in batch:
            reply = request.reply
            if reply.done():  # the caller went away; the write stands, there is nobody to tell
                continue
            if request.error is None:
                reply.set_result(request.result)
            else:
                reply.set_exception(request.error)

    def _answer_committed(self, batch: Sequence[Request]) -> None:
        self._answer(batch)
        if self._on_commit is not None:
            self._on_commit()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- on the writer's thread

    def _run(self) -> None:
        try:
            while not self._last_seen or self._waiting:
                self._turn()
            if self._disk == "ok":
                self._checkpoint(self._checkpointer.at_end)
        except Exception as error:  # noqa: BLE001 - a thread that dies unseen would hang every caller
            self._fail(error)
            while not self._last_seen:
                self._refuse_all()
                self._take()  # until the close: who still comes is told, and not left to wait
            self._refuse_all()
        finally:
            self._tell(self._end)

    def _turn(self) -> None:
        """Do what waits, or what idleness is for."""
        self._turned_at = self._clock.monotonic_s()
        self._take()
        self._turned_at = self._clock.monotonic_s()
        if self._waiting:
            if self._disk == "ok":
                self._do_batch()
            else:
                self._refuse_all()
        elif self._disk == "full":
            self._probe()
        elif self._disk == "ok":
            self._checkpoint(self._checkpointer.when_idle)

    def _take(self) -> None:
        """Fill `_waiting` with what is there; if there is nothing, wait a while."""
        try:
            while len(self._waiting) < MAX_BATCH and not self._last_seen:
                if self._waiting:
                    requests = self._handed_over.get_nowait()
                else:
                    requests = self._handed_over.get(timeout=IDLE_TURN_S)
                if requests is None:
                    self._last_seen = True
                elif isinstance(requests, StoreDamaged):
                    self._condemn(requests)
                else:
                    self._waiting.extend(requests)
        except queue.Empty:
            return

    def _do_batch(self) -> None:
        batch, cause = self._group.commit(self._waiting)
        self._last_batch = len(batch)
        self._largest_batch = max(self._largest_batch, len(batch))
        if cause is None:
            self._batches += 1
            self._batches_by_size[(len(batch) - 1).bit_length()] += 1
            self._writes += len(batch)
            self._tell(self._answer_committed, batch)
            self._checkpoint(self._checkpointer.when_due)
            return
        self._lost_batches += 1
        self._note(cause)
        self._tell(self._answer, batch)

    def _note(self, cause: Exception) -> None:
        """Draw the consequences of an error of the disk."""
        if isinstance(cause, StoreDamaged) and lasts(cause):
            self._condemn(cause)
        elif isinstance(cause, apsw.FullError):
            if self._disk == "ok":
                self._log.error("disk full: no writes until there is room", reason=str(cause))
                self._disk = "full"
        elif isinstance(cause, apsw.IOError):
            self._fail(cause)
        else:
            self._log.error("a batch of writes was undone", reason=_said(cause))

    def _fail(self, cause: Exception) -> None:
        """Write nothing more: after a failed fsync nobody knows what the disk holds, a restart will see."""
        self._disk = "failed"
        self._log.critical("the database cannot be written any more", reason=_said(cause))
        # closing must not checkpoint either
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._tell(self._on_fatal, cause)

    def _condemn(self, damage: StoreDamaged) -> None:
        """Write nothing more, and stay: what can still be read is read, and a restore needs the daemon."""
        if self._disk in {"failed", "damaged"} or not lasts(damage):
            return
        self._disk = "damaged"
        self._log.critical("the database is damaged: no writes until a backup is restored", reason=damage.message)
        # what the WAL holds is sound, and of more use beside the damaged file than in it
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _refuse_all(self) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        for request in batch:
            request.error = self._refusal()
        self._tell(self._answer, batch)

    def _checkpoint(self, checkpoint: Callable[[], None]) -> None:
        erasing = self._checkpointer.erasing
        try:
            checkpoint()
            if erasing and not self._checkpointer.erasing:
                self._tell(self._announce_erased)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError) as error:
            self._note(damage_of(error) or error)
        except apsw.Error as error:  # the WAL keeps what it has; the next one tries again
            self._log.warning("checkpoint failed", reason=_said(error))

    def _probe(self) -> None:
        """Try to write for real; take writes again if it works."""
        try:
            self._checkpointer.truncate()   # what goes back into the database makes room in the WAL
        except apsw.Error:
            pass                            # no room for that either; what counts is the write
        try:
            self._db.execute(PROBE, ("0" * PROBE_BYTES,))
            self._db.execute(FORGET_PROBE)
        except apsw.FullError:
            return
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError) as error:
            self._note(damage_of(error) or error)
        except apsw.Error as error:
            self._log.warning("cannot see whether the disk has room", reason=_said(error))
        else:
            self._disk = "ok"
            self._log.info("the disk has room again: writes are taken")

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        """Call the function on the event loop's thread."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            return


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
