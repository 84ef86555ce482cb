"""Many writes in one transaction.

Owns the order of savepoints and what an error undoes: a request's own work, or the whole batch where SQLite
has given the transaction up. Knows nothing of threads, of who asked, or of any table.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

import apsw

from nexusd.errors import Busy, DiskFull, OutcomeUnknown, StoreDamaged
from nexusd.store.connection import Connection
from nexusd.store.damage import damage_of, lasts
from nexusd.store.values import MAX_ROWS

P = ParamSpec("P")
T = TypeVar("T")

MAX_BATCH = 256         # past this a commit takes longer than the fsync that it saves
BATCH_WORK_S = 0.005    # work after which a batch commits, whatever else waits
FULL_RETRY_MS = 2_000   # a full disk is looked at again every second
BUSY_RETRY_MS = 100     # a queue has moved on by then

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
OPEN_SAVEPOINT = "SAVEPOINT request"
UNDO_SAVEPOINT = "ROLLBACK TO request"
CLOSE_SAVEPOINT = "RELEASE request"


class Groupable(Generic[P, T]):
    """A write that can also be done for many callers in fewer statements.

    Called, it does `one`. Neighbours in a batch go to `many(connection, [arguments, ...])`, which answers in
    the same order, or raises: then nothing of it stands, and each is done by itself.
    """

    __slots__ = ("__name__", "many", "one")

    def __init__(
        self,
        one: Callable[Concatenate[Connection, P], T],
        many: Callable[[Connection, Sequence[tuple[Any, ...]]], Sequence[T]],
    ) -> None:
        self.one = one
        self.many = many
        self.__name__ = getattr(one, "__name__", repr(one))

    def __call__(self, db: Connection, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it for one caller."""
        return self.one(db, *args, **kwargs)


class Reply(Protocol):
    """Where an answer goes: an asyncio.Future, which this module never touches."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Answer."""

    def set_exception(self, error: Any, /) -> None:
        """Answer with an error."""


class Request:
    """One write on its way: what to do, who waits, and what came of it."""

    __slots__ = ("args", "error", "function", "reply", "result")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], reply: Reply) -> None:
        self.function = function
        self.args = args
        self.reply = reply
        self.result: Any = None
        self.error: BaseException | None = None


class _TransactionLostError(Exception):
    """Nothing of the batch stands. `culprit` is the request whose own error it was, if it was one's own."""

    def __init__(self, cause: Exception, culprit: Request | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.culprit = culprit


class GroupCommit:
    """Does what waits, a batch at a time. Lives on the writer's thread."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._request_s = 1e-4      # the time of one request, smoothed: the length of a run follows it

    def commit(self, waiting: deque[Request]) -> tuple[list[Request], Exception | None]:
        """Take a batch from the front of `waiting` and commit it: the requests that were taken, each with its
        result or error, and what went wrong with all of them, if it did.
        """
        batch: list[Request] = []
        try:
            self._transact(waiting, batch)
        except _TransactionLostError as lost:
            self._give_up(batch, lost)
            return batch, lost.cause
        except Exception as error:  # noqa: BLE001 - a fault of ours: whoever waits must hear of it, not hang
            fault = _TransactionLostError(error)
            self._give_up(batch, fault)
            return batch, fault.cause
        return batch, None

    def _transact(self, waiting: deque[Request], batch: list[Request]) -> None:
        db = self._db
        try:
            db.execute(BEGIN)
        except apsw.Error as error:     # nothing was begun: who waits longest is told so
            batch.extend(_take(waiting, MAX_BATCH))
            raise _TransactionLostError(damage_of(error) or error) from error
        began = time.perf_counter()
        worked_s = 0.0
        while waiting and len(batch) < MAX_BATCH and worked_s < BATCH_WORK_S:
            run = _take_run(waiting, self._longest_run(MAX_BATCH - len(batch)))
            first = not batch       # it needs no savepoint: to undo it is to begin again
            batch.extend(run)
            if len(run) == 1 or not self._do_together(run, first=first):
                self._do_apart(run, first=first)
            worked_s = time.perf_counter() - began
        self._request_s = 0.8 * self._request_s + 0.2 * worked_s / len(batch)
        try:
            db.execute(COMMIT)
        except apsw.IOError as error:   # of whichever kind: nobody knows how far the commit came
            raise _TransactionLostError(error) from error
        except apsw.Error as error:
            raise _TransactionLostError(damage_of(error) or error) from error

    def _longest_run(self, room: int) -> int:
        """How many neighbours may share a statement without the batch growing much past its time."""
        return max(1, min(room, MAX_ROWS, int(BATCH_WORK_S / self._request_s)))

    def _do_together(self, run: list[Request], *, first: bool) -> bool:
        """Do the run as one. False if that did not work: then nothing of it stands."""
        many = cast("Groupable[..., Any]", run[0].function).many
        arguments = [request.args for request in run]
        results, error = self._guarded(many, (arguments,), None, first=first)
        if error is not None:
            return False
        for request, result in zip(run, results, strict=True):
            request.result = result
        return True

    def _do_apart(self, run: list[Request], *, first: bool) -> None:
        for request in run:
            request.result, request.error = self._guarded(
                request.function, request.args, request, first=first
            )
            first = first and request.error is not None

    def _guarded(
        self, function: Callable[..., Any], args: tuple[Any, ...], request: Request | None, *, first: bool
    ) -> tuple[Any, Exception | None]:
        """Call the function and answer its result, or undo what it did and answer its error."""
        db = self._db
        try:
            if not first:
                db.execute(OPEN_SAVEPOINT)
            try:
                result = function(db, *args)
            except Exception as error:  # whatever a caller's function raises is the caller's answer
                damage = damage_of(error)
                if damage is not None and lasts(damage):
                    raise _TransactionLostError(damage) from error
                if isinstance(error, apsw.FullError | apsw.IOError) or not db.in_transaction:
                    # SQLite gave the transaction up, or the disk is why: nothing of the batch stands
                    raise _TransactionLostError(error, request) from error
                if first:
                    db.execute(ROLLBACK)
                    db.execute(BEGIN)
                else:
                    db.execute(UNDO_SAVEPOINT)
                    db.execute(CLOSE_SAVEPOINT)
                return None, damage or error
            if not db.in_transaction:   # the function took an error of SQLite's that ended it for its own
                raise _TransactionLostError(apsw.SQLError("the transaction ended inside a write"), request)
            if not first:
                db.execute(CLOSE_SAVEPOINT)
        except apsw.Error as error:
            raise _TransactionLostError(damage_of(error) or error) from error
        return result, None

    def _give_up(self, batch: list[Request], lost: _TransactionLostError) -> None:
        """Give each request its answer, and leave no transaction behind."""
        cause = lost.cause
        if self._db.in_transaction:
            try:
                self._db.execute(ROLLBACK)
            except apsw.Error as error:  # the file is in no known state: as bad as a failed fsync
                lost.cause = cause = error if isinstance(error, apsw.IOError) else apsw.IOError(str(error))
        for request in batch:
            request.result = None
            if isinstance(cause, apsw.FullError):
                request.error = DiskFull(retry_after_ms=FULL_RETRY_MS)
            elif isinstance(cause, apsw.IOError):
                request.error = OutcomeUnknown()
            elif isinstance(cause, StoreDamaged):
                request.error = cause
            elif isinstance(cause, apsw.BusyError):
                request.error = Busy("Another program locks the database.", retry_after_ms=BUSY_RETRY_MS)
            elif request is lost.culprit:
                request.error = cause
            else:
                request.error = Busy(
                    "The write was undone beside another one that failed.", retry_after_ms=BUSY_RETRY_MS
                )


def _take(waiting: deque[Request], count: int) -> list[Request]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _take_run(waiting: deque[Request], longest: int) -> list[Request]:
    """The next request, with the neighbours that can be done together with it."""
    run = [waiting.popleft()]
    function = run[0].function
    if isinstance(function, Groupable):
        while waiting and len(run) < longest and waiting[0].function is function:
            run.append(waiting.popleft())
    return run
