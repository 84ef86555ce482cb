"""What a call can end in, besides its result.

Owns the errors of the client's own side, and the way back from a reply's error object to the classes
of `nexusd.errors`: the tree is the same on both sides of the socket, so `except NotFound` means the
same in a caller as in the daemon. Knows no socket.

    NexusError
    +-- ClientError
    |   +-- ConnectionFailed      nobody listens there, or the connection went and the retries with it
    |   +-- DeadlineExceeded      no answer in time (also a TimeoutError)
    |   +-- ProtocolViolated      what answers does not speak nexusd's protocol
    |   +-- ClientClosed          the client was closed, by the caller itself
    +-- RpcError and below        the daemon answered this error; see nexusd.errors
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from nexusd.errors import NexusError, RpcError
from nexusd.field_errors import FieldError


class ClientError(NexusError):
    """The call failed on the way."""


class ConnectionFailed(ClientError):
    """There is no connection to the daemon."""


class DeadlineExceeded(ClientError, TimeoutError):
    """No answer came in time. A write that was sent may stand; the same call with its key again is safe."""


class ProtocolViolated(ClientError):
    """What answers there does not speak nexusd's protocol."""


class ClientClosed(ClientError):
    """The client is closed."""


class WireError(Struct, frozen=True):
    """A reply's error object as it came."""

    code: int
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _ErrorData(Struct, frozen=True, rename="camel"):
    kind: str
    retryable: bool = False
    retry_after_ms: int | None = None
    request_id: str | None = None
    fields: tuple[FieldError, ...] = ()


def _tree(root: type[RpcError]) -> Iterator[type[RpcError]]:
    """A class before those below it, so that the first of a kind is the most general."""
    yield root
    for below in root.__subclasses__():
        yield from _tree(below)


def _class_of(code: int, kind: str, *, retryable: bool) -> type[RpcError]:
    """The class of this kind; of a kind that this version does not know, one made for it."""
    matching = [cls for cls in _tree(RpcError) if cls.kind == kind and cls is not RpcError]
    known = matching[0] if matching else RpcError
    if (known.code, known.kind, known.retryable) == (code, kind, retryable):
        return known
    # A newer daemon may say something else of a kind than this version's class: what it says holds.
    said = {"code": code, "kind": kind, "retryable": retryable, "__doc__": known.__doc__}
    return type(known.__name__, (known,), said)


def _kind_of(code: int) -> tuple[str, bool]:
    """Kind and retryable of a code whose error says nothing more."""
    for cls in _tree(RpcError):
        if cls.code == code and cls is not RpcError:
            return cls.kind, cls.retryable
    return "unknown", False


def rebuilt(error: WireError) -> RpcError:
    """The exception that the daemon raised, as far as the wire tells: class, message, fields, requestId."""
    try:
        data = msgspec.json.decode(error.data, type=_ErrorData)
    except msgspec.DecodeError:  # none, or of another shape: the code alone has to do
        kind, retryable = _kind_of(error.code)
        data = _ErrorData(kind=kind, retryable=retryable)
    cls = _class_of(error.code, data.kind, retryable=data.retryable)
    # Through the base's constructor: a class below it may ask for more than the wire carries.
    exception = cls.__new__(cls)
    RpcError.__init__(
        exception, error.message or None, fields=data.fields, retry_after_ms=data.retry_after_ms
    )
    exception.request_id = data.request_id
    for field in data.fields:
        exception.add_note(f"{field.path}: {field.expected}")
    if data.request_id is not None:
        exception.add_note(f"requestId {data.request_id}")
    return exception
