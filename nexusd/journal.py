"""Log entries in systemd's journal, by its native protocol: fields to filter by, one entry for a whole traceback.

Owns which fields an entry has, the ids of the kinds of entries, and what happens when the journal does not take one:
it is counted, nobody waits, and the next entry that gets through says how many were lost. Knows no part of the daemon.

A kind of entry is its constant sentence, and MESSAGE_ID is made of that: systemd/nexusd.catalog explains the main
ones under these ids. Everything else in an entry is in the fields NEXUS_*, and once more in MESSAGE for people.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog
from logging_journald import JournaldTransport

from nexusd.logfmt import PRIORITIES, as_text, escape, pairs

IDENTIFIER = "nexusd"
OWN_LOGGERS = "nexusd"          # what other libraries log has no constant sentence, so no id
KINDS = uuid.UUID("0c9c9f6e-4f0d-4c3a-9d0e-6a2a2f1b7c55")   # what the ids are made under; drawn once
ENTRIES_LOST = "log entries were lost"
MAX_FIELD_NAME = 64             # the journal's own limit; an entry with a longer name is dropped by it
_CALLSITE = {"pathname": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
_RENAMED = {"kind": "NEXUS_ERROR_KIND"}
_OTHER_THAN_NAME = re.compile(r"[^A-Z0-9_]")

Field = tuple[str, str]


def message_id(event: str) -> str:
    """The id of a kind of entry."""
    return uuid.uuid5(KINDS, event).hex


def add_callsite() -> structlog.typing.Processor:
    """What adds the place in the code that logged; frames of the logging itself do not count."""
    parameter = structlog.processors.CallsiteParameter
    return structlog.processors.CallsiteParameterAdder(
        [parameter.PATHNAME, parameter.LINENO, parameter.FUNC_NAME],
        additional_ignores=["nexusd.log", "nexusd.journal", "warnings"],
    )


def render_fields(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[list[Field]], dict[str, Any]]:
    """An entry as the journal's fields; in the form in which structlog takes arguments."""
    return (_fields(event),), {}


def _fields(event: MutableMapping[str, Any]) -> list[Field]:
    level, sentence = str(event.pop("level", "info")), str(event.pop("event", ""))
    logger, exception = str(event.pop("logger", "")), event.pop("exception", None)
    callsite = [(_CALLSITE[name], as_text(event.pop(name))) for name in _CALLSITE if name in event]
    message = escape(sentence) + (f": {pairs(event)}" if event else "")
    if exception is not None:
        message += "".join(f"\n{escape(line)}" for line in str(exception).split("\n"))
    fields = [
        ("MESSAGE", message),
        ("PRIORITY", str(PRIORITIES.get(level, 6))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        *callsite,
    ]
    if logger.partition(".")[0] == OWN_LOGGERS:
        fields.append(("MESSAGE_ID", message_id(sentence)))
    if logger:
        fields.append(("NEXUS_LOGGER", logger))
    fields += [_field(name, value) for name, value in event.items() if value is not None]
    # half a character, say, is nothing that UTF-8 knows
    return [(name, value.encode("utf-8", "backslashreplace").decode("utf-8")) for name, value in fields]


def _field(name: str, value: object) -> Field:
    if name == "duration_ms" and isinstance(value, int | float):
        return "NEXUS_DURATION_US", str(round(value * 1000))
    full = _RENAMED.get(name) or "NEXUS_" + _OTHER_THAN_NAME.sub("_", name.upper())
    return full[:MAX_FIELD_NAME], as_text(value)


class Journal:
    """The journal's socket. Entries of any thread."""

    def __init__(self, path: Path) -> None:
        """`path`: where the journal listens; addressed anew by each entry, so that it may be restarted meanwhile."""
        self.dropped = 0
        self._unsaid = 0    # of those: no entry has told of them yet
        self._lock = threading.Lock()
        self._transport = JournaldTransport(path, connected=False)
        self._transport.socket.setblocking(False)   # noqa: FBT003 - the standard library's own name for it

    def write(self, fields: list[Field]) -> None:
        """Hand an entry over, or count it: the journal is gone, or does not keep up. Never waits."""
        if not self._send(fields):
            with self._lock:
                self.dropped += 1
                self._unsaid += 1
        elif self._unsaid:
            with self._lock:
                lost, self._unsaid = self._unsaid, 0
            if lost and not self._send(_fields({"level": "warning", "event": ENTRIES_LOST, "logger": "nexusd.log",
                                                "lost": lost})):
                with self._lock:
                    self._unsaid += lost

    def _send(self, fields: list[Field]) -> bool:
        try:
            self._transport.send(fields)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the socket back."""
        self._transport.socket.close()
