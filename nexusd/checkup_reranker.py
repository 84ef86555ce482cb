"""The reranker, examined: whether it can be loaded or reached, and is quick enough to matter.

Owns what is said of it. What a service or a model says of a text is not repeated.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from nexusd.checkup_surroundings import finding, ok
from nexusd.config_sections import RerankConfig
from nexusd.embedding.reranker import RerankerUnavailable
from nexusd.model.system import Check
from nexusd.retrieval.second_stage import SecondStage


async def check_reranker(stage: SecondStage, config: RerankConfig) -> Check:
    """Have it read as much as a search would give it."""
    name = config.provider if config.model is None else f"{config.provider} {config.model}"
    if stage.health().state == "loading":
        says = f"{name} is being loaded: hits come in the first order until then"
        return finding("reranker", "warning", says, "nexusctl doctor, in a moment")
    try:
        took_ms = await stage.probe() * 1000
    except RerankerUnavailable as error:
        return finding("reranker", "problem", f"{error.message}; hits come in the first order", _advice(config))
    if took_ms > config.deadline_ms:
        says = f"{name} took {took_ms:,.0f} ms for {stage.candidates} short texts; a search waits {config.deadline_ms}"
        advice = "Set search.rerank.deadlineMs higher or search.rerank.candidates lower, and restart it"
        return finding("reranker", "warning", says, advice)
    calls = stage.in_time + stage.late + stage.failed
    searches = f"; in time for {stage.in_time:,} of {calls:,} searches" if calls else ""
    return ok("reranker", f"{name} read {stage.candidates} short texts in {took_ms:,.0f} ms{searches}")


def _advice(config: RerankConfig) -> str:
    if config.provider == "http":
        parts = urlsplit(config.url or "")
        return f"See whether that service runs: curl -sS {shlex.quote(f'{parts.scheme}://{parts.netloc}')}"
    directory = shlex.quote(str(Path(config.model or "").expanduser()))
    return f"See that the user nexusd runs as can read the files (a unit sees no /home): ls -lL {directory}"
