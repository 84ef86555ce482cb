"""The reranker's figures as metrics.

Owns their names and help texts. There are none where there is no reranker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_type_hints

from prometheus_client.core import Metric

from nexusd.metric_forms import counter, counters, gauge, states
from nexusd.model.system import RerankerStatus

STATES = get_args(get_type_hints(RerankerStatus)["state"])


def reranker_metrics(now: RerankerStatus | None) -> Iterator[Metric]:
    """Every metric of it."""
    if now is None:
        return
    yield states("nexusd_reranker_state", "How the reranker is; late: always, of late.", STATES, now.state)
    yield counter("nexusd_reranker_restarts", "Times that the reranker was started again.", now.restarts)
    yield counters(
        "nexusd_rerankings", "Searches that asked the reranker, by what became of that.", "outcome",
        {"in_time": now.in_time, "late": now.late, "failed": now.failed},
    )
    if now.last_failure_at is not None:
        failed_s = now.last_failure_at / 1000
        yield gauge("nexusd_reranker_last_failure_timestamp_seconds", "When it last could not.", failed_s)
