"""What is answered over HTTP: /rpc, /metrics, and the routes.

Owns which endpoint a request goes to, and the boundary at which what goes wrong before a method is called becomes
a response. Knows no socket and no resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from nexusd.clock import Clock
from nexusd.config_sections import LimitsConfig
from nexusd.errors import RpcError
from nexusd.wire.auth import MISSING
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.http_errors import HttpRefusal, unauthenticated
from nexusd.wire.http_guard import Guard
from nexusd.wire.http_heads import Head
from nexusd.wire.http_requests import HttpRequest
from nexusd.wire.http_responses import Response, ResponseWriter, kind_response, refusal_response
from nexusd.wire.http_rest import KEY_HEADER, RestEndpoint
from nexusd.wire.methods import MethodTable, Principal
from nexusd.wire.replies import encode
from nexusd.wire.routes import Route, Router

LIFE_PATH = "/health"   # the one path that says something to everybody
_STRANGER = Principal("stranger", "none")

Metrics = Callable[[], Awaitable[tuple[bytes, str]]]  # the figures as text, and their content type


class Endpoint(Protocol):
    """What answers at a path."""

    def begin(self, request: HttpRequest, in_path: Mapping[str, str], principal: Principal) -> Any:
        """The response, as an awaitable where it takes time. May raise RpcError at once."""


Accepted = tuple[Endpoint, dict[str, str], Principal]


class HttpService:
    """Answers HTTP requests."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        table: MethodTable,
        limits: LimitsConfig,
        clock: Clock,
        *,
        routes: Iterable[Route] = (),
        host_names: Collection[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self.writer = ResponseWriter(clock)
        self._dispatcher = dispatcher
        self._guard = Guard(host_names)
        self._endpoints = [RestEndpoint(route, table, dispatcher, limits) for route in routes]
        self._life = _LifeEndpoint(dispatcher)
        self._router: Router[Endpoint] = Router()
        self._router.add("POST", "/rpc", _RpcEndpoint(dispatcher))
        if metrics is not None:
            self._router.add("GET", "/metrics", _MetricsEndpoint(metrics))
        for endpoint in self._endpoints:
            self._router.add(endpoint.route.verb, endpoint.route.path, endpoint)

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold requests to these from now on."""
        for endpoint in self._endpoints:
            endpoint.set_limits(limits)

    def set_host_names(self, names: Collection[str]) -> None:
        """The names, beside this machine's own, that clients may call it by from now on."""
        self._guard = Guard(names)

    def accept(
        self, head: Head, local_address: Callable[[], str | None], admit: Callable[[Head], Principal]
    ) -> Accepted:
        """What will answer a request with this head, and for whom. `admit` says whose request it is, or raises.

        Raises:
            HttpRefusal: nothing will.
        """
        principal = _STRANGER
        if head.verb != "OPTIONS":  # a browser asks by it first; it gets the one answer that everybody gets
            self._guard.check_sender(head, local_address)
            principal = admit(head)
            if principal.role == "none":
                if head.verb not in {"GET", "HEAD"} or head.path != LIFE_PATH:
                    raise unauthenticated(MISSING)
                return self._life, {}, principal
        found = self._router.find(head.verb, head.path)
        self._guard.check_body(head)
        return *found, principal

    def begin(self, request: HttpRequest) -> Response | Awaitable[Response]:
        """The response; as an awaitable where it takes time. Neither raises anything but cancellation."""
        endpoint, in_path, principal = request.accepted
        try:
            answer: Response | Awaitable[Response] = endpoint.begin(request, in_path, principal)
        except Exception as error:  # noqa: BLE001 - the boundary, for what comes before and after a method's own
            return self.failure(error)
        return answer if isinstance(answer, Response) else self._wait(answer)

    async def _wait(self, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except Exception as error:  # noqa: BLE001 - the same boundary
            return self.failure(error)

    def failure(self, error: Exception) -> Response:
        """An error that no method raised, with the status of its kind."""
        return self._dispatcher.refuse(error, kind_response)

    def refusal(self, refusal: HttpRefusal) -> Response:
        """The response to a request that is refused."""
        return self._dispatcher.refuse(refusal.error, partial(refusal_response, refusal))


class _LifeEndpoint:
    """Whether there is a daemon, for who has shown no token: a monitor wants no more, and others get no more."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def begin(self, _request: HttpRequest, _in_path: Mapping[str, str], principal: Principal) -> Any:
        """The status, without what is missing."""
        return self._dispatcher.invoke("health", {}, Principal(principal.name, "read", principal.peer), self)

    def result(self, result: Any) -> Response:
        """One word of it; 200 as long as requests are answered."""
        status = str(getattr(result, "status", "ok"))
        return Response(503 if status in {"starting", "stopping", "failed"} else 200, encode({"status": status}))

    def error(self, error: RpcError, request_id: str) -> Response:
        """It could not be told."""
        return kind_response(error, request_id)


class _RpcEndpoint:
    """JSON-RPC in the body. Its errors are replies like any other: the status says that there is a reply."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def begin(self, request: HttpRequest, _in_path: Mapping[str, str], principal: Principal) -> Any:
        """200 with the reply, 204 where there is none."""
        answer = self._dispatcher.begin(request.body, principal, None, request.head.header(KEY_HEADER))
        return _replied(answer) if answer is None or isinstance(answer, bytes) else self._wait(answer)

    async def _wait(self, answer: Awaitable[bytes | None]) -> Response:
        return _replied(await answer)


def _replied(reply: bytes | None) -> Response:
    return Response(204) if reply is None else Response(200, reply)


class _MetricsEndpoint:
    """Figures for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def begin(self, _request: HttpRequest, _in_path: Mapping[str, str], principal: Principal) -> Response:
        """All figures, for whom a token lets see the daemon's."""
        if principal.grant is not None:
            principal.grant.check("system.status")
        body, content_type = await self._metrics()
        return Response(200, body, content_type=content_type.encode("ascii"))
