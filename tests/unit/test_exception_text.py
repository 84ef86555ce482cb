"""An error is told by its type always, and by its message where that cannot quote what people said."""

from __future__ import annotations

import asyncio
import json
import ssl

import apsw
import pytest

from nexusd.errors import Busy
from nexusd.exception_text import MAX_CHAIN, describe_error, format_error

SAID = "the key lies under the third flower pot"


class Broken(RuntimeError):
    """An error of another library, whose text is not even to be had."""

    def __str__(self) -> str:
        raise AssertionError("nobody may ask for it")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Busy("later"), "Busy: later"),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
        (ssl.SSLError(1, "no certificate"), "SSLError: ('no certificate',)"),
        (TypeError("'str' object is not callable"), "TypeError: 'str' object is not callable"),
        (RuntimeError(), "RuntimeError"),
        (TimeoutError(), "TimeoutError"),
        (asyncio.InvalidStateError("not done"), "InvalidStateError: not done"),
        (ValueError(SAID), "ValueError (message withheld)"),
        (KeyError(SAID), "KeyError (message withheld)"),
        (UnicodeEncodeError("utf-8", SAID, 0, 1, "no"), "UnicodeEncodeError (message withheld)"),
        (json.JSONDecodeError("bad", SAID, 1), "JSONDecodeError (message withheld)"),
        (apsw.SQLError(f'fts5: syntax error near "{SAID}"'), "SQLError (message withheld)"),
        (Broken(), "Broken (message withheld)"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_message_is_told_where_it_cannot_hold_what_people_said(error: Exception, told: str) -> None:
    if isinstance(error, ssl.SSLError):     # the system's, by way of a library: how it says it is its own matter
        assert describe_error(error).startswith("SSLError: ")
    else:
        assert describe_error(error) == told


def test_a_traceback_names_the_errors_that_led_to_it_oldest_first_and_quotes_none() -> None:
    def fail() -> None:
        said = SAID
        try:
            int(said)
        except ValueError as error:
            raise RuntimeError("cannot count") from error

    with pytest.raises(RuntimeError) as caught:
        fail()
    text = format_error(caught.value)
    assert SAID not in text
    first, second = text.split("\nThe above exception was the direct cause of the following exception:\n\n")
    assert first.startswith("Traceback (most recent call last):\n")
    assert "    int(said)\n" in first
    assert first.endswith("ValueError (message withheld)\n")
    assert second.endswith("RuntimeError: cannot count")


def test_what_happened_while_an_error_was_handled_is_told_unless_it_was_put_aside() -> None:
    def fail(*, aside: bool) -> None:
        try:
            os_error()
        except OSError:
            if aside:
                raise RuntimeError("instead") from None
            on_top()

    def on_top() -> None:
        raise RuntimeError("on top")

    def os_error() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(RuntimeError) as added:
        fail(aside=False)
    assert "Input/output error\n\nDuring handling of the above exception" in format_error(added.value)
    with pytest.raises(RuntimeError) as instead:
        fail(aside=True)
    assert "Input/output error" not in format_error(instead.value)


def test_errors_of_a_group_are_each_told() -> None:
    group = ExceptionGroup("two things", [OSError(5, "broken"), ValueError(SAID)])
    assert format_error(group) == (
        "ExceptionGroup: two things (2 sub-exceptions)\n"
        "--- 1 of 2 together ---\nOSError: [Errno 5] broken\n"
        "--- 2 of 2 together ---\nValueError (message withheld)"
    )


def test_a_chain_that_bites_its_tail_or_never_ends_is_cut() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert format_error(first).count("RuntimeError: ") == 2
    last = error = RuntimeError("0")
    for number in range(1, 1000):
        error.__context__ = RuntimeError(str(number))
        error = error.__context__
    assert format_error(last).count("RuntimeError: ") == MAX_CHAIN
