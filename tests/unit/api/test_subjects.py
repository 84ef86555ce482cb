"""What events say of a change: always which rows it was, and never what they hold."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec
import pytest
from harness.methods import real_table

from nexusd.wire.methods import Method

# They change all of their kind at once.
OF_NOTHING_IN_PARTICULAR = {"cache.clear"}


def fields_of(type_: Any) -> set[str]:
    struct = get_origin(type_) or type_
    return set(struct.__struct_fields__) if isinstance(struct, type) and issubclass(struct, msgspec.Struct) else set()


@pytest.mark.parametrize("method", [m for m in real_table() if m.mutates], ids=lambda method: method.name)
def test_every_change_can_be_told_by_the_id_of_what_changed_or_says_it_otherwise(method: Method) -> None:
    by_id = "id" in fields_of(method.result) | fields_of(method.params)
    assert by_id or method.subject is not None or method.name in OF_NOTHING_IN_PARTICULAR


def test_whatever_changes_something_has_a_resource_for_its_topic() -> None:
    assert [method.name for method in real_table() if method.mutates and "." not in method.name] == []
