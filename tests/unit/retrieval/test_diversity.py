from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.diversity import diverse

HITS = [("the blue boat", 9.0), ("a blue boat", 8.9), ("blue boat", 8.8), ("a red house", 5.0), ("green field", 1.0)]
ITEMS = st.lists(st.tuples(st.text("ab c", max_size=12), st.floats(0, 9)), max_size=12)


def chosen(items: list[tuple[str, float]], limit: int, share: float) -> list[tuple[str, float]]:
    return diverse(items, limit, share, lambda item: item[1], lambda item: item[0])


def test_what_says_the_same_gives_way_to_what_says_something_else() -> None:
    assert [text for text, _ in chosen(HITS, 3, 0.5)] == ["the blue boat", "a red house", "green field"]


def test_no_share_leaves_the_order_as_it_is() -> None:
    assert chosen(HITS, 4, 0.0) == HITS[:4]


@given(ITEMS, st.integers(1, 12), st.floats(0, 1))
def test_as_many_as_wanted_are_chosen_each_once_and_the_best_first(
    items: list[tuple[str, float]], limit: int, share: float
) -> None:
    items.sort(key=lambda item: -item[1])
    taken = chosen(items, limit, share)
    assert len(taken) == min(limit, len(items))
    assert all(taken.count(item) <= items.count(item) for item in taken)
    if taken and share < 1:
        assert taken[0] == items[0]
