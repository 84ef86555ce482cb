"""What HTTP says of an error: the status of each kind, and the refusals that come before any method.

Owns that one table. Knows no socket and no route.
"""

from __future__ import annotations

from collections.abc import Mapping

from nexusd.errors import Forbidden, InvalidRequest, NotFound, RpcError, TooLarge, Unauthenticated

# By the kind of the error; /rpc has no use for it, since a JSON-RPC error is a reply like any other there.
STATUS_OF_KIND: Mapping[str, int] = {
    "parse_error": 400,
    "invalid_request": 400,
    "method_not_found": 404,
    "invalid_params": 400,
    "internal_error": 500,
    "unauthenticated": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "busy": 503,
    "too_large": 413,
    "stopping": 503,
    "starting": 503,
    "not_found": 404,
    "conflict": 409,
    "disk_full": 507,
    "read_only": 503,
    "store_damaged": 500,           # not 503: somebody has to act before it helps to send it again
    "outcome_unknown": 500,         # not 503: whoever sends it again without a key may do it twice
    "idempotency_mismatch": 422,
    "index_unavailable": 503,
    "embedder_unavailable": 503,
    "dimension_mismatch": 400,
    "bad_name": 400,
    "bad_content": 400,
    "backup_busy": 503,
    "backup_invalid": 500,
    "no_such_backup": 404,
}


class HttpRefusal(Exception):
    """A request that is answered without any method being called.

    `ends`: the stream cannot be used any further. `delay_s`: its sender is to wait so long for the answer.
    """

    def __init__(
        self, status: int, error: RpcError, *, ends: bool = False, allow: str | None = None, delay_s: float = 0.0
    ) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.ends = ends
        self.allow = allow      # what the path can be asked for
        self.delay_s = delay_s


def malformed(what: str) -> HttpRefusal:
    """Bytes of which it is not certain what they mean: two readers could see two requests in them."""
    return HttpRefusal(400, InvalidRequest(f"Not a proper HTTP request: {what}."), ends=True)


def too_large(status: int, message: str) -> HttpRefusal:
    """More than is read."""
    return HttpRefusal(status, TooLarge(message), ends=True)


def not_taken(status: int, message: str, *, ends: bool = False) -> HttpRefusal:
    """Understood, but not a form in which it is taken."""
    return HttpRefusal(status, InvalidRequest(message), ends=ends)


def forbidden(message: str) -> HttpRefusal:
    """Not from there."""
    return HttpRefusal(403, Forbidden(message))


def unauthenticated(message: str, *, ends: bool = False, delay_s: float = 0.0) -> HttpRefusal:
    """Not without a token that holds."""
    return HttpRefusal(401, Unauthenticated(message), ends=ends, delay_s=delay_s)


def no_such_path(path: str) -> HttpRefusal:
    """The path is none of ours. It is the client's: shown only so far."""
    shown = path if len(path) <= 100 else path[:100] + "..."
    return HttpRefusal(404, NotFound(f"There is nothing at {shown}."))


def wrong_verb(verb: str, allow: str) -> HttpRefusal:
    """The path is there, but not for this."""
    return HttpRefusal(405, InvalidRequest(f"{verb} is not taken here, but {allow}."), allow=allow)
