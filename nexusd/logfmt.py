"""Log entries as text: `name=value` pairs on one line, whatever the values hold.

Owns quoting and escaping, and the priorities of syslog. Knows neither where entries come from nor where they go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

# Priorities of syslog, as the journal understands them.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def render_logfmt(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """`<N>` and `name=value` pairs on one line."""
    level = str(event.pop("level", "info"))
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    first = f"time={now}Z level={level} event={_quoted(event.pop('event', ''))}"
    return f"<{PRIORITIES.get(level, 6)}>" + " ".join((first, *([pairs(event)] if event else [])))


def pairs(fields: Mapping[str, object]) -> str:
    """The fields as `name=value`, separated by blanks."""
    return " ".join(f"{_name(name)}={_quoted(value)}" for name, value in fields.items())


def as_text(value: object) -> str:
    """A plain value by itself: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def escape(text: str) -> str:
    """Control characters, line separators and lone surrogates as \\n, \\x1b, \\u2028."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name) or "_"


def _quoted(value: object) -> str:
    text = as_text(value)
    if text and text.isprintable() and not any(c in ' "=\\' for c in text):
        return text
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
