"""Replies as bytes.

Owns the one form in which an error is told to a client. Pure; decides nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexusd.errors import RpcError

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


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
