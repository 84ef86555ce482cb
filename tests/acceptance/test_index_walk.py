"""A random walk of faults over both services, for minutes, while a household goes on living: at the end all is equal.

Seeded: the seed is printed, and repeats the walk (not its timing).
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest
from fakes.qdrant_server import HANDLERS
from harness.daemon import Daemon
from harness.house import House
from harness.household import Household
from harness.services import DIMENSION, Services

from nexusd.client import Client

WRITING = ("create", "upsert", "delete", "index", "change")
ANSWERS = ("500", "503", "429", "400", "html", "cut", "truncated", "reset", "count", "dimension", "hang", "gzip")


class Walk:
    """Steps that break something, and steps that mend some of it."""

    def __init__(self, services: Services, chance: random.Random) -> None:
        self._services = services
        self._chance = chance
        self._snapshot = services.call(services.qdrant.snapshot)
        self.steps: list[str] = []

    def step(self) -> None:
        """Something happens."""
        steps = {
            self.heal: 6, self.answer: 4, self.misread: 2, self.refuse: 3, self.stall_some: 2, self.break_off: 2,
            self.way: 6, self.wipe: 1, self.remake: 1, self.photograph: 1, self.put_back: 1,
        }  # fmt: skip
        chosen = self._chance.choices(list(steps), weights=list(steps.values()))[0]
        self.steps.append(chosen.__name__)
        chosen()

    def heal(self) -> None:
        self._services.heal()

    def answer(self) -> None:
        """The embedding service answers wrongly, for a while or a few times."""
        embedding = self._services.embedding
        if self._chance.random() < 0.5:
            embedding.fault = self._chance.choice(ANSWERS)
        else:
            embedding.faults += self._chance.choices(ANSWERS, k=self._chance.randrange(1, 5))

    def misread(self) -> None:
        """It gives no vector for any text."""
        embedding = self._services.embedding
        embedding.flaw, embedding.flawed = self._chance.choice(("nan", "zero", "inf", "null", "empty")), {""}

    def refuse(self) -> None:
        """The index server refuses some operations, or all."""
        said = {500: "panicked", 503: "loading", 507: "insufficient storage", 429: "busy"}
        status = self._chance.choice(list(said.items()))
        operations = self._chance.choice((WRITING, ("upsert",), tuple(HANDLERS), ("query", "count", "scroll")))
        self._services.qdrant.status = dict.fromkeys(operations, status)

    def stall_some(self) -> None:
        self._services.qdrant.stalled = set(self._chance.sample(list(HANDLERS), 3))

    def break_off(self) -> None:
        self._services.qdrant.cut = set(self._chance.sample(list(HANDLERS), 3))

    def way(self) -> None:
        """The network to one of them stalls, cuts, corrupts or refuses."""
        services = self._services
        way = self._chance.choice((services.to_embedding, services.to_qdrant))
        match self._chance.randrange(4):
            case 0:
                services.call(way.stall)
            case 1:
                services.call(way.cut)
            case 2:
                way.corrupting = True
            case _:
                services.do(way.stop())

    def wipe(self) -> None:
        self._services.do(self._services.qdrant.wipe())

    def remake(self) -> None:
        """Somebody replaces a collection by one that does not fit."""
        qdrant = self._services.qdrant
        if names := sorted(self._services.call(qdrant.collections)):
            self._services.do(qdrant.remake(self._chance.choice(names), dimension=DIMENSION + 1))

    def photograph(self) -> None:
        self._snapshot = self._services.call(self._services.qdrant.snapshot)

    def put_back(self) -> None:
        self._services.call(self._services.qdrant.restore, self._snapshot)


def _walk(directory: Path, *, seconds: float, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    with (
        Services() as services,
        Daemon(directory / "data", settings=services.settings | {"NEXUSD_OUTBOX__MAX_ATTEMPTS": "100000"}) as daemon,
        Client(daemon.socket_path) as client,
    ):
        house = House(services, daemon, client, Household(client.call, seed=seed), itertools.count())
        house.household.live(100)
        house.settled()
        walk, healed = Walk(services, chance), 0
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            walk.step()
            until_s = time.monotonic() + chance.uniform(0.0, 1.5)
            while time.monotonic() < until_s:
                house.household.live(5)
                assert house.client.call("memory.search", query=house.household.last, mode="keyword")["items"]
            if chance.random() < 0.05:
                services.heal()
                house.settled(within_s=60)
                healed += 1
        services.heal()
        house.settled(within_s=60)
        assert house.strange() == set()
        took_s = sorted(house.household.took_s)
        slowest_ms, median_ms = took_s[-1] * 1000, took_s[len(took_s) // 2] * 1000
        print(f"{len(walk.steps)} steps, {len(took_s)} writes, {median_ms:.1f} ms at the median, {slowest_ms:.0f} at "
              f"most; {healed + 1} times in exact parity")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_walk_of_five_minutes_ends_in_parity(tmp_path: Path) -> None:
    _walk(tmp_path, seconds=300, seed=random.SystemRandom().randrange(10**6))
