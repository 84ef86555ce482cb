"""A YAML file as a tree that knows its lines.

Owns reading the file and what YAML itself may do here: no duplicate keys, no aliases, no tags, no depth.
Knows no setting. A scalar keeps its text beside what YAML made of it, and every node its line, so that a
message can point at it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

MAX_FILE_BYTES = 1024 * 1024  # the documented file is a hundredth of this; what is larger is another file
MAX_DEPTH = 16                # settings are three deep; PyYAML composes recursively


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value: as YAML understands it, and as it was written."""

    value: object
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list; no setting takes one, so its items are not kept."""

    line: int


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys with their values; `key_lines` says where each key stands, `repeated` where one stands again."""

    line: int
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)


Node = Scalar | ListNode | MappingNode


class SourceError(Exception):
    """The file cannot be read as settings at all. `line` is None where the whole file is meant."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """The safe loader, without aliases and without depth: both make small files large."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse before composing: an alias would be followed, and depth is the interpreter's stack."""
        if self.check_event(yaml.AliasEvent):
            raise SourceError("aliases (*name) are not taken here", _line(self.peek_event().start_mark))
        if self.depth >= MAX_DEPTH:
            raise SourceError("nested too deep", _line(self.peek_event().start_mark))
        self.depth += 1
        try:
            composed: yaml.Node | None = super().compose_node(parent, index)
            return composed
        finally:
            self.depth -= 1


def read_source(path: Path) -> MappingNode:
    """The file's tree; an empty file is an empty mapping.

    Raises:
        SourceError: it is not there, not readable, not UTF-8, not YAML, or not a mapping of names.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SourceError(f"is larger than {MAX_FILE_BYTES} bytes; is it the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError("is not UTF-8 text", line) from None
    return parse_source(text)


def parse_source(text: str) -> MappingNode:
    """As `read_source`, of a text.

    Raises:
        SourceError: it is not YAML, or not a mapping of names.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return MappingNode(line=1)
            tree = _tree(loader, root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark) if error.problem_mark is not None else None
        reason = error.problem or error.context or "cannot be parsed"
        raise SourceError(f"not valid YAML: {reason}", line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SourceError(f"not valid YAML: character #x{error.character:04x} is not allowed", line) from None
    if isinstance(tree, Scalar) and tree.value is None:
        return MappingNode(line=1)
    if not isinstance(tree, MappingNode):
        raise SourceError("expected sections with keys, such as `server:`", tree.line)
    return tree


def _tree(loader: _Loader, node: yaml.Node) -> Node:
    line = _line(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return ListNode(line)
    if isinstance(node, yaml.MappingNode):
        mapping = MappingNode(line)
        for key_node, value_node in node.value:
            key_line = _line(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise SourceError("expected a plain name as the key", key_line)
            key = key_node.value
            if key in mapping.entries:
                mapping.repeated.append((key, key_line))
                continue
            mapping.entries[key] = _tree(loader, value_node)
            mapping.key_lines[key] = key_line
        return mapping
    try:
        value = loader.construct_object(node)
    except ValueError:  # such as !!int of a word, or a date that is none
        raise SourceError(f"not a value: {node.value[:40]!r}", line) from None
    return Scalar(value, node.value, line)


def _line(mark: yaml.Mark) -> int:
    return int(mark.line) + 1
