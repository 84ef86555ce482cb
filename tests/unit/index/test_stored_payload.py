"""Terms and paths: what the engine is given in place of JSON."""

from dataclasses import asdict

import pytest
import qdrant_edge as edge
from hypothesis import given
from hypothesis import strategies as st

from nexusd.index.edge_payload import needs_scan
from nexusd.index.filters import Filter, Match, Range, parsed, path
from nexusd.index.stored_payload import EPOCH, MAX_TERMS, TERMS, VERSION, epoch_of, stored_payload, term, version_of

SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))


@given(st.lists(st.text(max_size=6), min_size=1, max_size=4))
def test_a_path_of_any_keys_is_read_back_as_those_keys(keys: list[str]) -> None:
    assert parsed(path(*keys)) == tuple(keys)


def test_a_path_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="not a path"):
        parsed(".")


def same_in_json(one: object, other: object) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@given(SCALARS, SCALARS)
def test_two_values_have_one_term_exactly_when_they_are_equal_in_json(one: object, other: object) -> None:
    assert (term(("key",), one) == term(("key",), other)) == same_in_json(one, other)


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_paths_that_run_into_each_other_have_terms_of_their_own(one: list[str], other: list[str]) -> None:
    assert (term(tuple(one), "x") == term(tuple(other), "x")) == (one == other)


def test_terms_stay_what_they_are_for_shards_on_disk_hold_them() -> None:
    assert term(("sessionId",), 7) == 8459877135704339752


def test_a_swollen_payload_keeps_its_outermost_entries() -> None:
    payload = {"metadata": {"deep": list(range(5000))}, "sessionId": 7}
    terms = stored_payload(payload, 1)[TERMS]
    assert len(terms) == MAX_TERMS
    assert term(("sessionId",), 7) in terms


JSON = st.recursive(
    st.none() | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_whatever_json_can_say_can_be_stored(payload: dict[str, object]) -> None:
    stored = edge.Point(1, [1.0], stored_payload(payload, 3)).payload
    assert stored is not None
    assert stored["version"] == 3


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_range_that_no_index_covers_is_found_at_any_depth(depth: int) -> None:
    for key, scan in (("createdAt", False), ("metadata.size", True)):
        where = Filter(should=(Range(key, gt=1),))
        for _ in range(depth):
            where = Filter(must_not=(Match("sessionId", (1,)), where))
        assert needs_scan(asdict(where)) == scan


def test_version_and_epoch_are_read_back() -> None:
    kept = stored_payload({"epoch": "ours", "sessionId": 3}, 7)
    assert (version_of(kept), epoch_of(kept)) == (7, "ours")


@pytest.mark.parametrize("kept", [None, {}, {VERSION: "1", EPOCH: 5}, {VERSION: None, EPOCH: None}])
def test_what_somebody_else_has_stored_has_no_version_and_no_epoch(kept: dict[str, object] | None) -> None:
    assert (version_of(kept), epoch_of(kept)) == (0, "")


def test_what_was_hashed_before_is_not_taken_for_its_like_of_another_type() -> None:
    for value in (1, True, 1.0, "1", 0, False):
        (kept,) = stored_payload({"a": value}, 1)[TERMS]
        assert kept == term(("a",), value)
    long = "x" * 1000
    assert stored_payload({"a": long}, 1)[TERMS] == [term(("a",), long)]
