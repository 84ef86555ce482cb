"""The forms that metrics have for Prometheus.

Owns how a figure, or a figure for each of some names, becomes a family of samples. Knows no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, text: str, value: float) -> Metric:
    """A figure that goes up and down."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """A figure that only grows."""
    return CounterMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """One gauge a value of the label."""
    return _labelled(GaugeMetricFamily(name, text, labels=[label]), values)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """One counter a value of the label."""
    return _labelled(CounterMetricFamily(name, text, labels=[label]), values)


def _labelled(family: Any, values: Mapping[str, float]) -> Metric:
    for value_of, value in values.items():
        family.add_metric([value_of], value)
    metric: Metric = family
    return metric


def states(name: str, text: str, states: Sequence[str], current: str) -> Metric:
    """A gauge for each state: 1 for the current one, 0 for the others."""
    return gauges(name, text, "state", {state: float(state == current) for state in states})


def cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    """Buckets as Prometheus has them: each counts all that is not above its bound."""
    total, buckets = 0, []
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    return buckets
