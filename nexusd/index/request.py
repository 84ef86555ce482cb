"""A request to the index's child on its way through it, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Request:
    """A request that waits, with what has been found for it so far."""

    id: int
    op: str
    payload: dict[str, Any]
    found: list[Any] = field(default_factory=list)


class RefusedError(Exception):
    """The request cannot be served; `kind` tells the daemon's side which error it is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
