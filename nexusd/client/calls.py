"""The calls that have names of their own in both clients, each written once.

Owns their parameters and result types. A plain call is a function that makes a `Request`; one of several
requests is a generator of steps. `Client` and `AsyncClient` turn each into a method. Everything
else goes through `call(METHOD, ...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from nexusd.client.core import Request
from nexusd.client.exchange import Caller, Steps
from nexusd.errors import Conflict, NotFound
from nexusd.model.episodes import Episode
from nexusd.model.memory import Collection, MemoryContext, MemoryFilter, MemoryHits, Mode
from nexusd.model.outbox import WaitedOutbox
from nexusd.model.sessions import Session
from nexusd.model.system import SystemStatus

T = TypeVar("T")


def search(
    query: str,
    *,
    mode: Mode = "hybrid",
    limit: int = 10,
    collections: Sequence[Collection] = (),
    filter: MemoryFilter | None = None,  # noqa: A002 (the wire's name)
    explain: bool = False,
) -> Request[MemoryHits]:
    """Find memories by meaning and by words (memory.search); in all collections if none is named."""
    params = {"query": query, "mode": mode, "limit": limit, "explain": explain, **_filter(filter)}
    if collections:
        params["collections"] = list(collections)
    return Request("memory.search", params, MemoryHits, mutates=False)


def context(
    query: str,
    *,
    token_budget: int = 2000,
    session_id: int | None = None,
    recent_turns: int = 4,
    filter: MemoryFilter | None = None,  # noqa: A002 (the wire's name)
) -> Request[MemoryContext]:
    """Put together what is worth knowing for a prompt (memory.context)."""
    params: dict[str, Any] = {"query": query, "tokenBudget": token_budget, "recentTurns": recent_turns}
    if session_id is not None:
        params["sessionId"] = session_id
    return Request("memory.context", params | _filter(filter), MemoryContext, mutates=False)


def status() -> Request[SystemStatus]:
    """How the daemon is (system.status)."""
    return Request("system.status", {}, SystemStatus, mutates=False)


def wait_indexed(row_ids: Sequence[int] = (), *, timeout_ms: int = 10_000) -> Request[WaitedOutbox]:
    """Wait until these episodes, or all rows, are in the index (outbox.wait)."""
    params: dict[str, Any] = {"timeoutMs": timeout_ms}
    if row_ids:
        params |= {"collection": "episodes", "rowIds": list(row_ids)}
    return Request("outbox.wait", params, WaitedOutbox, mutates=False)


def create_episode(
    session_id: int,
    user_message: str,
    ai_response: str,
    *,
    wait: bool = False,
    idempotency_key: str | None = None,
    **fields: Any,
) -> Request[Episode]:
    """Store one exchange (episodes.create); `fields` are further parameters by their wire names."""
    params = {"sessionId": session_id, "userMessage": user_message, "aiResponse": ai_response, **fields}
    if wait:
        params["waitFor"] = "indexed"
    if idempotency_key is not None:
        params["idempotencyKey"] = idempotency_key
    return Request("episodes.create", params, Episode, mutates=True)


def ensure_session(caller: Caller, /, external_id: str, *, timeout_s: float | None = None) -> Steps[Session]:
    """The session of this external id, created when there is none."""
    return (yield from _ensured_session(caller, external_id, caller.deadline(timeout_s)))


def remember(
    caller: Caller,
    /,
    user_message: str,
    ai_response: str,
    *,
    session: int | str,
    wait: bool = False,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
    **fields: Any,
) -> Steps[Episode]:
    """Store one exchange in a session: its id, or its external id, created when missing.

    `wait` answers when the index has it too; `fields` are further parameters of episodes.create.
    """
    deadline = caller.deadline(timeout_s)
    if isinstance(session, str):
        session = (yield from _ensured_session(caller, session, deadline)).id
    request = create_episode(
        session, user_message, ai_response, wait=wait, idempotency_key=idempotency_key, **fields
    )
    return (yield from caller.exchange(request, deadline))


def _ensured_session(caller: Caller, external_id: str, deadline: float) -> Steps[Session]:
    named = {"externalId": external_id}
    find = Request("sessions.getByExternalId", named, Session, mutates=False)
    try:
        return (yield from caller.exchange(find, deadline))
    except NotFound:
        pass  # the usual way of a new conversation
    create = Request("sessions.create", named, Session, mutates=True)
    try:
        return (yield from caller.exchange(create, deadline))
    except Conflict:  # somebody created it in between
        return (yield from caller.exchange(find, deadline))


def _filter(chosen: MemoryFilter | None) -> dict[str, Any]:
    """The filter as parameters, without what it leaves open."""
    if chosen is None:
        return {}
    fields = {name: value for name, value in msgspec.to_builtins(chosen).items() if value not in (None, {})}
    return {"filter": fields} if fields else {}


def named_request(
    method: str, params: msgspec.Struct | dict[str, Any] | None, result: type[T], named: dict[str, Any]
) -> Request[T]:
    """The request of `call`: parameters from a mapping or a parameter struct, and by name.

    Raises:
        TypeError: a parameter is given twice, or the parameters are neither.
    """
    given = {} if params is None else msgspec.to_builtins(params)
    if not isinstance(given, dict):
        raise TypeError(f"expected parameters by name for {method}, got {type(params).__name__}")
    if twice := given.keys() & named.keys():
        raise TypeError(f"{method} got {', '.join(sorted(twice))} twice")
    return Request(method, given | named, result)
