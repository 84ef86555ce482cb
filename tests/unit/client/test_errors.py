from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from nexusd.client.errors import WireError, rebuilt
from nexusd.errors import Busy, NotFound, RpcError, SessionNotFound


def tree(root: type[RpcError]) -> Iterator[type[RpcError]]:
    yield root
    for below in root.__subclasses__():
        yield from tree(below)


def wire(code: int, **data: object) -> WireError:
    return WireError(code, "A message.", msgspec.Raw(msgspec.json.encode(data)))


WIRE_CLASSES = [cls for cls in tree(RpcError) if "kind" in vars(cls) and cls.__module__ == "nexusd.errors"]


@pytest.mark.parametrize("cls", WIRE_CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_of_the_tree_comes_back_as_itself(cls: type[RpcError]) -> None:
    error = rebuilt(wire(cls.code, kind=cls.kind, retryable=cls.retryable, requestId="r"))
    if cls is not RpcError:
        assert type(error) is cls
    assert (error.code, error.kind, error.retryable) == (cls.code, cls.kind, cls.retryable)
    assert error.request_id == "r"
    assert error.message == "A message."


def test_errors_of_one_kind_come_back_as_the_most_general() -> None:
    assert type(rebuilt(wire(-32010, kind="not_found"))) is NotFound
    assert issubclass(SessionNotFound, NotFound)


def test_what_the_daemon_says_of_a_kind_goes_before_what_this_version_knows() -> None:
    error = rebuilt(wire(-32004, kind="busy", retryable=False))
    assert isinstance(error, Busy)
    assert not error.retryable
    assert Busy.retryable


@pytest.mark.parametrize("data", [b"null", b'"text"', b"[]", b'{"kind":1}', b"{}"])
def test_code_alone_is_enough(data: bytes) -> None:
    error = rebuilt(WireError(-32004, "Busy.", msgspec.Raw(data)))
    assert isinstance(error, Busy)
    assert error.retryable


def test_code_that_nobody_knows_is_an_rpc_error_of_that_code() -> None:
    error = rebuilt(WireError(-1, ""))
    assert (type(error).__mro__[1], error.code, error.kind) == (RpcError, -1, "unknown")
