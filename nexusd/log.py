"""Log entries: a short constant sentence and fields, to the journal, a terminal or a pipe.

Owns the form of an entry, what must never stand in one, the level from which on there are entries, and the route of
everything that other libraries log. Knows no part. To systemd's journal an entry goes with its fields (`journal`); on
a pipe it is one line of one write, `<N>` (the syslog priority, which the journal takes off) and logfmt; on a terminal
it has colour.

    self._log = structlog.get_logger("nexusd.store")  # in a constructor: at import nothing is configured yet
    self._log.info("checkpoint done", pages=12)

Memories' text and tokens never reach a log: fields of such names are withheld, values that are neither text
nor number show as their type, messages of errors that may quote a value are left out, and tracebacks carry no
local variables.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, TextIO

import structlog

from nexusd.config_sections import LogConfig
from nexusd.exception_text import describe_error, format_error
from nexusd.journal import Journal, add_callsite, render_fields
from nexusd.logfmt import PRIORITIES, escape, render_logfmt

EventDict = MutableMapping[str, Any]
OutputKind = Literal["journal", "terminal", "logfmt"]

# Compared without underscores and case, so that userMessage is user_message.
WITHHELD = frozenset({
    "usermessage", "airesponse", "query", "text", "texts", "content", "metadata", "params", "payload", "body",
    "vector", "token", "tokens", "secret", "password", "authorization", "apikey", "credential",
})
MAX_VALUE_CHARACTERS = 2000      # a value longer than this is content, whatever its name is
MAX_TRACEBACK_CHARACTERS = 20000
MAX_VALUE_DEPTH = 3
_FIRST_WORDS = re.compile(r"[A-Za-z ]*")


@dataclass(frozen=True, slots=True)
class _Output:
    """Where entries go: the last processors, and what writes the finished entry."""

    kind: OutputKind
    processors: list[Callable[[Any, str, EventDict], Any]]
    write: Callable[[Any], None]
    journal: Journal | None = None


class _Line:
    """The end of an entry's way: writes it. One a logger name, since structlog hands names to its factory."""

    def __init__(self, write: Callable[[Any], None], name: str) -> None:
        self.write = write
        self.name = name

    def __getattr__(self, level: str) -> Callable[[Any], None]:
        """structlog calls the method named for the level; every level is the same here."""
        if level not in PRIORITIES:
            raise AttributeError(level)
        return self.write


class LogControl:
    """The log of this process, as far as it is asked or changed while it is written."""

    def __init__(
        self, kind: OutputKind = "logfmt", loggers: type | None = None, journal: Journal | None = None
    ) -> None:
        """`kind` is the form in which entries go out, `loggers` the class of all loggers; without it there are none."""
        self.kind = kind
        self._loggers = loggers if loggers is not None else type("Logger", (), {})
        self._journal = journal

    @property
    def dropped(self) -> int:
        """Entries that the journal did not take."""
        return 0 if self._journal is None else self._journal.dropped

    def set_level(self, level: str) -> None:
        """From now on entries below this level are dropped, at the price of a method call."""
        number = logging.getLevelNamesMapping()[level.upper()]
        # Loggers are made once and kept by their parts: it is their class that learns it.
        for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
            if not name.startswith("__"):
                setattr(self._loggers, name, method)
        # Other libraries: warnings and errors. Their info and debug entries may hold requests and headers.
        logging.getLogger().setLevel(max(number, logging.WARNING))

    def close(self) -> None:
        """Give the journal's socket back: entries from now on are lost."""
        if self._journal is not None:
            self._journal.close()


def configure(config: LogConfig, stream: TextIO, journal_stream: str | None = None) -> LogControl:
    """Take every entry of this process, structlog's and the standard library's alike.

    They go to `stream`, or to the journal if that is what the stream is connected to: `journal_stream` is what systemd
    says of it, as $JOURNAL_STREAM.
    """
    output = _choose_output(config, stream, journal_stream)
    loggers = type("Logger", (structlog.make_filtering_bound_logger(logging.DEBUG),), {})
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_name,
            _format_traceback,
            withhold_content,
            *output.processors,
        ],
        wrapper_class=loggers,
        logger_factory=lambda *names: _Line(output.write, str(names[0]) if names else ""),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromStandardLibrary()], force=True)
    logging.captureWarnings(capture=True)
    control = LogControl(output.kind, loggers, output.journal)
    control.set_level(config.level)
    if config.format == "journal" and output.kind != "journal":
        structlog.get_logger("nexusd.log").warning("no journal to log to", socket=config.journal_socket)
    return control


def _choose_output(config: LogConfig, stream: TextIO, journal_stream: str | None) -> _Output:
    wanted = config.format
    if wanted == "auto" and _is_stream(stream, journal_stream):
        wanted = "journal"
    if wanted == "journal" and _listens(Path(config.journal_socket)):
        return _journal(Path(config.journal_socket))
    if wanted == "terminal" or (wanted == "auto" and stream.isatty()):
        return _terminal(stream)
    return _logfmt(stream)


def _listens(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:     # a directory on the way that we may not enter
        return False


def _is_stream(stream: TextIO, named: str | None) -> bool:
    """Whether this is the stream that is named as `device:inode`."""
    if named is None:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError, io.UnsupportedOperation):  # a closed one, or one without a descriptor
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def log_stray_errors() -> None:
    """Log what nobody caught, in threads, finalizers and the main thread, as entries instead of bare text."""
    log = structlog.get_logger("nexusd.log")

    def main_hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        else:
            log.critical("uncaught error", exc_info=(kind, error, traceback))

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            log.critical("uncaught error in a thread", thread=name, exc_info=args.exc_value)

    def unraisable_hook(args: Any) -> None:
        # Not its object: the repr of one that is being finalized may fail, or hold content.
        log.error("error that nobody could catch", reason=args.err_msg or "", exc_info=args.exc_value)

    sys.excepthook = main_hook
    threading.excepthook = thread_hook
    sys.unraisablehook = unraisable_hook


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log what was raised in a task or callback that nobody awaits. The loop's own words hold the call's arguments."""
    log = structlog.get_logger("nexusd.log")

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        said = _FIRST_WORDS.match(str(context.get("message", "")))
        log.error("uncaught error in the loop", reason=said[0].strip() if said else "",
                  exc_info=context.get("exception"))

    loop.set_exception_handler(handle)


def withhold_content(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Take out what must not reach a log, and make every value plain: the last guard, not the only one."""
    return _without_content(event, 0)


def _without_content(fields: Mapping[str, object], depth: int) -> dict[str, object]:
    return {
        str(name): "[withheld]" if str(name).replace("_", "").lower() in WITHHELD else _plain(value, depth)
        for name, value in fields.items()
    }


def _plain(value: object, depth: int) -> object:
    plain: object = f"[{type(value).__name__}]"  # a record's repr would be its content
    match value:
        case Enum():
            plain = value.name
        case None | bool() | int() | float():
            plain = value
        case str():
            plain = _shortened(value)
        case bytes() | bytearray():
            plain = f"[{len(value)} bytes]"
        case PurePath():
            plain = str(value)
        case BaseException():
            plain = _shortened(describe_error(value))
        case Mapping() if depth < MAX_VALUE_DEPTH:
            plain = _without_content(value, depth + 1)
        case list() | tuple() | set() | frozenset() if depth < MAX_VALUE_DEPTH:
            plain = [_plain(inner, depth + 1) for inner in value]
    return plain


def _shortened(text: str) -> str:
    limit = MAX_TRACEBACK_CHARACTERS if text.startswith("Traceback ") else MAX_VALUE_CHARACTERS
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def _add_name(logger: Any, _method: str, event: EventDict) -> EventDict:
    if isinstance(logger, _Line) and logger.name:
        event.setdefault("logger", logger.name)
    return event


def _format_traceback(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """`exc_info` to `exception` and `kind`. Not by rich or Python, whose tracebacks say more than may be said."""
    error = _raised(event.pop("exc_info", None))
    if error is not None:
        event.setdefault("kind", type(error).__name__)
        event["exception"] = format_error(error)
    return event


def _raised(exc_info: object) -> BaseException | None:
    """The error that an entry is about; True means the one that is handled at the moment."""
    found = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1] if exc_info is True else exc_info
    return found if isinstance(found, BaseException) else None


class _FromStandardLibrary(logging.Handler):
    """Hands entries of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record, one entry."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the library's arguments do not fit its format
            message = str(record.msg)
        level = record.levelname.lower()
        if level not in PRIORITIES:
            level = "warning"
        log = structlog.get_logger(record.name)
        getattr(log, level)(message, exc_info=record.exc_info)


def _writer(stream: TextIO) -> Callable[[str], None]:
    lock = threading.Lock()

    def write(line: str) -> None:
        # A log that cannot be written (its reader is gone, the disk is full) must not take the daemon down.
        with contextlib.suppress(OSError, ValueError), lock:
            stream.write(line + "\n")
            stream.flush()

    return write


def _journal(path: Path) -> _Output:
    journal = Journal(path)
    return _Output("journal", [add_callsite(), render_fields], journal.write, journal)


def _terminal(stream: TextIO) -> _Output:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        pad_event_to=32,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return _Output("terminal", [stamp, _tame_controls, renderer], _writer(stream))


def _logfmt(stream: TextIO) -> _Output:
    return _Output("logfmt", [render_logfmt], _writer(stream))


def _tame_controls(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """No value moves the cursor or begins a line; a traceback is ours and may."""
    return {
        name: escape(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }
