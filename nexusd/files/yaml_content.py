"""YAML text <-> a JSON object.

Owns what YAML may say in a preset: one mapping with texts as keys, and JSON's values below it. Tags, dates, NaN,
repeated keys, depth and what grows without end when aliases are followed are refused, each with its line. Pure, and
slow (0.2 s for a megabyte): not for the loop's thread. Knows no file.

libyaml tells the events and PyYAML's safe rules say what a plain word means; the tree is put together here, since
PyYAML's own composer follows aliases, knows no depth, and lets the last of two equal keys win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

MAX_DEPTH = 32              # of lists and mappings in each other; a message on the wire has room for more
MAX_NUMBER_CHARACTERS = 100  # sexagesimal numbers (1:30:00) take quadratic time, and 64 bits need no more
MAX_INTEGER = 2**63 - 1
MAX_SHOWN = 40              # of a key in a message
PRETTY_BYTES = 64 * 1024    # up to here the slower dumper, which writes emoji as they are

_RESOLVER = "tag:yaml.org,2002:"
_TEXT, _MERGE = _RESOLVER + "str", _RESOLVER + "merge"
_TAKEN = {_RESOLVER + kind for kind in ("null", "bool", "int", "float")}
_NUMBERS = {_RESOLVER + "int", _RESOLVER + "float"}
_WORDS = {_RESOLVER + "timestamp": "a date; put it in quotes to make it a text"}


class ContentError(Exception):
    """The text is none that is taken. `line` is None where all of it is meant."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


def read_yaml(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """The object that the text says; `max_bytes` bounds it with all aliases followed, as it bounds the text.

    Raises:
        ContentError: it is not UTF-8, not YAML, or not such an object.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContentError("not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None
    try:
        return _Builder(text, max_bytes).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # the end of the text has a line of its own, which no editor shows
        line = None if mark is None else min(int(mark.line) + 1, text.count("\n", 0, -1) + 1)
        raise ContentError(f"not valid YAML: {error.problem or error.context}", line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ContentError(f"not valid YAML: character #x{error.character:04x} is not allowed", line) from None


def write_yaml(content: dict[str, Any], *, max_bytes: int) -> bytes:
    """The object as a text for people, which reads back as exactly this object.

    Raises:
        ContentError: no text does, such as one nested too deep; or it would be too long.
    """
    encoded = msgspec.json.encode(content)
    if _least(encoded) > max_bytes:     # a dumper takes seconds and a hundred times the room to find out
        raise ContentError(f"as YAML it would have more than {max_bytes:,} bytes, and no more are taken")
    for dumper in (_PrettyDumper, _FastDumper) if len(encoded) <= PRETTY_BYTES else (_FastDumper,):
        text: str = yaml.dump(
            content, Dumper=dumper, allow_unicode=True, sort_keys=False, default_flow_style=False, width=100
        )
        data = text.encode()
        if len(data) > max_bytes:
            raise ContentError(f"as YAML it would have {len(data):,} bytes; at most {max_bytes:,} are taken")
        # PyYAML's own dumper loses rare line breaks, such as U+0085; what it wrote is believed when it was read
        if msgspec.json.encode(read_yaml(data, max_bytes=max_bytes)) == encoded:
            return data
    raise ContentError("it does not come back from YAML as it went in")


def _least(encoded: bytes) -> int:
    """What this JSON has in bytes as YAML at the least: quotes and escapes are all that YAML may save."""
    return len(encoded) - encoded.count(b'"') - encoded.count(b"\\") - 4 * encoded.count(b"\\u00")


class _Builder:
    """Puts one document's events together."""

    def __init__(self, text: str, max_bytes: int) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_loader()))
        self._rules = yaml.SafeLoader("")
        self._max_bytes = max_bytes
        self._bytes = 0
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value and what it counts for

    def document(self) -> dict[str, Any]:
        """The one document, which must be a mapping."""
        event = self._next()
        while isinstance(event, yaml.StreamStartEvent):
            event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise ContentError("it is empty; expected a mapping, such as `temperature: 0.7`")
        event = self._next()
        line = _line(event)
        value = self._value(event, 1)
        if not isinstance(value, dict):
            raise ContentError("expected a mapping, such as `temperature: 0.7`", line)
        self._next()
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise ContentError("expected one document, and another one begins", _line(event))
        return value

    def _next(self) -> Any:
        return next(self._events)

    def _count(self, size: int, event: Any) -> None:
        """What aliases repeat counts each time: nine lines of nine aliases each are a billion values."""
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise ContentError(f"with its aliases (*name) followed it is more than {self._max_bytes:,} bytes",
                               _line(event))

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ContentError(f"nested deeper than {MAX_DEPTH}", _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event, depth)
        before, anchor = self._bytes, event.anchor
        if event.tag is not None:
            raise ContentError("tags (!name) are not taken", _line(event))
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._count(1, event)
            value = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                value.append(self._value(item, depth + 1))
        else:
            self._count(1, event)
            value = self._mapping(depth)
        if anchor is not None:  # known from here on only: a value that holds itself has no end
            self._anchors[anchor] = value, self._bytes - before
        return value

    def _repeated(self, event: Any, depth: int) -> Any:
        if event.anchor not in self._anchors:
            raise ContentError(f"there is no complete value &{event.anchor[:MAX_SHOWN]} before this", _line(event))
        value, size = self._anchors[event.anchor]
        self._count(size, event)
        if depth + _depth(value) - 1 > MAX_DEPTH:
            raise ContentError(f"nested deeper than {MAX_DEPTH}", _line(event))
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(key_event := self._next(), yaml.MappingEndEvent):
            key = self._key(key_event)
            value_event = self._next()
            value = self._value(value_event, depth + 1)
            if key is None:
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        raise ContentError("expected mappings to merge after `<<`", _line(value_event))
                    for name, inner in source.items():
                        merged.setdefault(name, inner)
            elif key in own:
                raise ContentError(f"the key {_shown(key)} stands here again", _line(key_event))
            else:
                own[key] = value
        return merged | own if merged else own

    def _key(self, event: Any) -> str | None:
        """The key, or None for `<<`."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise ContentError("expected a plain text as the key", _line(event))
        tag = self._rules.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _MERGE:
            return None
        if tag not in {_TEXT, _RESOLVER + "value"}:
            raise ContentError(f"the key {_shown(event.value)} is no text to YAML; put it in quotes", _line(event))
        self._count(len(event.value), event)
        return str(event.value)

    def _scalar(self, event: Any) -> Any:
        self._count(len(event.value) + 1, event)
        tag = self._rules.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _TAKEN:
            if tag in _WORDS:
                raise ContentError(f"this is {_WORDS[tag]}", _line(event))
            return event.value
        if tag in _NUMBERS and len(event.value) > MAX_NUMBER_CHARACTERS:
            raise ContentError("a number of more than 64 bits", _line(event))
        try:
            value = yaml.SafeLoader.yaml_constructors[tag](self._rules, yaml.ScalarNode(tag, event.value))
        except (ValueError, OverflowError):     # it looks like a number and is none: `0x`, `._`, `1:e`
            raise ContentError("this looks like a number and is none; put it in quotes", _line(event)) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ContentError("not a number that JSON has", _line(event))
        if isinstance(value, int) and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            raise ContentError("a number of more than 64 bits", _line(event))
        return value


def _loader() -> Any:
    """libyaml's parser, eighteen times faster; PyYAML's own where it was built without."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _depth(value: Any) -> int:
    """How deep it is nested. What it walks was counted before, so it is no larger than a file may be."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 1


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _shown(key: str) -> str:
    return repr(key if len(key) <= MAX_SHOWN else key[:MAX_SHOWN] + "...")


def _represent_text(dumper: Any, text: str) -> Any:
    """A text of several lines as a block."""
    return dumper.represent_scalar(_TEXT, text, style="|" if "\n" in text else None)


class _PrettyDumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Lines as lines, emoji as they are, and equal lists written out twice."""

    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: _represent_text}

    def ignore_aliases(self, data: Any) -> bool:
        """An alias saves nothing that a person would want saved."""
        del data
        return True


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # PyYAML ships no types
    """libyaml's, for what nobody will edit by hand."""

    def ignore_aliases(self, data: Any) -> bool:
        """As the other one."""
        del data
        return True
