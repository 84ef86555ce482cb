"""REST on top of the methods: a route's request -> a call -> a response.

Owns how path, query and body become the parameters of a method, and how its result becomes a body. Checks nothing
itself: what is wrong with a parameter, the method's own validation says. Knows no resource.
"""

from __future__ import annotations

import re
import types
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import isawaitable
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw

from nexusd.config_sections import LimitsConfig
from nexusd.errors import InvalidParams, RpcError
from nexusd.field_errors import FieldError
from nexusd.model.fields import MAX_PAGE
from nexusd.wire.envelope import parse_json
from nexusd.wire.http_errors import STATUS_OF_KIND
from nexusd.wire.http_requests import HttpRequest
from nexusd.wire.http_responses import Response, error_response
from nexusd.wire.methods import MethodTable, Principal
from nexusd.wire.replies import Shape, encode
from nexusd.wire.routes import Route

T = TypeVar("T")

KEY_HEADER = b"idempotency-key"
_PLAIN_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Invoker(Protocol):
    """What REST asks of the dispatcher."""

    def invoke(
        self, method: str, params: dict[str, Any], principal: Principal, shape: Shape[T], key: str | None = None, *,
        under_way: bool = False, size: int = 0,
    ) -> T | Awaitable[T]:
        """Call a method; `under_way`: it is a further call of a request that was let in before. `size`: its bytes."""


@dataclass(frozen=True, slots=True)
class _Page:
    """One page of several: the array of its items, encoded."""

    array: bytes
    next_cursor: str | None


class RestEndpoint:
    """Answers the requests of one route. It is the shape of its calls, too."""

    def __init__(self, route: Route, table: MethodTable, invoker: Invoker, limits: LimitsConfig) -> None:
        self.route = route
        self._table = table
        self._invoker = invoker
        self._limits = limits
        self._told_names = {parameter: name for name, parameter in route.names.items()}

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold requests to these from now on."""
        self._limits = limits

    def begin(self, request: HttpRequest, in_path: Mapping[str, str], principal: Principal) -> Any:
        """The response; as an awaitable where it takes time.

        Raises:
            RpcError: the request cannot be read.
        """
        params, in_query = self._read(request, in_path)
        if self.route.whole and "limit" not in in_query:
            return self._answer_whole(params, principal)
        return self._invoker.invoke(
            self.route.method, params, principal, self, request.head.header(KEY_HEADER), size=len(request.body)
        )

    # --- the request ---

    @cached_property
    def _types(self) -> dict[str, Any]:
        """The parameters of the method. Asked for at the first request: methods are registered until then."""
        method = self._table.get(self.route.method)
        if method is None:
            return {}
        return {field.encode_name: field.type for field in msgspec.structs.fields(method.params)}

    @cached_property
    def _not_null(self) -> frozenset[str]:
        """Those for which null is no value: JavaScript clients send it for what they do not give."""
        return frozenset(name for name, type_ in self._types.items() if not _takes_null(type_))

    def _read(self, request: HttpRequest, in_path: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        """All parameters, and those of the query alone."""
        params: dict[str, Any] = {}
        if request.body and request.head.verb != "GET":
            body = parse_json(
                request.body, max_depth=self._limits.max_depth, max_values=self._limits.max_values
            )
            if not isinstance(body, dict):
                raise InvalidParams("The body is a JSON object.")
            not_null = self._not_null
            params = {name: value for name, value in body.items() if value is not None or name not in not_null}
        in_query = self._read_query(request.head.query) if request.head.query else {}
        for place, texts in (("query", in_query), ("path", in_path)):
            for name, text in texts.items():
                value = self._typed(name, text)
                if name in params and params[name] != value:
                    raise InvalidParams(fields=(FieldError(self._told(name), f"the same as in the {place}"),))
                params[name] = value
        return params, in_query

    def _read_query(self, query: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for pair in query.split("&"):
            if not pair:
                continue
            told, _, value = pair.partition("=")
            told, text = _decoded(told), _decoded(value)
            name = self.route.names.get(told, told)
            if name in found:
                raise InvalidParams(fields=(FieldError(told, "only once"),))
            found[name] = text
        return found

    def _typed(self, name: str, text: str) -> Any:
        """The text as the value that the parameter takes; as it is where it is none, for the validation to say so."""
        type_ = self._types.get(name, str)
        try:
            value = msgspec.convert(text, type_, strict=False)
        except msgspec.ValidationError:
            return _number(text)
        # 1e0 is no way to write an id: a typing error must not delete the row 1
        return text if type(value) is int and str(value) != text else value

    def _told(self, path: str) -> str:
        """The path of a bad field in the words of the request."""
        return self._told_names.get(path, path)

    # --- the response ---

    def result(self, result: Any) -> Response:
        """What the method answered, as this route tells it."""
        route = self.route
        if route.status == 204:
            return Response(204)
        if route.is_list:
            return self._array(encode(self._items(result)), result.next_cursor, truncated=_is_truncated(result))
        status = route.status if route.status_of is None else route.status_of(result)
        return Response(status, bytes(result) if result.__class__ is Raw else encode(result))

    def error(self, error: RpcError, request_id: str) -> Response:
        """The error with the status of its kind."""
        if self._told_names and isinstance(error, InvalidParams) and error.fields:
            error = InvalidParams(fields=tuple(FieldError(self._told(f.path), f.expected) for f in error.fields))
        return error_response(STATUS_OF_KIND[error.kind], error, request_id)

    def _items(self, result: Any) -> list[Any]:
        item = self.route.item
        return result.items if item is None else [item(one) for one in result.items]

    def _array(self, array: bytes, next_cursor: str | None, *, truncated: bool = False) -> Response:
        headers = b"" if next_cursor is None else b"X-Next-Cursor: %b\r\n" % next_cursor.encode("ascii")
        if truncated:
            headers += b"X-Truncated: true\r\n"
        return Response(self.route.status, array, headers)

    async def _answer_whole(self, params: dict[str, Any], principal: Principal) -> Response:
        """All pages as one array; past the memory that a reply may take, as many as fit and the cursor of the rest."""
        parts: list[bytes | memoryview] = []    # joined once: each copy of so much holds up everybody
        room = self._limits.max_write_buffer_bytes
        shape = _PageShape(self)
        under_way = False
        params = {**params, "limit": MAX_PAGE}
        while True:
            outcome = self._invoker.invoke(self.route.method, params, principal, shape, under_way=under_way)
            page: _Page | Response = await outcome if isawaitable(outcome) else outcome
            if isinstance(page, Response):
                return page
            under_way = True        # a stop lets it come to its end
            room -= len(page.array)
            if len(page.array) > 2:     # not []
                parts += (b"," if parts else b"[", memoryview(page.array)[1:-1])
            if page.next_cursor is None or room <= 0:
                return self._array(b"".join((*parts, b"]") if parts else (b"[]",)), page.next_cursor)
            params = {**params, "cursor": page.next_cursor}
            params.pop("offset", None)


class _PageShape:
    """The shape of one call of several."""

    def __init__(self, endpoint: RestEndpoint) -> None:
        self._endpoint = endpoint

    def result(self, result: Any) -> _Page | Response:
        """The page."""
        return _Page(encode(self._endpoint._items(result)), result.next_cursor)

    def error(self, error: RpcError, request_id: str) -> _Page | Response:
        """What ends the walk."""
        return self._endpoint.error(error, request_id)


def _is_truncated(result: Any) -> bool:
    return bool(getattr(result, "truncated", False))


def _takes_null(type_: Any) -> bool:
    while get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    if type_ is Any or type_ is type(None):
        return True
    return get_origin(type_) in {Union, types.UnionType} and any(map(_takes_null, get_args(type_)))


def _number(text: str) -> Any:
    """An integer that is out of range is told as such, not as a text."""
    return int(text) if _PLAIN_NUMBER.fullmatch(text) else text


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise InvalidParams("The query is not UTF-8.") from None
