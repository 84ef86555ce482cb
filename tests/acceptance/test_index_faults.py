"""Whatever happens to the index server or to the embedding service: writes, words and starts go on, nothing is lost.

One daemon with both services behind a network that fails on command. During each fault a household goes on writing; a
search says what it lacks, health says why; and after it rows and points are equal, versions included.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from harness.daemon import Daemon
from harness.house import House
from harness.household import Household
from harness.services import DIMENSION, EVERYTHING, Services, until

from nexusd.client import Client

WRITES = 25  # before and after a search finds out
# A write takes a millisecond or two, while every deadline towards the services is half a second at least. A machine
# that many share may stall once or twice; writes that wait for a service do so again and again.
MAX_WRITE_S = 0.3
STALLS = 2

Begin = Callable[[Services], object]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, what a search then lacks, and a piece of what health says about it."""

    name: str
    lacking: str
    says: str
    begin: Begin


def embedder(name: str, says: str, begin: Begin) -> Fault:
    return Fault(f"embedder {name}", "embedder", says, begin)


def index(name: str, says: str, begin: Begin) -> Fault:
    return Fault(f"index {name}", "index", says, begin)


def answering(fault: str, retry_after: str = "") -> Begin:
    def begin(services: Services) -> None:
        services.embedding.retry_after = retry_after
        services.embedding.fault = fault

    return begin


def flawed(flaw: str) -> Begin:
    def begin(services: Services) -> None:
        services.embedding.flaw, services.embedding.flawed = flaw, {""}

    return begin


def refusing(status: int, said: str, *operations: str) -> Begin:
    def begin(services: Services) -> None:
        services.qdrant.status = dict.fromkeys(operations or EVERYTHING, (status, said))

    return begin


def cutting(services: Services) -> None:
    services.qdrant.cut = set(EVERYTHING)


def stalling(services: Services) -> None:
    services.qdrant.stalled = set(EVERYTHING)


def corrupting(way: str) -> Begin:
    return lambda services: setattr(getattr(services, way), "corrupting", True)


def wiped(services: Services) -> None:
    services.qdrant.status = {"create": (503, "recovering")}  # or it would be filled again before anybody looks
    services.do(services.qdrant.wipe())


def remade(services: Services) -> None:
    for name in services.qdrant.collections():
        if name.startswith("nexusd-episodes-"):
            services.do(services.qdrant.remake(name, dimension=DIMENSION + 1))


EMBEDDER_FAULTS = [
    embedder("answers 500", "HTTP 500", answering("500")),
    embedder("answers 429", "HTTP 429", answering("429", "1")),
    embedder("answers too late", "did not answer within", answering("hang")),
    embedder("closes mid-body", "broke off", answering("cut")),
    embedder("answers HTML", "not JSON", answering("html")),
    embedder("gives too many vectors", "3 vectors where 2 belong", answering("count")),
    embedder("gives another dimension", f"set embedding.dimension to {DIMENSION + 1}", answering("dimension")),
    embedder("gives NaN", "holds NaN", flawed("nan")),
    embedder("gives zeros", "all zero", flawed("zero")),
    embedder("is refused", "cannot be reached", lambda services: services.do(services.to_embedding.stop())),
    embedder("is stalled on the way", "did not answer", lambda services: services.call(services.to_embedding.stall)),
    embedder("is corrupted on the way", "not JSON", corrupting("to_embedding")),
]
INDEX_FAULTS = [
    index("is refused", "no connection", lambda services: services.do(services.to_qdrant.stop())),
    index("is stalled on the way", "no answer", lambda services: services.call(services.to_qdrant.stall)),
    index("reads and never answers", "no answer", stalling),
    index("answers 500", "500", refusing(500, "panicked")),
    index("is still starting", "does not serve (503)", refusing(503, "loading")),
    index("breaks off its answers", "connection failed", cutting),
    index("is corrupted on the way", "does not speak as Qdrant does", corrupting("to_qdrant")),
    index("is wiped", "recovering", wiped),
    index("has a collection of another dimension", f"has {DIMENSION + 1} dimensions", remade),
    index("answers 507", "disk is full", refusing(507, "insufficient storage", "upsert")),
    index("has a full disk", "disk is full", refusing(500, "No space left on device (os error 28)", "upsert")),
    index("asks for patience", "429", refusing(429, "too many requests", "upsert", "delete", "query")),
]
# The same for the daemon as another one of the list, or nearly: in the long form.
DOUBLES = {
    "embedder is stalled on the way", "index reads and never answers", "index breaks off its answers",
    "index has a full disk",
}  # fmt: skip
FAULTS = [
    pytest.param(fault, id=fault.name, marks=[pytest.mark.long] if fault.name in DOUBLES else [])
    for fault in (*EMBEDDER_FAULTS, *INDEX_FAULTS)
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    data = tmp_path_factory.mktemp("faults") / "data"
    with (
        Services() as services,
        Daemon(data, settings=services.settings) as daemon,
        Client(daemon.socket_path) as client,
    ):
        house = House(services, daemon, client, Household(client.call), itertools.count())
        house.household.live(60)
        house.settled()
        yield house
        assert house.strange() == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_no_write_and_no_word_and_ends_in_parity(house: House, fault: Fault) -> None:
    household = house.household
    household.took_s.clear()
    fault.begin(house.services)
    try:
        household.live(WRITES)
        assert house.client.call("memory.search", query=household.last, mode="keyword")["items"]
        until(lambda: house.search()["degraded"] == [fault.lacking], house.reasons)
        until(lambda: fault.says in house.reasons(), house.reasons)
        household.live(WRITES)
        found = house.search(household.last)
        assert any(household.last in hit["record"].get("userMessage", "") for hit in found["items"])
        assert sum(took_s > MAX_WRITE_S for took_s in household.took_s) <= STALLS
        status = house.client.call("system.status")
        assert status["outbox"]["pending"] + status["outbox"]["inflight"] > 0
    finally:
        house.services.heal()
    # On a slow machine the fault may have lasted for all the attempts of a row that failed by itself.
    house.client.call("outbox.retry", seqs=[])
    house.settled()


@pytest.mark.parametrize(("flaw", "reason"), [("", "HTTP 400"), ("nan", "holds NaN"), ("zero", "is all zero")])
def test_of_64_texts_with_a_bad_one_63_get_through_and_one_is_a_dead_letter(
    house: House, flaw: str, reason: str
) -> None:
    client, embedding = house.client, house.services.embedding
    embedding.gate = house.services.make_gate()  # so that all of them wait when the first is claimed
    embedding.poison, embedding.flaw, embedding.flawed = (set(), flaw, {"poison"}) if flaw else ({"poison"}, "", set())
    session = client.call("sessions.create", externalId=f"bad {flaw}")["id"]
    texts = [f"{'poison' if n == 40 else 'text'} {n} {flaw}" for n in range(64)]
    items = [{"sessionId": session, "userMessage": text, "aiResponse": ""} for text in texts]
    rows = [row["id"] for row in client.call("episodes.createMany", items=items)["items"]]
    house.services.call(embedding.gate.set)
    embedding.gate = None
    until(lambda: not client.call("outbox.wait", timeoutMs=1000)["pending"], house.reasons)
    (dead,) = client.call("outbox.list", state="dead")["items"]
    assert (dead["rowId"], dead["errorKind"], dead["attempts"]) == (rows[40], "bad_content", 1)
    assert reason in dead["error"]
    assert "poison" not in dead["error"]
    assert {id_ for id_, _ in house.differing()["episodes"]} == {rows[40]}
    assert client.call("episodes.get", id=rows[40])["vector"] == "dead"
    assert "1 rows cannot be indexed" in house.reasons()
    assert client.call("outbox.status")["embedder"] == "closed"
    house.services.heal()
    assert client.call("outbox.retry")["retried"] == 1
    house.settled()




def test_a_service_that_asks_for_patience_is_left_alone_for_so_long(house: House) -> None:
    embedding = house.services.embedding
    embedding.fault, embedding.retry_after = "429", "1"
    house.household.say()
    until(lambda: "HTTP 429" in house.reasons(), house.reasons)
    told_s, asked = time.monotonic(), len(embedding.requests)
    embedding.fault = ""
    assert house.search()["degraded"] == ["embedder"]  # nor does a search ask it
    house.settled()
    assert time.monotonic() - told_s > 0.5
    assert len(embedding.requests) > asked
