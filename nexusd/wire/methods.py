"""What a method is to the wire, and the table of them.

Owns the description of a method and of one call. `api` makes `Method`s and registers them; dispatch
calls them; discovery and help describe them. Knows no resource.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msgspec import Struct

from nexusd.errors import MethodNotFound, RpcError
from nexusd.model.fields import Params

MAX_NAME_SHOWN = 100    # of a method name that is none, in the message that says so

Role = Literal["none", "read", "write", "admin"]    # none: of who has not logged in, and what they may call


class Grant(Protocol):
    """What a principal's token allows."""

    @property
    def ended(self) -> bool:
        """Whether it is worth nothing any more."""

    def check(self, method: str) -> None:
        """Pass if this method may be called now. Raises Unauthenticated, Forbidden or RateLimited."""


class Principal(Struct, frozen=True):
    """Who is calling: a stable name (such as `uid:1000` or `token:4f2a`) and the role it has.

    `peer` is where from, `process` of which process on the Unix socket, and `grant` what holds beside the role.
    """

    name: str
    role: Role
    peer: str = ""
    grant: Grant | None = None
    process: int = 0

    @property
    def client(self) -> str:
        """What counts as one client among others: several programs of one user are several."""
        return f"{self.name} {self.peer} {self.process}" if self.process else f"{self.name} {self.peer}"


class Client(Protocol):
    """The connection that a call came over, as far as a method may use it: to send what nobody asked for."""

    def notify(self, message: bytes) -> bool:
        """Send a line; false where the client reads too slowly or is gone: then it was not sent."""

    def when_writable(self, function: Callable[[], None]) -> None:
        """Call once when lines can be sent again after `notify` said no; soon, if they can; never, if it is gone."""

    def when_closed(self, function: Callable[[], None]) -> None:
        """Call once when it is gone."""

    def address(self) -> str | None:
        """Where it comes from; None on the Unix socket."""

    def is_gone(self) -> bool:
        """Whether nobody will read an answer."""

    def become(self, principal: Principal) -> None:
        """It has logged in: what comes from now on is this principal's."""


class Call(Struct, frozen=True):
    """One request on its way: who sent it, the id under which the log knows it, and its connection, if it stays."""

    principal: Principal
    request_id: str
    client: Client | None = None    # none over HTTP
    batched: bool = False           # one of a batch: its reply goes out with those of the others


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method. `handler` takes the call and an instance of `params` and answers `result`'s type.

    An `immediate` one is a plain function that waits for nothing (a look-up by key): it is answered in the turn
    of the loop in which it came, which is half the price. All others are coroutine functions.
    """

    name: str                                   # resource.verb, as on the wire
    summary: str                                # one sentence for help and discovery
    params: type[Params]
    result: Any                                 # the type that msgspec encodes and describes
    handler: Callable[[Call, Any], Any]
    role: Role
    immediate: bool = False
    mutates: bool = False                       # takes idempotencyKey
    waits: bool = False                         # outside of the lanes, and taking long is no slowness
    errors: tuple[type[RpcError], ...] = ()     # those of its own, beside what every method may answer
    example: dict[str, Any] | None = None       # parameters that work on an empty store, where there are any
    # what an event says of a change, from parameters and result; none: `id`, of the result or else the parameters
    subject: Callable[[Any, Any], Mapping[str, Any]] | None = None

    @property
    def positions(self) -> tuple[str, ...]:
        """Wire names in positional order: the method's own parameters first, those of its bases last."""
        bases = (base for base in self.params.__mro__[1:] if issubclass(base, Struct) and base is not Struct)
        inherited = {name for base in bases for name in base.__struct_encode_fields__}
        names = self.params.__struct_encode_fields__
        return (*(n for n in names if n not in inherited), *(n for n in names if n in inherited))


class MethodTable:
    """All methods by name; a name is registered once."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def register(self, methods: Iterable[Method]) -> None:
        """Add methods.

        Raises:
            ValueError: a name is taken.
        """
        for method in methods:
            if method.immediate == inspect.iscoroutinefunction(method.handler):
                raise ValueError(f"method {method.name}: a coroutine function is never immediate, all else is")
            if method.name in self._methods:
                raise ValueError(f"method {method.name} is registered twice")
            self._methods[method.name] = method

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods.values())

    def __len__(self) -> int:
        return len(self._methods)

    def get(self, name: str) -> Method | None:
        """The method of this name, or None."""
        return self._methods.get(name)


def no_such_method(name: str) -> MethodNotFound:
    """The error to raise for a name that no method has. The name is the client's: it is shown only so far."""
    shown = name if len(name) <= MAX_NAME_SHOWN else name[:MAX_NAME_SHOWN] + "..."
    return MethodNotFound(f"There is no method {shown}; `help` lists those there are.")
