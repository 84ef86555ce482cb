"""How a call is made to arrive: keys, tries, backoff, deadlines. Without I/O.

Owns every decision of a call, as generators that yield what they want done (`Step`) and are sent what
came of it (`Outcome`). The two clients only carry the steps out, so there is one copy of the logic.

A write is safe to send again because it carries an idempotencyKey, the same one on every try: the daemon
answers the repeated call with the reply of the first. Which methods take a key is the daemon's own
knowledge: before the first `call` of a method the daemon is asked for its `help`, once. A list kept here
would drift, and a wrong guess fails either way: a key on a read is refused, a write without one may double.
(`rpc.discover` says the same, but describes every method to tell of one.) A method that the daemon
does not know is sent once and never again after it may have arrived.
"""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from msgspec import Struct

from nexusd.client.core import Notification, Reply, Request, decode_result, encode_request
from nexusd.client.errors import ConnectionFailed, DeadlineExceeded, WireError, rebuilt
from nexusd.errors import MethodNotFound, RpcError

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0

# These pass by themselves in moments. Others that are retryable (disk_full, index_unavailable) need
# somebody or something to act first: the caller had better know now, unless the daemon names a time.
_MOMENTARY = frozenset({"busy", "rate_limited", "starting", "stopping", "outcome_unknown"})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is tried, and the backoff between: full jitter, doubling up to `longest_s`."""

    tries: int = 8  # with the pauses below about 3 s on average: a daemon's restart
    first_s: float = 0.05
    longest_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Send:
    """Step: deliver the line (connecting if needed) and wait for the reply of this id until the deadline."""

    id: int
    line: bytes
    deadline: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Step: let this much time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Learn:
    """Step: run `Caller.learn` for this method, one at a time."""

    method: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Unsent:
    """Outcome: the line certainly did not arrive."""

    failure: Exception


@dataclass(frozen=True, slots=True)
class Lost:
    """Outcome: the line may have arrived, but no reply will come."""

    failure: Exception


@dataclass(frozen=True, slots=True)
class Expired:
    """Outcome: the deadline passed first."""


class LoginRefused(Exception):
    """The daemon does not take the token, or takes no login now. `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("the login was refused")
        self.reply = reply

    def reason(self) -> RpcError:
        """The error that the daemon answered."""
        return rebuilt(self.reply.error or WireError(RpcError.code))


Step: TypeAlias = Send | Pause | Learn
Outcome: TypeAlias = Reply | Unsent | Lost | Expired | None
Steps: TypeAlias = Generator[Step, Outcome, T]
OnNotification: TypeAlias = Callable[[Notification], None]


_LOGIN_ID = 0   # calls have numbers from 1 on


def login(token: str, deadline: float) -> Send:
    """What goes over a fresh connection before anything else."""
    return Send(_LOGIN_ID, encode_request(_LOGIN_ID, "auth.login", {"token": token}), deadline)


def logged_in(outcome: Outcome) -> None:
    """Pass if the login was accepted.

    Raises:
        LoginRefused: the daemon says why not.
        TimeoutError: it said nothing in time.
        ConnectionFailed, ProtocolViolated: the connection was lost before.
    """
    match outcome:
        case Reply(error=error) if error is not None:
            raise LoginRefused(outcome)
        case Unsent(failure) | Lost(failure):
            raise failure
        case Expired():
            raise TimeoutError


class _Parameter(Struct):
    name: str


class _Method(Struct):
    """What `help` says of a method, as far as it matters here."""

    params: list[_Parameter]


class Caller:
    """The calls of one client: numbers them, keeps what was learned of the methods, and sees them through."""

    def __init__(
        self,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self.retry = retry or Retry()
        self.rng = rng or random.Random()  # noqa: S311 (jitter, not a secret)
        self._now = now
        self._ids = itertools.count(1)
        self._takes_key: dict[str, bool] = {}

    def deadline(self, timeout_s: float | None = None, params: dict[str, Any] | None = None) -> float:
        """The moment at which a call begun now is given up, on the `now` clock.

        A call that asks the daemon to wait (`timeoutMs`) has that much more.
        """
        if timeout_s is not None:
            return self._now() + timeout_s
        waits_ms = (params or {}).get("timeoutMs")
        waits_s = waits_ms / 1000 if isinstance(waits_ms, int | float) else 0.0
        return self._now() + self._timeout_s + waits_s

    def exchange(self, request: Request[T], deadline: float) -> Steps[T]:
        """Make the call, trying again as long as that is safe and promising.

        Raises:
            RpcError: the daemon answered this error.
            ConnectionFailed: no connection, with the tries used up.
            DeadlineExceeded: no answer in time.
            ProtocolViolated: the other side is no nexusd, or another version of it.
            ValueError: the parameters cannot be written as JSON.
        """
        params, repeatable = yield from self._prepared(request, deadline)
        for attempt in range(1, self.retry.tries + 1):
            request_id = next(self._ids)
            line = encode_request(request_id, request.method, params)
            outcome = yield Send(request_id, line, deadline)
            if isinstance(outcome, Reply) and outcome.result is not None:
                return decode_result(request, outcome.result)
            failure, again = self._judged(outcome, request.method, repeatable=repeatable)
            pause_s = self._pause_s(attempt, failure)
            if not again or attempt == self.retry.tries or self._now() + pause_s >= deadline:
                raise failure
            yield Pause(pause_s)
        raise AssertionError("unreachable: the last try returns or raises")

    def learn(self, method: str, deadline: float) -> Steps[None]:
        """Ask the daemon whether the method takes an idempotencyKey, unless that is known."""
        if method in self._takes_key:
            return
        request = Request("help", {"method": method}, _Method, mutates=False)
        try:
            found = yield from self.exchange(request, deadline)
        except MethodNotFound:
            return  # not kept: the next version of the daemon may have it
        self._takes_key[method] = any(param.name == "idempotencyKey" for param in found.params)

    def _prepared(self, request: Request[Any], deadline: float) -> Steps[tuple[dict[str, Any], bool]]:
        """The parameters with a key where one belongs, and whether sending them twice is safe."""
        params = request.params
        if params.get("idempotencyKey") is not None:
            return params, True
        mutates = request.mutates
        if mutates is None:
            if request.method not in self._takes_key:
                yield Learn(request.method, deadline)
            mutates = self._takes_key.get(request.method)
        if mutates:
            params = {**params, "idempotencyKey": uuid.uuid4().hex}
        return params, mutates is not None

    @staticmethod
    def _judged(outcome: Outcome, method: str, *, repeatable: bool) -> tuple[Exception, bool]:
        """What went wrong, and whether to try again."""
        match outcome:
            case Reply(error=error) if error is not None:
                answered = rebuilt(error)
                again = answered.retryable and (
                    answered.kind in _MOMENTARY or answered.retry_after_ms is not None
                )
                # Any other of these errors says that nothing was done; this one does not know.
                return answered, again and (repeatable or answered.kind != "outcome_unknown")
            case Unsent(failure):
                return failure, isinstance(failure, ConnectionFailed)
            case Lost(failure):
                return failure, repeatable and isinstance(failure, ConnectionFailed)
            case _:
                return DeadlineExceeded(f"{method} got no answer in time"), False

    def _pause_s(self, attempt: int, failure: Exception) -> float:
        if isinstance(failure, RpcError) and failure.retry_after_ms is not None:
            # A little later than told, or all who were told come back at the same moment.
            return failure.retry_after_ms / 1000 * self.rng.uniform(1.0, 1.25)
        longest = min(self.retry.longest_s, self.retry.first_s * 2 ** (attempt - 1))
        return self.rng.uniform(0.0, longest)
