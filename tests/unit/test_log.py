"""Log entries: one line each, with priority and fields, and never with what people said."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_sections import LogConfig
from nexusd.errors import Busy
from nexusd.log import configure, log_loop_errors, log_stray_errors
from nexusd.logfmt import render_logfmt

SAID = "the key lies under the third flower pot"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


@pytest.fixture
def pipe() -> io.StringIO:
    stream = io.StringIO()
    configure(LogConfig(level="info"), stream)
    return stream


def log(name: str = "nexusd.test") -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def test_a_pipe_gets_priority_level_event_and_fields_on_one_line(pipe: io.StringIO) -> None:
    log().info("checkpoint done", pages=12, took_ms=1.5, path=Path("/a b"), full=True, left=None)
    assert re.fullmatch(
        r'<6>time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info event="checkpoint done" '
        r'pages=12 took_ms=1.5 path="/a b" full=true left=null logger=nexusd.test\n',
        pipe.getvalue(),
    )


@pytest.mark.parametrize(("level", "priority"), [("info", 6), ("warning", 4), ("error", 3), ("critical", 2)])
def test_each_level_has_its_syslog_priority(pipe: io.StringIO, level: str, priority: int) -> None:
    getattr(log(), level)("it happened")
    assert pipe.getvalue().startswith(f"<{priority}>time=")


def test_a_terminal_gets_colour_and_no_priority() -> None:
    stream = Terminal()
    configure(LogConfig(), stream)
    log().warning("child ended", child="index")
    assert "\x1b[" in stream.getvalue()
    assert "<4>" not in stream.getvalue()
    assert re.sub(r"\x1b\[\d+m", "", stream.getvalue()).split() == [
        stream.getvalue()[4:12], "[warning", "]", "child", "ended", "[nexusd.test]", "child=index",
    ]  # fmt: skip


def test_the_form_can_be_chosen_against_what_the_stream_is() -> None:
    stream = Terminal()
    configure(LogConfig(format="logfmt"), stream)
    log().info("ready")
    assert stream.getvalue().startswith("<6>")
    piped = io.StringIO()
    configure(LogConfig(format="terminal"), piped)
    log().info("ready")
    assert "ready" in piped.getvalue()
    assert "\x1b" not in piped.getvalue()


def test_levels_below_the_configured_one_are_dropped_before_anything_is_done() -> None:
    stream = io.StringIO()
    configure(LogConfig(level="warning"), stream)
    log().info("nothing to see", value=Unprintable())
    log().debug("nothing to see", value=Unprintable())
    assert stream.getvalue() == ""
    configure(LogConfig(level="debug"), stream)
    log().debug("something to see")
    assert stream.getvalue().startswith("<7>")


class Unprintable:
    def __str__(self) -> str:
        raise AssertionError("a dropped entry must not look at its values")

    __repr__ = __str__


def test_a_traceback_is_one_escaped_field_and_shows_no_local_variables(pipe: io.StringIO) -> None:
    fail_with_a_secret_at_hand(lambda: log().exception("task failed", task="outbox"))
    [line] = pipe.getvalue().splitlines()
    assert 'task=outbox logger=nexusd.test kind=ValueError exception="Traceback (most recent call last):\\n' in line
    assert "ValueError (message withheld)" in line
    assert SAID not in line


def test_a_traceback_on_a_terminal_shows_no_local_variables_either() -> None:
    stream = Terminal()
    configure(LogConfig(), stream)
    fail_with_a_secret_at_hand(lambda: log().exception("task failed", task="outbox"))
    assert "ValueError (message withheld)" in stream.getvalue()
    assert SAID not in stream.getvalue()


def fail_with_a_secret_at_hand(then: Callable[[], object]) -> None:
    user_message = SAID.strip()  # a local variable, such as rich would show
    try:
        int(user_message)   # and it is quoted by the error
    except ValueError:
        then()


class Exchange(msgspec.Struct):
    user_message: str


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"user_message": SAID},
        {"userMessage": SAID},
        {"ai_response": SAID},
        {"aiResponse": SAID},
        {"query": SAID},
        {"text": SAID},
        {"token": SAID},
        {"secret": SAID},
        {"api_key": SAID},
        {"Authorization": SAID},
        {"metadata": {"note": SAID}},
        {"request": {"id": 1, "inner": [{"text": SAID}]}},
        {"record": Exchange(user_message=SAID)},
        {"records": [Exchange(user_message=SAID)]},
        {"frame": SAID.encode()},
        {"frame": memoryview(SAID.encode())},
        {"deep": [[[[[SAID]]]]]},
    ],
)
def test_text_of_memories_and_tokens_never_reach_a_log(fields: dict[str, object], terminal: bool) -> None:
    stream: io.StringIO = Terminal() if terminal else io.StringIO()
    configure(LogConfig(level="debug"), stream)
    log().bind(**fields).info("request done", method="episodes.create")
    with structlog.contextvars.bound_contextvars(**fields):
        log().info("request done", method="episodes.create")
    assert "flower" not in stream.getvalue()
    assert stream.getvalue().count("episodes.create") == 2


def test_an_error_as_a_field_is_its_name_and_message(pipe: io.StringIO) -> None:
    log().warning("refused", reason=Busy("later"))
    assert 'reason="Busy: later"' in pipe.getvalue()


def test_a_very_long_value_is_cut(pipe: io.StringIO) -> None:
    log().info("odd", value="x" * 1_000_000)
    assert len(pipe.getvalue()) < 3000
    assert "(1000000 characters)" in pipe.getvalue()


def test_other_libraries_warnings_come_through_and_their_chatter_does_not() -> None:
    stream = io.StringIO()
    configure(LogConfig(level="debug"), stream)
    logging.getLogger("httpx").info("POST /embed with headers")
    logging.getLogger("jsonrpcserver.async_dispatcher").warning("odd %s", "thing")
    logging.getLogger("asyncio").error("broken %d")
    logging.getLogger("asyncio").error("broken %d", "argument")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware", UserWarning, stacklevel=1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert 'level=warning event="odd thing" logger=jsonrpcserver.async_dispatcher' in lines[0]
    assert 'level=error event="broken %d" logger=asyncio' in lines[1]
    assert "UserWarning: beware" in lines[3]


def test_what_nobody_caught_in_a_thread_or_a_finalizer_becomes_an_entry(pipe: io.StringIO) -> None:
    log_stray_errors()
    thread = threading.Thread(target=lambda: 1 / 0, name="writer")
    thread.start()
    thread.join()

    class Closing:
        def __del__(self) -> None:
            raise RuntimeError("too late")

    Closing()
    first, second = pipe.getvalue().splitlines()
    assert 'event="uncaught error in a thread"' in first
    assert "thread=writer" in first
    assert "ZeroDivisionError" in first
    assert "RuntimeError: too late" in second


def test_what_a_task_or_a_callback_raises_and_nobody_awaits_becomes_an_entry_without_its_arguments(
    pipe: io.StringIO,
) -> None:
    def callback(said: str) -> None:
        int(said)

    async def fail() -> None:
        raise OSError(5, "Input/output error")

    async def leave_behind() -> None:
        loop = asyncio.get_running_loop()
        log_loop_errors(loop)
        loop.call_soon(callback, SAID)
        task = asyncio.create_task(fail(), name=SAID)
        await asyncio.wait({task})
        del task
        gc.collect()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(leave_behind())
    first, second = pipe.getvalue().splitlines()
    assert 'event="uncaught error in the loop" reason="Exception in callback' in first
    assert "kind=ValueError" in first
    assert 'reason="Task exception was never retrieved"' in second
    assert "OSError: [Errno 5] Input/output error" in second
    assert "flower" not in pipe.getvalue()


def test_a_level_that_changes_holds_for_loggers_that_were_made_before() -> None:
    stream = io.StringIO()
    control = configure(LogConfig(level="info"), stream)
    before = log().bind(part="store")
    before.debug("not yet")
    control.set_level("debug")
    before.debug("now")
    log().debug("now")
    control.set_level("error")
    before.info("no more")
    before.warning("no more", value=Unprintable())
    logging.getLogger("asyncio").warning("no more")
    before.error("still")
    control.set_level("info")
    logging.getLogger("asyncio").warning("again")
    assert re.findall(r'event="?([a-z ]+)"? ', stream.getvalue()) == ["now", "now", "still", "again"]


def test_a_log_whose_reader_is_gone_does_not_take_the_caller_down() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    configure(LogConfig(), stream)
    log().info("anybody there")
    with pytest.raises(BrokenPipeError):
        stream.close()  # so it was written to, and refused
    log().info("a closed stream is no reason either")


def test_entries_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        configure(LogConfig(), stream)

        def write() -> None:
            for number in range(50):
                log().info("entry written", number=number, filler="x" * 500)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 200
    entry = re.compile(r"<6>time=\S+ level=info event=\"entry written\" number=\d+ filler=x{500} logger=\S+")
    assert [line for line in lines if not entry.fullmatch(line)] == []


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=40), max_size=4), st.text(max_size=40))
def test_whatever_the_values_hold_an_entry_is_one_printable_line(fields: dict[str, str], event: str) -> None:
    line = render_logfmt(None, "info", {**fields, "event": event, "level": "error"})
    assert line.startswith("<3>time=")
    assert line.isprintable()
    assert line.encode("utf-8")


@given(st.text(max_size=60))
def test_a_terminal_never_gets_a_control_character_from_a_value(value: str) -> None:
    stream = io.StringIO()
    configure(LogConfig(format="terminal"), stream)
    log().info("request refused", method=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@given(st.text(max_size=60))
def test_a_logfmt_value_reads_back_as_it_was(value: str) -> None:
    line = render_logfmt(None, "info", {"event": "e", "level": "info", "value": value})
    shown = line.partition(" value=")[2]
    if shown.startswith('"'):
        shown = shown[1:-1].replace('\\"', '"')
        shown = re.sub(r"\\(\\|n|r|t|x..|u....|U........)", _unescape, shown)
    assert shown == value


def _unescape(match: re.Match[str]) -> str:
    return match[0].encode("ascii").decode("unicode_escape") if match[1] != "\\" else "\\"
