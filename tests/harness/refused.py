"""A call that must fail, in what is expected of the daemon."""

from __future__ import annotations


class Refused(Exception):
    """The call gets an error of this kind, and nothing is changed."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def refuse_unless(condition: bool, kind: str) -> None:
    """Raise `Refused` where the condition does not hold."""
    if not condition:
        raise Refused(kind)
