"""Whatever the parameters of whatever method: the daemon answers, and never with an error that it did not foresee."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.fuzz_targets import METHODS
from harness.json_values import parameters_of
from harness.whole_daemon import whole_daemon
from hypothesis import given, settings

pytestmark = pytest.mark.anyio
INTERNAL_ERROR = "internal_error"
PER_METHOD = 2
# These look at everything there is or wait for what never comes; their parameters are fuzzed without being called.
CALLED = [method for method in METHODS if not method.waits and not method.name.startswith("backup.")]


def kind_of(reply: bytes) -> str | None:
    """What went wrong, if anything did."""
    kind: str | None = json.loads(reply).get("error", {}).get("data", {}).get("kind")
    return kind


def noting(calls: list[tuple[str, dict[str, Any]]], name: str) -> Callable[[dict[str, Any]], None]:
    def note(params: dict[str, Any]) -> None:
        calls.append((name, params))

    return note


def drawn(examples: int) -> list[tuple[str, dict[str, Any]]]:
    """Calls as hypothesis makes them up, some for each method."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for method in CALLED:
        settings(max_examples=examples)(given(parameters_of(method.name))(noting(calls, method.name)))()
    return calls


async def test_no_parameters_of_any_method_lead_to_an_internal_error(tmp_path: Path) -> None:
    calls = drawn(max(PER_METHOD, settings().max_examples // 50))
    async with whole_daemon(tmp_path / "data", embedder=FakeEmbedder(), index=FakeIndex()) as daemon:
        await daemon.get("sessions.create", externalId="one")
        await daemon.get("episodes.create", sessionId=1, userMessage="kettle", aiResponse="on")
        for name, params in calls:
            if "timeoutMs" in params:
                params["timeoutMs"] = 1
            reply = await daemon.answer(name, params)
            assert kind_of(reply) != INTERNAL_ERROR, (name, params, reply)
            assert b"Traceback" not in reply, (name, params)
            assert str(tmp_path).encode() not in reply or name.startswith(("system.", "health")), (name, params)
        assert (await daemon.get("health"))["status"] in {"ok", "degraded"}
