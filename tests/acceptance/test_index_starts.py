"""A daemon that starts while its services are in a bad way, or are not what its settings say; and what it asks of them.

It is ready as quickly as ever, takes writes and finds words; health says what to do, and what was made wrong by
somebody else is left as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.qdrant_server import VERSION
from harness.daemon import Daemon
from harness.house import House
from harness.household import Household
from harness.services import DIMENSION, EVERYTHING, Services, until

from nexusd.client import Client

MAX_START_S = 5.0  # it takes half a second; one that waits for a service that stalls would never be ready
KEY = "a-key-that-nobody-may-read"


@pytest.fixture
def services() -> Iterator[Services]:
    with Services() as services:
        yield services


@contextlib.contextmanager
def started(services: Services, data: Path, *, seed: int = 1, **more: str) -> Iterator[House]:
    with Daemon(data, settings=services.settings | more) as daemon, Client(daemon.socket_path) as client:
        assert daemon.start_s < MAX_START_S
        yield House(services, daemon, client, Household(client.call, seed=seed), itertools.count())


def test_a_start_while_the_services_are_away_is_a_start_and_a_server_that_starts_slowly_is_waited_for(
    services: Services, tmp_path: Path
) -> None:
    qdrant = services.qdrant
    services.do(services.to_qdrant.stop())
    services.do(services.to_embedding.stop())
    with started(services, tmp_path / "data") as house:
        house.household.live(20)
        found = house.search(house.household.last)
        assert found["items"]
        assert found["degraded"] == ["embedder"]
        until(lambda: "no connection" in house.reasons() and "embedder: " in house.reasons(), house.reasons)
        services.do(services.to_embedding.start())
        qdrant.version = "1.9.0"
        services.do(services.to_qdrant.start())
        until(lambda: "Qdrant 1.9.0 is too old; 1.16 or newer is needed" in house.reasons(), house.reasons)
        assert set(qdrant.seen) == {"greet"}
        qdrant.version = VERSION
        qdrant.status = dict.fromkeys(EVERYTHING, (503, "loading 4 of 9 shards"))
        until(lambda: "loading 4 of 9 shards" in house.reasons(), house.reasons)
        house.household.live(20)
        assert house.search()["degraded"] == ["index"]
        services.heal()
        house.settled()

    name = services.physical("episodes")[0]
    services.do(qdrant.remake(name, dimension=DIMENSION, distance="Dot"))
    with started(services, tmp_path / "data", seed=2) as house:
        told = f"{name} on the server has {DIMENSION} dimensions under Dot, not {DIMENSION} under Cosine; remove it"
        until(lambda: told in house.reasons(), house.reasons)
        house.household.live(20)
        found = house.search(house.household.last)
        assert found["items"]
        assert found["degraded"] == ["index"]
        assert qdrant.shape(name) == (DIMENSION, "Dot")
        assert qdrant.collections()[name] == []
        services.heal()  # people remove it
        house.settled()


@pytest.mark.long
@pytest.mark.parametrize("stalling", [True, False])
def test_a_start_while_both_services_stall_or_fail_is_a_start(
    services: Services, tmp_path: Path, stalling: bool
) -> None:
    if stalling:
        services.call(services.to_qdrant.stall)
        services.call(services.to_embedding.stall)
    else:
        services.qdrant.status = dict.fromkeys(EVERYTHING, (500, "panicked"))
        services.embedding.fault = "500"
    with started(services, tmp_path / "data") as house:
        house.household.live(40)
        found = house.search(house.household.last)
        assert found["items"]
        assert found["degraded"] == ["embedder"]
        until(lambda: "index: " in house.reasons() and "embedder: " in house.reasons(), house.reasons)
        services.heal()
        house.settled()


def put_back(house: House) -> None:
    """To an earlier state of this very run, whose mark says nothing of it."""
    services = house.services
    snapshot = services.call(services.qdrant.snapshot)
    house.household.live(60)  # changes and removes some of what is in it
    assert house.client.call("outbox.wait", timeoutMs=30_000)["done"]
    points, embedded = services.points("house-"), len(services.embedding.texts)
    services.call(services.qdrant.restore, snapshot)
    assert services.points("house-") != points
    until(lambda: services.points("house-") == points, house.reasons)
    assert len(services.embedding.texts) == embedded


CLUSTER = {
    "NEXUSD_INDEX__SHARD_NUMBER": "6", "NEXUSD_INDEX__REPLICATION_FACTOR": "2",
    "NEXUSD_INDEX__WRITE_CONSISTENCY_FACTOR": "2", "NEXUSD_INDEX__COLLECTION_PREFIX": "house-",
}  # fmt: skip


def test_what_the_settings_say_of_a_server_is_what_it_is_asked_and_an_earlier_state_of_it_is_noticed(
    tmp_path: Path,
) -> None:
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=qdrant", "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", private],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, private)
    with Services(tls=tls) as services:
        services.qdrant.key = KEY
        chosen = {"QDRANT_URL": services.qdrant.url, "NEXUSD_INDEX__API_KEY": KEY, **CLUSTER}
        with started(services, tmp_path / "data", **chosen) as house:
            house.household.live(40)
            until(lambda: "certificate verify failed" in house.reasons(), house.reasons)
            assert services.qdrant.seen == []
        chosen["NEXUSD_INDEX__TLS__CA_FILE"] = str(certificate)
        with started(services, tmp_path / "data", seed=2, **chosen) as house:
            assert house.client.call("outbox.wait", timeoutMs=30_000)["done"]
            assert house.search()["degraded"] == []
            put_back(house)
            services.qdrant.key = "another"
            until(lambda: "the server refuses the key (401); see index.apiKey" in house.reasons(), house.reasons)
    assert KEY not in house.daemon.log_path.read_text()
    made = services.qdrant.made
    assert {name.rsplit("-", 1)[0] for name in made} == {
        "house-episodes", "house-entities", "house-summaries", "house-messages", "house-vectors",
    }  # fmt: skip
    for name, asked in made.items():
        assert (asked["shard_number"], asked["replication_factor"], asked["write_consistency_factor"]) == (6, 2, 2)
        assert (asked["vectors"]["size"], asked["vectors"]["distance"]) == (DIMENSION, "Cosine")
        assert services.qdrant.indexes(name) == {"terms", "numbers.createdAt", "stamp"}
    for writing in ("upsert", "delete", "index"):
        assert all("wait=true" in query for query in services.qdrant.asked_with[writing])
