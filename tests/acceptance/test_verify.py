"""index.verify and index.repair through the daemon as a process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import httpx
from harness.daemon import Daemon
from prometheus_client.parser import text_string_to_metric_families

from nexusd.client import Client


def figures(daemon: Daemon) -> dict[str, float]:
    """The samples of a scrape, those without labels."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket_path))) as http:
        text = http.get("http://localhost/metrics").text
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels}


def damage(data: Path) -> None:
    """While the daemon is down: a vector is of another text, and the full text is gone."""
    db = apsw.Connection(str(data / "nexus.db"))
    db.execute("UPDATE embeddings SET content_hash = zeroblob(16) WHERE row_id = 2")
    db.execute("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')")
    db.close()


def test_what_differs_is_told_mended_and_counted(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon:
        with Client(daemon.socket_path) as client:
            for text in ("The kettle is on the stove.", "The key is under the mat.", "The cat eats salmon."):
                client.remember("Tell me.", text, session="a", wait=True)
            report = client.call("index.verify")
            assert (report["state"], report["agrees"], report["checked"]) == ("done", True, 3)
            assert report["modelSimilarity"] == 1.0
            now = figures(daemon)
            assert (now["nexusd_index_agrees"], now["nexusd_search_dropped_hits_total"]) == (1, 0)
            assert now["nexusd_index_verified_timestamp_seconds"] == report["finishedAt"] / 1000
        assert daemon.terminate() == 0
        damage(daemon.data)
        with daemon.start(), Client(daemon.socket_path) as client:
            state = client.call("index.status")
            assert (state["lastVerify"]["agrees"], state["job"], state["backend"]) == (True, None, "embedded")
            report = client.call("index.verify", collections=["episodes"])
            (found,) = report["collections"]
            assert found["examples"] == {"vectorsOutdated": [2], "fullTextMissing": [1, 2, 3]}
            health = client.call("health")
            assert health["status"] == "degraded"
            assert health["reasons"][0].startswith("index: differs from the rows in episodes")
            assert client.call("system.status")["index"]["agrees"] is False
            assert figures(daemon)["nexusd_index_agrees"] == 0

            mended = client.call("index.repair")["mended"]
            assert mended == {
                "upsertsQueued": 1, "deletesQueued": 0, "fullTextRows": 3, "fullTextRebuilt": [], "vectorsForgotten": 1,
            }
            assert client.call("outbox.wait", timeoutMs=60_000)["done"]
            assert client.call("index.verify")["agrees"]
            assert client.call("health")["status"] == "ok"
            assert [hit["id"] for hit in client.call("memory.search", query="salmon", mode="keyword")["items"]] == [3]
            points = {each["collection"]: each["points"] for each in client.call("index.status")["collections"]}
            assert points["episodes"] == 3


def test_a_verification_that_hangs_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon, Client(daemon.socket_path) as client:
        client.remember("Where is the key?", "Under the mat.", session="a", wait=True)
        index = daemon.children()["shard_process"]
        answers: list[Any] = []

        def verify() -> None:
            with Client(daemon.socket_path) as other:
                answers.append(other.call("index.verify", timeoutMs=600_000))

        os.kill(index, signal.SIGSTOP)
        try:
            asking = threading.Thread(target=verify)
            asking.start()
            deadline = time.monotonic() + 30
            while client.call("index.status")["job"] is None:
                assert time.monotonic() < deadline
            began = time.monotonic()
            threading.Timer(1.0, os.kill, (index, signal.SIGCONT)).start()
            assert daemon.terminate(timeout_s=20) == 0
            assert time.monotonic() - began < 15
        finally:
            asking.join(30)
        assert answers[0]["state"] == "running"
