"""Parameters: good ones become the struct, bad ones are all named with what was expected."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from nexusd.errors import InvalidParams
from nexusd.model.fields import UNSET, Id, Params, UnsetType
from nexusd.wire.validation import MAX_FIELD_ERRORS, validate


class Part(Params, frozen=True, kw_only=True):
    part_name: Annotated[str, Meta(min_length=1)]
    size: int = 0


class Sample(Params, frozen=True, kw_only=True):
    id: Id
    external_id: Annotated[str, Meta(min_length=1, max_length=5)]
    mode: Literal["fast", "slow"] = "fast"
    parts: Annotated[list[Part], Meta(max_length=60)] = msgspec.field(default_factory=list)
    labels: dict[str, int] = msgspec.field(default_factory=dict)
    nested: Part | None = None
    change: str | UnsetType | None = UNSET
    choice: Literal["a"] | None = None

    def __post_init__(self) -> None:
        if self.id == 13:
            raise ValueError("expected another `id` than 13")


POSITIONS = ("id", "externalId", "mode")


def bad_fields(given_: object, **kwargs: Any) -> dict[str, str]:
    with pytest.raises(InvalidParams) as caught:
        validate(Sample, given_, positions=POSITIONS, **kwargs)
    assert all(field.path in caught.value.message for field in caught.value.fields[:5])
    return {field.path: field.expected for field in caught.value.fields}


def test_names_become_the_struct() -> None:
    sample = validate(Sample, {"id": 3, "externalId": "x", "parts": [{"partName": "p"}]})
    assert sample == Sample(id=3, external_id="x", parts=[Part(part_name="p")])


def test_positions_become_the_struct() -> None:
    assert validate(Sample, [3, "x"], positions=POSITIONS) == Sample(id=3, external_id="x")


def test_every_bad_field_is_named_at_once() -> None:
    assert bad_fields({
        "id": 0, "mode": "quick", "labels": {"a": "b", "c": 1}, "nested": {"size": 1.5, "partName": ""},
        "parts": [{"partName": "p"}, {"partName": 1}, {}, {"partName": "x", "colour": 1}], "change": 7,
        "externlId": "x", "choice": "b",
    }) == {
        "id": "int >= 1",
        "externalId": "required",
        "mode": 'one of "fast", "slow"',
        "parts[1].partName": "str, got int",
        "parts[2].partName": "required",
        "parts[3].colour": "no such name",
        "labels.a": "int, got str",
        "nested.partName": "str of length >= 1",
        "nested.size": "int, got float",
        "change": "str | null, got int",
        "choice": 'one of "a"',
        "externlId": "no such name; did you mean externalId?",
    }


def test_no_type_is_bent_to_fit() -> None:
    assert bad_fields({"id": "3", "externalId": 5}) == {"id": "int, got str", "externalId": "str, got int"}
    assert bad_fields({"id": True, "externalId": "x"}) == {"id": "int, got bool"}


def test_too_many_positions_are_each_refused() -> None:
    assert bad_fields([1, "x", "fast", 4, 5]).keys() == {"[3]", "[4]"}


def test_bad_positional_parameters_are_named() -> None:
    assert bad_fields(["x"]) == {"id": "int, got str", "externalId": "required"}


def test_a_rule_between_fields_speaks_for_the_whole() -> None:
    assert bad_fields({"id": 13, "externalId": "x"}) == {"": "another id than 13"}


def test_a_limit_of_a_list_speaks_for_the_list() -> None:
    parts = [{"partName": "p"}] * 61
    assert bad_fields({"id": 1, "externalId": "x", "parts": parts}) == {"parts": "array of length <= 60"}


def test_a_list_of_bad_items_is_told_up_to_a_limit() -> None:
    assert len(bad_fields({"id": 1, "externalId": "x", "parts": [{}] * 60})) == MAX_FIELD_ERRORS


def test_paths_begin_where_the_value_stands() -> None:
    assert bad_fields({"id": 1}, path="items[3]") == {"items[3].externalId": "required"}
    assert bad_fields("x", path="items[3]") == {"items[3]": "object, got str"}


def test_values_never_appear_in_the_message() -> None:
    with pytest.raises(InvalidParams) as caught:
        validate(Sample, {
            "id": "SECRET", "externalId": "SECRETSECRET", "mode": "SECRET", "labels": ["SECRET"],
            "nested": "SECRET", "parts": {"a": "SECRET"}, "choice": "SECRET",
        })
    assert "SECRET" not in caught.value.message
    assert "SECRET" not in str(caught.value.fields)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["partName", "size", "x"]), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from([
    "id", "externalId", "mode", "parts", "labels", "nested", "change", "choice", "unknown", "id2",
])


@given(st.dictionaries(NAMES, VALUES) | st.lists(VALUES, max_size=5) | VALUES)
def test_any_json_becomes_the_struct_or_names_its_bad_fields(value: object) -> None:
    refused: InvalidParams | None = None
    try:
        sample = validate(Sample, value, positions=POSITIONS)
    except InvalidParams as error:
        refused = error
    if refused is not None:
        assert refused.fields
        assert all(field.expected for field in refused.fields)
    elif isinstance(value, dict):
        assert value.items() <= msgspec.to_builtins(sample).items()
