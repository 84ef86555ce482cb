"""Two configurations compared by the names of their settings, and one made of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_changes import changed_keys, is_under, with_values
from nexusd.config_reading import all_keys
from nexusd.config_sections import CacheConfig, Config, LimitsConfig, LogConfig, ServerConfig

NAMES = [key.name for key in all_keys(Config)]


def test_the_settings_that_differ_are_named_as_the_file_has_them() -> None:
    new = Config(
        log=LogConfig(level="debug"), cache=CacheConfig(ttl_ms=5),
        server=ServerConfig(limits=LimitsConfig(max_batch=1)),
    )  # fmt: skip
    assert changed_keys(Config(), new) == ["server.limits.maxBatch", "cache.ttlMs", "log.level"]
    assert changed_keys(new, new) == []


def test_a_section_holds_its_settings_and_nothing_that_only_begins_like_it() -> None:
    assert is_under("server.limits.maxBatch", ["server.limits"])
    assert is_under("log.level", ["cache", "log.level"])
    assert not is_under("log.levels", ["log.level"])
    assert not is_under("server.limits", ["server.limits.maxBatch"])


@dataclass(frozen=True)
class Odd:
    """A value that no setting has, known by its name."""

    name: str


def odd(section: Any = Config, prefix: str = "") -> Any:
    """A configuration in which every setting differs from every other."""
    return section(**{
        field.name: odd(field.type, f"{prefix}{field.encode_name}.")
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        else Odd(prefix + field.encode_name)
        for field in msgspec.structs.fields(section)
    })


@given(st.sets(st.sampled_from(NAMES)))
def test_of_two_configurations_the_named_settings_come_from_the_new_one_and_the_rest_stays(names: set[str]) -> None:
    held, new = Config(), odd()
    merged = with_values(held, new, names)
    assert set(changed_keys(held, merged)) == names
    assert set(changed_keys(merged, new)) == set(NAMES) - names
