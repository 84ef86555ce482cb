"""Two configurations compared, and one made of both.

Owns which settings differ, by name. Knows nothing of what a setting does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from msgspec import Struct

from nexusd.config_sections import Config


def changed_keys(held: Config, new: Config) -> list[str]:
    """The names of the settings that differ, in the order of the sections."""
    return list(_differing(held, new, ""))


def with_values(held: Config, new: Config, names: Collection[str]) -> Config:
    """The configuration `held`, but with the values of `new` for the settings of these names."""
    merged: Config = _merged(held, new, frozenset(names), "")
    return merged


def is_under(name: str, sections: Collection[str]) -> bool:
    """Whether the setting is one of these, or in one of these sections."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _differing(held: Any, new: Any, prefix: str) -> Iterator[str]:
    for encoded, name in _fields(held):
        kept, given = getattr(held, name), getattr(new, name)
        if isinstance(kept, Struct):
            yield from _differing(kept, given, f"{prefix}{encoded}.")
        elif kept != given:
            yield prefix + encoded


def _merged(held: Any, new: Any, names: frozenset[str], prefix: str) -> Any:
    values = {}
    for encoded, name in _fields(held):
        kept, given = getattr(held, name), getattr(new, name)
        if isinstance(kept, Struct):
            values[name] = _merged(kept, given, names, f"{prefix}{encoded}.")
        else:
            values[name] = given if prefix + encoded in names else kept
    return type(held)(**values)


def _fields(section: Struct) -> Iterator[tuple[str, str]]:
    """The name that the file has for each setting, with that of the attribute."""
    return zip(section.__struct_encode_fields__, section.__struct_fields__, strict=True)
