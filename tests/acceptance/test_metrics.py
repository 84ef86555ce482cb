"""GET /metrics: what Prometheus reads is what happened, and a part that is down costs its own figures only."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nexusd.client import Client, Conflict, MethodNotFound, NotFound

Figures = dict[str, Metric]


def get_metrics(path: Path) -> tuple[str, str]:
    """The head and the body of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


def scraped(daemon: Daemon) -> Figures:
    head, body = get_metrics(daemon.socket_path)
    assert head.startswith("HTTP/1.1 200 "), head
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    return {family.name: family for family in text_string_to_metric_families(body)}


def value(figures: Figures, name: str, **labels: str) -> float:
    """The one sample of this name and these labels."""
    family = figures[re.sub("_(total|bucket|count|sum)$", "", name)] if name not in figures else figures[name]
    (found,) = [s.value for s in family.samples if s.name == name and s.labels == labels]
    return found


def histogram(figures: Figures, name: str, **labels: str) -> list[float]:
    """The counts of its buckets, in the order of their bounds."""
    samples = [s for s in figures[name].samples if s.name == f"{name}_bucket"]
    mine = [s for s in samples if {k: v for k, v in s.labels.items() if k != "le"} == labels]
    return [s.value for s in sorted(mine, key=lambda s: float(s.labels["le"]))]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Figures, Client]]:
    """A scrape after a day's work, in small; and a client, to ask further."""
    with Daemon(tmp_path_factory.mktemp("metrics") / "data") as daemon, Client(daemon.socket_path) as nexus:
        session = nexus.call("sessions.create", externalId="a")["id"]
        with pytest.raises(Conflict):
            nexus.call("sessions.create", externalId="a")
        items = [{"sessionId": session, "userMessage": f"note {n}", "aiResponse": ""} for n in range(3)]
        nexus.call("episodes.createMany", items=items, waitFor="indexed", timeoutMs=60_000)
        for _ in range(5):
            nexus.call("episodes.get", id=1)
        with pytest.raises(NotFound):
            nexus.call("episodes.get", id=99)
        with pytest.raises(MethodNotFound):
            nexus.call("episodes.gte", id=1)
        for _ in range(2):
            nexus.search("note", mode="semantic")
        nexus.call("events.subscribe", topics=["episodes"])
        nexus.call("events.subscribe", topics=["outbox"])
        yield scraped(daemon), nexus


def test_requests_are_counted_by_method_and_errors_by_kind(figures: tuple[Figures, Client]) -> None:
    now, _ = figures
    assert value(now, "nexusd_requests_total", method="episodes.get") == 6
    assert value(now, "nexusd_request_errors_total", method="episodes.get", kind="not_found") == 1
    assert value(now, "nexusd_request_errors_total", method="sessions.create", kind="conflict") == 1
    assert value(now, "nexusd_request_errors_total", method="(unknown)", kind="method_not_found") == 1
    assert value(now, "nexusd_request_duration_seconds_count", method="episodes.get") == 6
    assert 0 < value(now, "nexusd_request_duration_seconds_sum", method="episodes.get") < 1
    buckets = histogram(now, "nexusd_request_duration_seconds", method="episodes.get")
    assert (buckets, buckets[-1]) == (sorted(buckets), 6)
    assert buckets[6] == 6, "a look-up takes less than 0.1 s"


def test_writes_commits_and_the_outbox_are_those_that_happened(figures: tuple[Figures, Client]) -> None:
    now, nexus = figures
    database = nexus.status().database
    assert value(now, "nexusd_commits_total") == database.commits
    assert value(now, "nexusd_writes_total") == database.writes
    assert histogram(now, "nexusd_commit_writes")[-1] == database.commits
    assert value(now, "nexusd_commit_writes_sum") == database.writes
    assert value(now, "nexusd_wal_bytes") + value(now, "nexusd_database_bytes") > 0
    assert value(now, "nexusd_disk_state", state="ok") == 1
    assert value(now, "nexusd_disk_state", state="full") == 0
    assert value(now, "nexusd_outbox_rows", collection="episodes", state="pending") == 0
    assert value(now, "nexusd_outbox_oldest_age_seconds", collection="episodes") == 0
    assert value(now, "nexusd_breaker_state", part="index", state="closed") == 1


def test_index_and_model_tell_what_they_hold_and_did(figures: tuple[Figures, Client]) -> None:
    now, _ = figures
    assert value(now, "nexusd_index_up") == 1
    assert value(now, "nexusd_index_points", collection="episodes") == 3
    assert value(now, "nexusd_embedder_state", state="ready") == 1
    assert value(now, "nexusd_embedder_state", state="idle") == 0
    assert (value(now, "nexusd_query_cache_misses_total"), value(now, "nexusd_query_cache_hits_total")) == (1, 1)


def test_events_and_who_listens_are_counted(figures: tuple[Figures, Client]) -> None:
    now, _ = figures
    assert value(now, "nexusd_event_subscriptions") == 2
    assert value(now, "nexusd_event_connections") == 1
    assert value(now, "nexusd_events_total") >= 2
    assert value(now, "nexusd_events_lagged_total") == 0


def test_memory_and_processor_time_come_by_process(figures: tuple[Figures, Client]) -> None:
    now, nexus = figures
    held = {process.name: process.resident_bytes for process in nexus.status().processes}
    for name, size in held.items():
        assert value(now, "nexusd_process_resident_bytes", process=name) == pytest.approx(size, rel=0.5)
        assert value(now, "nexusd_process_cpu_seconds_total", process=name) > 0
    assert held.keys() == {"daemon", "index", "embedder"}


def test_every_metric_has_a_name_and_a_help_text_as_prometheus_wants_them(figures: tuple[Figures, Client]) -> None:
    now, nexus = figures
    methods = {method["name"] for method in nexus.call("help")["methods"]} | {"(unknown)"}
    for name, family in now.items():
        assert re.fullmatch(r"nexusd(_[a-z]+)+", name), name
        assert re.search(r"(_(ms|minutes|kb|mb|percent))$", name) is None, f"{name}: base units"
        assert re.fullmatch(r"[A-Z(].{10,}\.", family.documentation), f"{name}: {family.documentation!r}"
        assert family.type in {"gauge", "counter", "histogram"}
        assert family.samples, name
        for sample in family.samples:
            assert sample.labels.get("method", "help") in methods


def test_an_index_that_does_not_answer_costs_its_own_figures_only(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon, Client(daemon.socket_path) as nexus:
        nexus.remember("Where is the key?", "Under the mat.", session="a", wait=True)
        index = daemon.children()["shard_process"]
        os.kill(index, signal.SIGSTOP)
        try:
            now = scraped(daemon)
        finally:
            os.kill(index, signal.SIGCONT)
        assert "nexusd_index_points" not in now
        assert value(now, "nexusd_requests_total", method="episodes.create") == 1


def test_what_waits_and_what_was_given_up_is_told_by_collection(tmp_path: Path) -> None:
    settings = {"NEXUSD_EMBEDDING__MODEL": "all-MiniLM-L6-v2", "NEXUSD_OUTBOX__BATCH_SIZE": "1"}
    with Daemon(tmp_path / "data", settings=settings) as daemon, Client(daemon.socket_path) as nexus:
        nexus.remember("Where is the key?", "Under the mat.", session="a", wait=True)
        model = daemon.children()["model_process"]
        os.kill(model, signal.SIGSTOP)
        try:
            nexus.remember("What does the cat eat?", "Salmon.", session="a")
            nexus.remember("When does it rain?", "On Sunday.", session="a")
            now = scraped(daemon)
        finally:
            os.kill(model, signal.SIGCONT)
        waiting = [
            value(now, "nexusd_outbox_rows", collection="episodes", state=state) for state in ("pending", "inflight")
        ]
        assert sum(waiting) == 2
        assert 0 < value(now, "nexusd_outbox_oldest_age_seconds", collection="episodes") < 60
        assert value(now, "nexusd_outbox_rows", collection="entities", state="pending") == 0


def test_there_are_no_metrics_where_they_are_off(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", settings={"NEXUSD_METRICS__ENABLED": "false"}) as daemon:
        head, _ = get_metrics(daemon.socket_path)
        assert head.startswith("HTTP/1.1 404 ")
