"""What may be said of an exception: always its type, its message only where that cannot hold what people said.

Owns that judgement, and tracebacks that keep to it. Knows no log and no reply.

A message of the system, of our own errors, or one that the interpreter made of names and types may be told. A
ValueError quotes the value, a KeyError the key, and what other libraries put into theirs nobody knows: of these the
type is told, and in a traceback the lines that were run.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

_OWN_WORDS = frozenset({"nexusd", "asyncio"})   # packages whose messages are made of their own words
_QUOTING = (ValueError, KeyError, SyntaxError)  # of the interpreter's own errors
MAX_CHAIN = 20  # errors that led to one another, shown of a traceback


def describe_error(error: BaseException) -> str:
    """The type, and the message if it may be told: on one line where the message is one."""
    return _described(error, type(error).__name__)


def format_error(error: BaseException) -> str:
    """The traceback, with the errors that led to this one before it; without variables, and ended by no line break."""
    return "".join(_blocks(error)).rstrip("\n")


def _described(error: BaseException, name: str) -> str:
    if not _may_be_told(error):
        return f"{name} (message withheld)"
    message = str(error)
    return f"{name}: {message}" if message else name


def _may_be_told(error: BaseException) -> bool:
    if isinstance(error, OSError):  # of any library: number, words of the system, a path
        return True
    package = type(error).__module__.partition(".")[0]
    return package in _OWN_WORDS or (package == "builtins" and not isinstance(error, _QUOTING))


def _blocks(error: BaseException) -> Iterator[str]:
    chain: list[tuple[BaseException, str]] = [(error, "")]
    seen = {id(error)}
    while len(chain) < MAX_CHAIN:
        last = chain[-1][0]
        if last.__cause__ is not None:
            before, then = last.__cause__, "\nThe above exception was the direct cause of the following exception:\n\n"
        elif last.__context__ is not None and not last.__suppress_context__:
            before, then = last.__context__, "\nDuring handling of the above exception, another exception occurred:\n\n"
        else:
            break
        if id(before) in seen:
            break
        seen.add(id(before))
        chain.append((before, then))
    for one, then in reversed(chain):
        yield from _block(one)
        yield then


def _block(error: BaseException) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    yield _described(error, name) + "\n"
    if isinstance(error, BaseExceptionGroup):
        for place, inner in enumerate(error.exceptions[:MAX_CHAIN], start=1):
            yield f"--- {place} of {len(error.exceptions)} together ---\n"
            yield format_error(inner) + "\n"
