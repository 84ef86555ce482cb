"""What counts as the same call."""

from __future__ import annotations

import pytest

from nexusd.api.receipts import receipt_for
from nexusd.model.episodes import CreateEpisode
from nexusd.wire.methods import Call, Principal

CALL = Call(Principal("uid:1000", "write"), "r1")


def create(**changes: object) -> CreateEpisode:
    values = {"session_id": 1, "user_message": "a", "ai_response": "b", "idempotency_key": "k"}
    return CreateEpisode(**(values | changes))  # type: ignore[arg-type]


def hash_of(params: CreateEpisode) -> bytes:
    receipt = receipt_for(CALL, "episodes.create", params)
    assert receipt is not None
    return receipt.parameters_hash


def test_a_call_without_a_key_has_no_receipt() -> None:
    assert receipt_for(CALL, "episodes.create", create(idempotency_key=None)) is None


def test_the_receipt_names_key_principal_and_method() -> None:
    receipt = receipt_for(CALL, "episodes.create", create())
    assert receipt is not None
    assert (receipt.key, receipt.principal, receipt.method) == ("k", "uid:1000", "episodes.create")


def test_the_key_itself_and_the_manner_of_waiting_make_no_other_call() -> None:
    assert hash_of(create()) == hash_of(create(idempotency_key="other"))
    assert hash_of(create()) == hash_of(create(wait_for="indexed", timeout_ms=5))


def test_the_order_of_metadata_makes_no_other_call() -> None:
    assert hash_of(create(metadata={"a": 1, "b": 2})) == hash_of(create(metadata={"b": 2, "a": 1}))


@pytest.mark.parametrize(
    "change", [{"session_id": 2}, {"user_message": "c"}, {"metadata": {"a": 1}}, {"created_at": 5}]
)
def test_any_other_parameter_makes_another_call(change: dict[str, object]) -> None:
    assert hash_of(create()) != hash_of(create(**change))
