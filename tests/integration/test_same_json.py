"""A change that changes nothing leaves a row as it is, in whatever order the keys of its JSON come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.daemon import Daemon

from nexusd.client import Client


@pytest.fixture(scope="module")
def nexus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Daemon(tmp_path_factory.mktemp("same") / "data") as daemon, Client(daemon.socket_path) as client:
        client.call("sessions.create", externalId="kitchen")
        client.call("episodes.create", sessionId=1, userMessage="hello", aiResponse="")
        client.call("conversations.create", title="Tea")
        client.call("groups.create", name="Family")
        yield client


@pytest.mark.parametrize(
    ("method", "key", "field"),
    [
        ("sessions.update", {"id": 1}, "metadata"),
        ("episodes.update", {"id": 1}, "metadata"),
        ("conversations.update", {"id": 1}, "metadata"),
        ("groups.update", {"id": 1}, "config"),
        ("users.set", {"id": "anna"}, "settings"),
        ("entities.upsert", {"name": "Ada", "type": "person"}, "metadata"),
    ],
)
def test_the_order_of_keys_is_no_change_and_another_kind_of_value_is_one(
    nexus: Client, method: str, key: dict[str, Any], field: str
) -> None:
    def put(value: str) -> dict[str, Any]:
        row: dict[str, Any] = nexus.call(method, {**key, field: json.loads(value)})
        row.pop("created", None)
        row.pop("vector", None)
        return row

    first = put('{"a": 1, "b": {"c": 2, "d": 3}}')
    assert put('{"b": {"d": 3, "c": 2}, "a": 1}') == first
    assert put('{"a": true, "b": {"c": 2, "d": 3}}') != first
