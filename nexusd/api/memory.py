"""memory.*: search over everything that is remembered, and the context package made from it."""

from __future__ import annotations

from nexusd.model.memory import BuildContext, MemoryContext, MemoryHits, SearchMemory
from nexusd.retrieval.context import ContextBuilder
from nexusd.retrieval.search import MemorySearch
from nexusd.wire.methods import Call, Method


class MemoryApi:
    """The methods on memory as a whole."""

    def __init__(self, search: MemorySearch, context: ContextBuilder) -> None:
        self._search = search
        self._context = context

    async def search(self, _call: Call, params: SearchMemory) -> MemoryHits:
        """Find memories by meaning and by words."""
        return await self._search.search(params)

    async def context(self, _call: Call, params: BuildContext) -> MemoryContext:
        """Assemble what is worth knowing for a prompt, within a budget of tokens."""
        return await self._context.build(params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="memory.search",
                summary="Find memories by meaning and by words, best first.",
                params=SearchMemory,
                result=MemoryHits,
                handler=self.search,
                role="read",
                example={"query": "What did we plant last spring?", "limit": 5},
            ),
            Method(
                name="memory.context",
                summary="Assemble recent turns, summaries, memories and known entities into a text for a prompt.",
                params=BuildContext,
                result=MemoryContext,
                handler=self.context,
                role="read",
                example={"query": "What did we plant last spring?", "tokenBudget": 500},
            ),
        ]
