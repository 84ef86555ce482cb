"""A daemon with both of its services and a household: what is said of them, and whether rows and points are equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fakes.embedder import text_vector
from harness.daemon import Daemon
from harness.household import Household, row_versions, select
from harness.services import DIMENSION, Services, until

from nexusd.client import Client


@dataclass
class House:
    """A daemon, its services, and those who live with them."""

    services: Services
    daemon: Daemon
    client: Client
    household: Household
    queries: Iterator[int]

    def search(self, query: str = "") -> Any:
        """A search that was not asked before, whose vector therefore nobody knows."""
        return self.client.call("memory.search", query=f"{query or 'kettle'} {next(self.queries)}")

    def reasons(self) -> str:
        """What health says."""
        return "\n".join(self.client.call("health")["reasons"])

    def differing(self) -> dict[str, set[tuple[int, int]]]:
        """The (id, version) by collection that only rows or only points have."""
        rows = row_versions(self.daemon.data / "nexus.db")
        pairs = {name: set(held.items()) ^ set(self.services.versions(name).items()) for name, held in rows.items()}
        return {name: each for name, each in pairs.items() if each}

    def strange(self) -> set[int]:
        """The exchanges whose point does not mean what they say."""
        sql = "SELECT id, 'User: ' || user_message || char(10) || 'Assistant: ' || ai_response FROM episodes"
        held = self.services.vectors("episodes")
        return {
            id_
            for id_, text in select(self.daemon.data / "nexus.db", sql)
            if math.dist(held[id_], text_vector(text, DIMENSION)) > 1e-5
        }

    def in_parity(self) -> bool:
        """Whether rows and points are equal and the daemon knows it."""
        waiting = self.client.call("outbox.status")
        left = waiting["pending"] + waiting["inflight"] + waiting["dead"]
        return not left and not self.differing()

    def settled(self, *, within_s: float = 30.0) -> None:
        """Until all is well again."""
        until(
            self.in_parity,
            lambda: (self.differing(), self.client.call("outbox.status"), self.reasons()),
            within_s=within_s,
        )
        until(lambda: self.client.call("health")["status"] == "ok", self.reasons)
        assert self.search()["degraded"] == []
