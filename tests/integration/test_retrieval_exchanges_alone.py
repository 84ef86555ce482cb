"""What searches and packages over exchanges alone answer, to the last digit: a change of them is a decision."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from harness.remembering import empty_memory

from nexusd.model.memory import BuildContext, MemoryFilter
from nexusd.retrieval.context import ContextBuilder

pytestmark = pytest.mark.anyio

# What the search and the package answer: hits as [id, score], and texts.
RECORDED = Path(__file__).parent / "recorded" / "exchanges_alone.json"
WORDS = [
    "river", "stone", "bridge", "mill", "water", "wheel", "flour", "bread", "oven", "heat", "winter", "snow", "road",
    "cart", "horse", "stable", "hay", "barn", "roof", "rain",
]  # fmt: skip
QUERIES = ("Where is the mill bridge?", "bread from the oven in winter", "horse")
FILTERS = (MemoryFilter(), MemoryFilter(session_id=3), MemoryFilter(metadata={"even": True}))


async def test_order_scores_and_packages_of_exchanges_alone_are_those_recorded(tmp_path: Path) -> None:
    answers: dict[str, Any] = {}
    async with empty_memory(tmp_path) as memory:
        chance = random.Random(11)
        for n in range(60):
            said = " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))
            answered = " ".join(chance.choices(WORDS, k=chance.randint(0, 12)))
            await memory.remember(
                said, answered, session=f"s{n % 7}", metadata={"even": n % 2 == 0}, indexed=n % 5 != 0
            )
        for query in QUERIES:
            for mode in ("hybrid", "keyword", "semantic"):
                for n, where in enumerate(FILTERS):
                    hits = await memory.find(query, mode=mode, filter=where)
                    answers[f"{mode}, filter {n}: {query}"] = [[hit.id, round(hit.score, 9)] for hit in hits.items]
            for budget in (40, 200, 1000):
                params = BuildContext(query=query, session_id=2, token_budget=budget)
                package = await ContextBuilder(memory.store, memory.search).build(params)
                answers[f"{budget} tokens: {query}"] = [
                    package.text, package.tokens, [item.id for item in package.left_out],
                ]  # fmt: skip
    assert answers == json.loads(RECORDED.read_text())
