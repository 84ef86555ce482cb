"""Replies as bytes.

Owns the one form in which an error is told to a client, and what it means to shape an outcome: a JSON-RPC reply
and an HTTP response are two shapes of the same call. Pure; decides nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from nexusd.errors import RpcError

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
T_co = TypeVar("T_co", covariant=True)


class Shape(Protocol[T_co]):
    """How an outcome is told to the one who asked. `result` may raise; `error` may not."""

    def result(self, result: Any) -> T_co:
        """What the method answered; `msgspec.Raw` where it is a kept reply."""

    def error(self, error: RpcError, request_id: str) -> T_co:
        """Why there is no result."""


class ReplyMembers:
    """JSON-RPC's own shape: the member of a reply that tells the outcome."""

    def result(self, result: Any) -> bytes:
        """`result`; a kept reply is JSON already."""
        return b'"result":' + (bytes(result) if result.__class__ is msgspec.Raw else encode(result))

    def error(self, error: RpcError, request_id: str) -> bytes:
        """`error`."""
        return b'"error":' + encode(error_object(error, request_id))


def error_data(error: RpcError, request_id: str) -> dict[str, Any]:
    """The `data` member of an error reply."""
    data: dict[str, Any] = {"kind": error.kind, "retryable": error.retryable, "requestId": request_id}
    if error.retry_after_ms is not None:
        data["retryAfterMs"] = error.retry_after_ms
    if error.fields:
        data["fields"] = error.fields
    return data


def error_object(error: RpcError, request_id: str) -> dict[str, Any]:
    """The `error` member of a reply, or of one item of a method that answers many."""
    return {"code": error.code, "message": error.message, "data": error_data(error, request_id)}


def error_reply(id_: Any, error: RpcError, request_id: str) -> bytes:
    """A whole error reply, without a line end."""
    return encode({"jsonrpc": "2.0", "error": error_object(error, request_id), "id": id_})
