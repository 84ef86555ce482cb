"""Log entries: a short constant sentence and fields, to a terminal or to a pipe.

Owns the form of an entry, what must never stand in one, and the route of everything that other libraries
log. Knows no part. An entry is one line of one write: `<N>` (the syslog priority, which the journal takes
off) and logfmt on a pipe, colour on a terminal. The journal's native socket would be one more `_Output`.

    self._log = structlog.get_logger("nexusd.store")  # in a constructor: at import nothing is configured yet
    self._log.info("checkpoint done", pages=12)

Memories' text and tokens never reach a log: fields of such names are withheld, values that are neither text
nor number show as their type, and tracebacks carry no local variables.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO

import structlog

from nexusd.config import LogConfig

EventDict = MutableMapping[str, Any]

# Priorities of syslog, as the journal understands them.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
# Compared without underscores and case, so that userMessage is user_message.
WITHHELD = frozenset({
    "usermessage", "airesponse", "query", "text", "texts", "content", "metadata", "params", "payload", "body",
    "vector", "token", "tokens", "secret", "password", "authorization", "apikey", "credential",
})
MAX_VALUE_CHARACTERS = 2000      # a value longer than this is content, whatever its name is
MAX_TRACEBACK_CHARACTERS = 20000
MAX_VALUE_DEPTH = 3


@dataclass(frozen=True, slots=True)
class _Output:
    """Where entries go: the last processors, and what writes the finished line."""

    processors: list[Callable[[Any, str, EventDict], Any]]
    write: Callable[[str], None]


class _Line:
    """The end of an entry's way: writes it. One a logger name, since structlog hands names to its factory."""

    def __init__(self, write: Callable[[str], None], name: str) -> None:
        self.write = write
        self.name = name

    def __getattr__(self, level: str) -> Callable[[str], None]:
        """structlog calls the method named for the level; every level is the same here."""
        if level not in PRIORITIES:
            raise AttributeError(level)
        return self.write


def configure(config: LogConfig, stream: TextIO) -> None:
    """Send every entry of this process to `stream`, structlog's and the standard library's alike."""
    terminal = config.format == "terminal" or (config.format == "auto" and stream.isatty())
    output = _terminal(stream) if terminal else _logfmt(stream)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_name,
            _format_traceback,
            withhold_content,
            *output.processors,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),  # a disabled level costs a method call
        logger_factory=lambda *names: _Line(output.write, str(names[0]) if names else ""),
        cache_logger_on_first_use=True,
    )
    # Other libraries: warnings and errors. Their info and debug entries may hold requests and headers.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_FromStandardLibrary()], force=True)
    logging.captureWarnings(capture=True)


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
            plain = _shortened(f"{type(value).__name__}: {value}")
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


def _format_traceback(logger: Any, method: str, event: EventDict) -> EventDict:
    """`exc_info` to a field `exception`; plainly, since rich's tracebacks show local variables."""
    return structlog.processors.format_exc_info(logger, method, event)


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


def _terminal(stream: TextIO) -> _Output:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        pad_event_to=32,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return _Output([stamp, _tame_controls, renderer], _writer(stream))


def _logfmt(stream: TextIO) -> _Output:
    return _Output([render_logfmt], _writer(stream))


def _tame_controls(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """No value moves the cursor or begins a line; a traceback is ours and may."""
    return {
        name: _escape(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }


def render_logfmt(_logger: Any, _method: str, event: EventDict) -> str:
    """`<N>` and `name=value` pairs on one line, whatever the values hold."""
    level = str(event.pop("level", "info"))
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    first = [f"time={now}Z", f"level={level}", f"event={_logfmt_value(event.pop('event', ''))}"]
    rest = [f"{_logfmt_name(name)}={_logfmt_value(value)}" for name, value in event.items()]
    return f"<{PRIORITIES.get(level, 6)}>" + " ".join(first + rest)


def _logfmt_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name) or "_"


def _logfmt_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if text and text.isprintable() and not any(c in ' "=\\' for c in text):
        return text
    return '"' + _escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escape(text: str) -> str:
    """Control characters, line separators and lone surrogates as \\n, \\x1b, \\u2028."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
