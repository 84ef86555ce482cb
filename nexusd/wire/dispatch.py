"""Frames -> replies: the one boundary where an exception becomes an error reply.

Owns the way of a request through jsonrpcserver: roles, the gate, validation, the handler, the reply, the
figures and the slow-request log. Knows no socket and no resource. Parameters and results are never logged.

jsonrpcserver is given one request at a time, already parsed and checked: its own parser, validator and
batches lose ids, order and limits. The adapters never raise and always succeed, with the `result` or the
`error` member of the reply, so that it has nothing to log, to word or to leak.

Methods that wait for nothing go past it, through the same adapters: of the 34 us of processor time that a look-up
by key took in all, it had 17, and the replies are the same byte for byte (the tests run over both ways).
"""

from __future__ import annotations

import inspect
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog
from jsonrpcserver import Success, async_dispatch_to_response
from msgspec import Raw, Struct

from nexusd.clock import Clock, SystemClock
from nexusd.config_sections import LimitsConfig
from nexusd.errors import (
    Forbidden,
    InternalError,
    InvalidParams,
    InvalidRequest,
    RateLimited,
    RpcError,
    Unauthenticated,
)
from nexusd.field_errors import FieldError
from nexusd.model.fields import Params
from nexusd.wire.audit import Audit
from nexusd.wire.auth import MISSING
from nexusd.wire.batches import Answer, answer_batch
from nexusd.wire.counters import Counters
from nexusd.wire.envelope import NO_ID, Refused, Request, read_message
from nexusd.wire.gate import Gate
from nexusd.wire.methods import Call, Client, Method, MethodTable, Principal, Role, no_such_method
from nexusd.wire.replies import ReplyMembers, Shape, encode, error_reply
from nexusd.wire.slow_requests import SlowRequests
from nexusd.wire.turns import Turns
from nexusd.wire.validation import by_name, validate

ALWAYS_ANSWERED = frozenset({"health"})     # also while starting and stopping: that is when people ask
KEY_PARAMETER = "idempotencyKey"
UNKNOWN_METHOD = "(unknown)"                # one entry for all names that are none, or the figures would grow

T = TypeVar("T")
OnChange = Callable[[Method, Params, Any], None]    # told of every mutating call that succeeded; must not raise

_RANK: dict[Role, int] = {"none": 0, "read": 1, "write": 2, "admin": 3}
_REFUSALS = (Unauthenticated, Forbidden, RateLimited)   # what the audit trail has of calls that fail


class _AnyArguments(inspect.Signature):
    """A signature that everything fits: msgspec checks the parameters, once and better."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:  # jsonrpcserver asks only whether this raises
        return None


class _Exchange(Struct, frozen=True):
    """What an adapter needs of the request that it answers; jsonrpcserver's context."""

    params: dict[str, Any] | list[Any]
    principal: Principal
    request_id: str
    client: Client | None
    batched: bool
    shape: Shape[Any]
    key: str | None     # the idempotencyKey, where it came beside the parameters
    size: int = 0       # bytes of its message
    under_way: bool = False     # a further call of a request that was let in before


class _Adapter:
    """One method as jsonrpcserver calls it."""

    __signature__ = _AnyArguments()

    def __init__(self, dispatcher: Dispatcher, method: Method) -> None:
        self.immediate = method.immediate
        self._dispatcher = dispatcher
        self._method = method
        self._positions = method.positions
        self._rank = _RANK[method.role]
        self._is_audited = method.role == "admin"
        self._gated = method.name not in ALWAYS_ANSWERED
        self._count = dispatcher.counters.of(method.name)

    async def __call__(self, exchange: _Exchange) -> Any:
        """Answer; whatever happens, as a success."""
        return Success(await self.answer(exchange))

    async def answer(self, exchange: _Exchange) -> Any:
        """The outcome in the shape that was asked for."""
        began_s = self._dispatcher.clock.monotonic_s()
        try:
            call, params = self._prepare(exchange)
            result = await self._dispatcher.turns.call(self._method, call, params, exchange.size)
            outcome = self._succeed(exchange, params, result)
        except Exception as error:  # noqa: BLE001 - the boundary
            outcome = self._failure(error, exchange)
        self._finish(began_s, exchange)
        return outcome

    def answer_now(self, exchange: _Exchange) -> Any:
        """The same for a method that waits for nothing."""
        began_s = self._dispatcher.clock.monotonic_s()
        try:
            call, params = self._prepare(exchange)
            outcome = self._succeed(exchange, params, self._method.handler(call, params))
        except Exception as error:  # noqa: BLE001 - the boundary
            outcome = self._failure(error, exchange)
        self._finish(began_s, exchange)
        return outcome

    def _prepare(self, exchange: _Exchange) -> tuple[Call, Params]:
        """What the handler is called with, if this may be called now and by this caller."""
        dispatcher, method, principal = self._dispatcher, self._method, exchange.principal
        if self._gated and dispatcher.gate.state != "open" and not exchange.under_way:
            dispatcher.gate.check()
        if principal.grant is not None and not exchange.under_way:
            principal.grant.check(method.name)
        if _RANK[principal.role] < self._rank:
            if principal.role == "none":
                raise Unauthenticated(MISSING)
            raise Forbidden(f"{method.name} needs the role {method.role}; {principal.name} has {principal.role}.")
        # Strangers are let in to log in, and whoever looks whether we live feels nothing of what others ask.
        if self._gated and principal.role != "none":
            dispatcher.turns.notice(principal.client, writes=method.mutates)
        given = exchange.params
        if exchange.key is not None and method.mutates:
            given = _with_key(given, exchange.key, self._positions)
        params = validate(method.params, given, positions=self._positions)
        return Call(principal, exchange.request_id, exchange.client, exchange.batched), params

    def _succeed(self, exchange: _Exchange, params: Params, result: Any) -> Any:
        if self._method.mutates and result.__class__ is not Raw:   # a kept reply: nothing was changed this time
            self._dispatcher.on_change(self._method, params, result)
        if self._is_audited:
            self._audit_call(exchange, "ok")
        return exchange.shape.result(result)

    def _failure(self, error: Exception, exchange: _Exchange) -> Any:
        known = self._dispatcher.known(error, self._method.name, exchange.request_id, exchange.principal)
        self._count.errors[known.kind] = self._count.errors.get(known.kind, 0) + 1
        principal, audit = exchange.principal, self._dispatcher.audit
        if isinstance(known, _REFUSALS) and audit is not None:
            if self._method.role != "none":     # of a login it is in the trail already
                audit.refused(known.kind, principal=principal.name, peer=principal.peer, method=self._method.name)
        elif self._is_audited:
            self._audit_call(exchange, known.kind)
        return exchange.shape.error(known, exchange.request_id)

    def _audit_call(self, exchange: _Exchange, outcome: str) -> None:
        principal, audit = exchange.principal, self._dispatcher.audit
        if audit is not None:
            audit.admin_call(principal=principal.name, peer=principal.peer, method=self._method.name,
                             request_id=exchange.request_id, outcome=outcome)

    def _finish(self, began_s: float, exchange: _Exchange) -> None:
        dispatcher = self._dispatcher
        seconds = dispatcher.clock.monotonic_s() - began_s
        self._count.answered(seconds)
        if seconds >= dispatcher.slow_s and not self._method.waits:
            dispatcher.slow.note(self._method.name, exchange.request_id, exchange.principal.name, seconds)


def _with_key(given: dict[str, Any] | list[Any], key: str, positions: Sequence[str]) -> dict[str, Any]:
    """The parameters with the idempotencyKey that came beside them."""
    named = by_name(given, positions) if isinstance(given, list) else given
    if named.get(KEY_PARAMETER) not in (None, key):
        raise InvalidParams(fields=(FieldError(KEY_PARAMETER, "the same as the Idempotency-Key header"),))
    return {**named, KEY_PARAMETER: key}


class _UnknownMethod:
    """What answers for a name that no method has."""

    immediate = True

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._count = dispatcher.counters.of(UNKNOWN_METHOD)
        self._name = name

    def answer_now(self, exchange: _Exchange) -> Any:
        """Answer that there is none."""
        error = no_such_method(self._name)
        self._count.answered(0.0)
        self._count.errors[error.kind] = self._count.errors.get(error.kind, 0) + 1
        return exchange.shape.error(error, exchange.request_id)


class _Adapters(dict[str, "_Adapter | _UnknownMethod"]):
    """Adapters by method name, made when first called; methods may be registered until then."""

    def __init__(self, dispatcher: Dispatcher, table: MethodTable) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._table = table

    def __missing__(self, name: str) -> _Adapter | _UnknownMethod:
        method = self._table.get(name)
        if method is None:
            return _UnknownMethod(self._dispatcher, name)   # not kept: names are the client's to invent
        adapter = self[name] = _Adapter(self._dispatcher, method)
        return adapter


_dispatch: Any = async_dispatch_to_response     # its annotations know only text and plain dicts


def _nobody_listens(_method: Method, _params: Params, _result: Any) -> None:
    return None


def _as_is(value: Any) -> Any:
    return value


def _reply(outcome: bytes, id_: Any) -> bytes:
    return b'{"jsonrpc":"2.0",%b,"id":%b}' % (outcome, encode(id_))


def _reply_bytes(success: Any) -> bytes:
    return _reply(success.result, success.id)


def _encode_response(response: Any) -> Any:
    """The reply's bytes. To jsonrpcserver every adapter succeeds; what it made itself would stay as it is."""
    return response.bind(_reply_bytes)


def _checked_reply(reply: Any) -> Answer:
    if reply is not None and not isinstance(reply, bytes):
        raise TypeError("jsonrpcserver answered in place of an adapter")
    return reply


class Dispatcher:
    """Answers frames."""

    def __init__(
        self,
        table: MethodTable,
        limits: LimitsConfig,
        *,
        slow_request_ms: int = 1000,
        clock: Clock | None = None,
        gate: Gate | None = None,
        log: Any = None,
        on_change: OnChange | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.audit = audit
        self.on_change: OnChange = on_change if on_change is not None else _nobody_listens
        self.counters = Counters()
        self.gate = gate if gate is not None else Gate()
        self.clock = clock if clock is not None else SystemClock()
        self.log = log if log is not None else structlog.get_logger("nexusd.wire")
        self.set_slow_request(slow_request_ms)
        self.slow = SlowRequests(self.log, self.clock)
        self._limits = limits
        self.turns = Turns(limits, self.clock, self.gate)
        self._adapters = _Adapters(self, table)
        self._members = ReplyMembers()
        # eight random digits tell this run's ids from every other run's in the same journal
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold messages to these limits from now on."""
        self._limits = limits
        self.turns.set_limits(limits)

    def set_slow_request(self, milliseconds: int) -> None:
        """Log requests that take this long."""
        self.slow_s = milliseconds / 1000

    def begin(
        self, frame: bytes, principal: Principal, client: Client | None = None, key: str | None = None
    ) -> Answer | Awaitable[Answer]:
        """The reply to a frame, without a line end, or None; as an awaitable where something must be waited for.

        `key` is the idempotencyKey of a single request that came beside the frame. Neither this nor the awaitable
        raises anything but cancellation.
        """
        try:
            message = read_message(
                frame, max_depth=self._limits.max_depth, max_batch=self._limits.max_batch,
                max_values=self._limits.max_values,
            )
            if isinstance(message, Request):
                return self._begin(message, principal, client, key=key, size=len(frame))
            if isinstance(message, Refused):
                return error_reply(message.id, message.error, self._next_id())
            if key is not None:
                return self.refusal(InvalidRequest("An Idempotency-Key is for a single request, not for a batch."))
        except Exception as error:  # noqa: BLE001 - the boundary
            return self._unforeseen(error)
        size = len(frame) // len(message)
        return answer_batch(
            message, self._limits,
            lambda request: self._begin(request, principal, client, batched=True, size=size), self._next_id,
        )

    def invoke(
        self, method: str, params: dict[str, Any], principal: Principal, shape: Shape[T], key: str | None = None, *,
        under_way: bool = False, size: int = 0,
    ) -> T | Awaitable[T]:
        """Call a method by name; its outcome in this shape, as an awaitable where something must be waited for.

        The same way as a frame's: roles, the gate, validation, figures. The gate lets pass what is `under_way`: a
        further call of the same request. Raises nothing but cancellation.
        """
        exchange = _Exchange(
            params, principal, self._next_id(), None, batched=False, shape=shape, key=key, size=size,
            under_way=under_way,
        )
        adapter: Any = self._adapters[method]
        outcome: T | Awaitable[T] = (adapter.answer_now if adapter.immediate else adapter.answer)(exchange)
        return outcome

    def refuse(self, error: Exception, told: Callable[[RpcError, str], T]) -> T:
        """Why no method was called: the error, and the id under which the log knows it, as told by this function."""
        request_id = self._next_id()
        return told(self.known(error, None, request_id), request_id)

    async def handle(self, frame: bytes, principal: Principal, client: Client | None = None) -> Answer:
        """As `begin`, for a caller that can wait."""
        answer = self.begin(frame, principal, client)
        return answer if answer is None or isinstance(answer, bytes) else await answer

    def _unforeseen(self, error: Exception) -> bytes:
        request_id = self._next_id()
        return error_reply(None, self.known(error, None, request_id), request_id)

    def refusal(self, error: RpcError) -> bytes:
        """An error reply to no request in particular: the connection's own trouble."""
        return error_reply(None, error, self._next_id())

    def known(
        self, error: Exception, method: str | None, request_id: str, principal: Principal | None = None
    ) -> RpcError:
        """The error to tell. One that was not raised on purpose is logged and told as nothing but an id."""
        peer = None if principal is None else principal.name
        if isinstance(error, RpcError):
            self.log.debug("request failed", method=method, request_id=request_id, peer=peer, kind=error.kind)
            return error
        self.log.error("unforeseen error", method=method, request_id=request_id, peer=peer,
                       kind=InternalError.kind, exc_info=error)
        return InternalError()

    def _begin(
        self, request: Request, principal: Principal, client: Client | None, *, batched: bool = False,
        key: str | None = None, size: int = 0,
    ) -> Answer | Awaitable[Answer]:
        exchange = _Exchange(request.params, principal, self._next_id(), client, batched, self._members, key, size)
        adapter = self._adapters[request.method]
        if not adapter.immediate:
            return self._wait_for(request, exchange)
        outcome = adapter.answer_now(exchange)
        return None if request.id is NO_ID else _reply(outcome, request.id)

    async def _wait_for(self, request: Request, exchange: _Exchange) -> Answer:
        """Through jsonrpcserver. What our adapters raise ends in them; what it raises itself ends here."""
        checked: dict[str, Any] = {"method": request.method}
        if request.id is not NO_ID:
            checked["id"] = request.id
        try:
            return _checked_reply(await _dispatch(
                checked, self._adapters, context=exchange, deserializer=_as_is, validator=_as_is,
                post_process=_encode_response,
            ))
        except Exception as error:  # noqa: BLE001 - the boundary
            return self._unforeseen(error)

    def _next_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids)}"
