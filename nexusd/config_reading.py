"""What the sources of settings say together: file and environment, merged and checked.

Owns the walk over the structs, the names of variables, the precedence of environment over file, and the
list of everything that is wrong, each with its place. Works for any tree of structs and knows no setting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from nexusd.config_source import MappingNode, Scalar, SourceError, read_source
from nexusd.config_values import (
    WrongValueError,
    check_value,
    check_variable,
    describe_expected,
    describe_found,
    nearest,
)

VARIABLE_PREFIX = "NEXUSD_"


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its place in the file, its variable, its type, its default, the unit of a duration."""

    path: tuple[str, ...]
    variable: str
    type: Any
    default: Any
    unit: Literal["s", "ms"] | None

    @property
    def name(self) -> str:
        """As messages say it, such as `server.tcp.port`."""
        return ".".join(self.path)


def all_keys(
    section: type[Struct], path: tuple[str, ...] = (), variable: str = VARIABLE_PREFIX
) -> Iterator[Key]:
    """Every setting there is, in the order of the structs."""
    for field in msgspec.structs.fields(section):
        inner_path = (*path, field.encode_name)
        inner_variable = variable + field.name.upper()
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from all_keys(field.type, inner_path, f"{inner_variable}__")
        else:
            unit: Literal["s", "ms"] | None = None
            if field.name.endswith(("_s", "_ms")):
                unit = "ms" if field.name.endswith("_ms") else "s"
            elif field.name == "interval":  # of the backups, as the storage core named it
                unit = "ms"
            yield Key(inner_path, inner_variable, field.type, field.default, unit)


class Reading:
    """One pass over all sources: the values that were given, where, and what is wrong with them.

    `path_keys` are names of settings that are paths, `other_variables` maps further variables to names, and
    `choosing_variables` maps variables to a setting that they fix by being set, and the value.
    """

    def __init__(
        self,
        root: type[Struct],
        *,
        path_keys: Collection[str],
        other_variables: Mapping[str, str],
        choosing_variables: Mapping[str, tuple[str, str]],
    ) -> None:
        self.problems: list[str] = []
        self._path_keys = path_keys
        self._other_variables = other_variables
        self._choosing_variables = choosing_variables
        self._keys = {key.path: key for key in all_keys(root)}
        self._sections = {path[:depth] for path in self._keys for depth in range(1, len(path))}
        self._values: dict[tuple[str, ...], object] = {}
        self._origins: dict[tuple[str, ...], str] = {}

    def take_file(self, path: Path) -> None:
        """Take the values of a config file."""
        try:
            self._take_section(read_source(path), (), path)
        except SourceError as error:
            where = str(path) if error.line is None else f"{path}:{error.line}"
            self.problems.append(f"{where}: {error.message}")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """Take the values of the environment; they go before those of the file."""
        own = {key.variable: key.name for key in self._keys.values()}
        names = {**own, **self._other_variables}
        for name in sorted(environ):
            if name not in own and name.startswith(VARIABLE_PREFIX) and "__" in name:
                self.problems.append(f"environment {name}: no such setting{_hint(nearest(name, own))}")
        said = [(variable, name, environ.get(variable, "")) for variable, name in names.items()]
        said += [(variable, *fixed) for variable, fixed in self._choosing_variables.items() if environ.get(variable)]
        given: dict[str, tuple[str, str]] = {}  # key name -> the variable that gave it, and what it says
        for name, key_name, text in sorted(one for one in said if one[2]):
            key = self._keys[tuple(key_name.split("."))]
            other, said_before = given.setdefault(key_name, (name, text))
            if said_before != text:
                self.problems.append(f"environment {name}: {key.name}: {other} sets it to something else")
                continue
            try:
                value = check_variable(text, key.type, unit=key.unit)
            except WrongValueError as wrong:
                self.problems.append(f"environment {name}: {key.name}: {wrong}")
            else:
                self._give(key, value, f"environment {name}", Path.cwd())

    def build(self, section: type[Any], path: tuple[str, ...] = ()) -> Any:
        """The section with what was given, and defaults for the rest."""
        values = {}
        for field in msgspec.structs.fields(section):
            inner = (*path, field.encode_name)
            if inner in self._sections:
                values[field.name] = self.build(field.type, inner)
            elif inner in self._values:
                values[field.name] = self._values[inner]
        return section(**values)

    def blame(self, name: str, message: str) -> None:
        """Add a problem with a value, said where that value was given."""
        origin = self._origins.get(tuple(name.split(".")), "default")
        self.problems.append(f"{origin}: {name}: {message}")

    def _take_section(self, node: MappingNode, path: tuple[str, ...], file: Path) -> None:
        for name, line in node.repeated:
            dotted, first = ".".join((*path, name)), node.key_lines[name]
            self.problems.append(f"{file}:{line}: {dotted}: stands twice; first in line {first}")
        for name, entry in node.entries.items():
            inner = (*path, name)
            dotted = ".".join(inner)
            where = f"{file}:{node.key_lines[name]}"
            if inner in self._keys:
                if isinstance(entry, Scalar):
                    self._take_scalar(self._keys[inner], entry, file)
                else:
                    found = "a section" if isinstance(entry, MappingNode) else "a list"
                    expected = describe_expected(self._keys[inner].type, self._keys[inner].unit)
                    self.problems.append(f"{where}: {dotted}: found {found}, expected {expected}")
            elif inner not in self._sections:
                self.problems.append(f"{where}: {dotted}: no such setting{_hint(self._suggest(inner))}")
            elif isinstance(entry, MappingNode):
                self._take_section(entry, inner, file)
            elif isinstance(entry, Scalar) and entry.value is None:
                continue  # `server:` with all of its keys commented out
            else:
                known = dict.fromkeys(p[len(inner)] for p in self._keys if p[: len(inner)] == inner)
                self.problems.append(f"{where}: {dotted}: expected a section with some of {', '.join(known)}")

    def _take_scalar(self, key: Key, entry: Scalar, file: Path) -> None:
        try:
            value = check_value(entry.value, entry.text, key.type, unit=key.unit)
        except WrongValueError as wrong:
            self.problems.append(f"{file}:{entry.line}: {key.name}: {wrong}")
        else:
            self._give(key, value, f"{file}:{entry.line}", file.parent)

    def _give(self, key: Key, value: object, origin: str, base: Path) -> None:
        if isinstance(value, str) and key.name in self._path_keys:
            if not value or value.startswith("~") or "\0" in value:  # a directory named ~ is never meant
                found = describe_found(value)
                self.problems.append(f"{origin}: {key.name}: found {found}, expected a path without ~")
                return
            value = str(base / value)
        self._values[key.path] = value
        self._origins[key.path] = origin

    def _suggest(self, path: tuple[str, ...]) -> str | None:
        siblings = {known[len(path) - 1] for known in self._keys if known[: len(path) - 1] == path[:-1]}
        close = nearest(path[-1], siblings)
        if close is not None:
            return ".".join((*path[:-1], close))
        close = nearest(path[-1], {known[-1] for known in self._keys})  # right key, wrong section
        elsewhere = [".".join(known) for known in self._keys if known[-1] == close]
        return elsewhere[0] if len(elsewhere) == 1 else None


def _hint(suggestion: str | None) -> str:
    return f"; did you mean `{suggestion}`?" if suggestion else ""
