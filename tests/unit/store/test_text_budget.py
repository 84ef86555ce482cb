"""How much text one answer may hold."""

from __future__ import annotations

from nexusd.store.text_budget import TextBudget


def test_rows_are_taken_until_one_does_not_fit_and_then_none_is() -> None:
    budget = TextBudget(10)
    assert budget.take("1234", "5")
    assert not budget.exhausted
    assert not budget.take("123456")
    assert budget.exhausted
    assert not budget.take("")


def test_the_first_row_always_fits() -> None:
    budget = TextBudget(10)
    assert budget.take("x" * 100)
    assert not budget.take("x")
