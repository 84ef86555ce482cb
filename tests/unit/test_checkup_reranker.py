from __future__ import annotations

from collections.abc import Sequence

import pytest

from nexusd.checkup_reranker import check_reranker
from nexusd.clock import SystemClock
from nexusd.config_sections import RerankConfig
from nexusd.embedding.reranker import RerankerHealth, RerankerUnavailable
from nexusd.retrieval.second_stage import SecondStage

pytestmark = pytest.mark.anyio


class Loading:
    """A reranker that is not there yet, or never will be."""

    def __init__(self, health: RerankerHealth) -> None:
        self._health = health

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def health(self) -> RerankerHealth:
        return self._health

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        raise RerankerUnavailable(self._health.detail)


async def test_model_that_is_being_loaded_is_no_problem_yet() -> None:
    stage = SecondStage(Loading(RerankerHealth("loading", "")), SystemClock(), candidates=2, deadline_s=1)
    check = await check_reranker(stage, RerankConfig(provider="onnx", model="/models/judge"))
    assert (check.state, check.check) == ("warning", "reranker")
    assert "is being loaded" in check.says


async def test_model_that_cannot_be_loaded_is_told_with_the_directory_to_look_at() -> None:
    health = RerankerHealth("unavailable", "/models/my judge: cannot be loaded: no such file")
    stage = SecondStage(Loading(health), SystemClock(), candidates=2, deadline_s=1)
    check = await check_reranker(stage, RerankConfig(provider="onnx", model="/models/my judge"))
    assert check.state == "problem"
    assert "no such file" in check.says
    assert check.advice is not None
    assert check.advice.endswith("ls -lL '/models/my judge'")
