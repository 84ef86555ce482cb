"""A daemon that starts while its services are in a bad way, or are not what its settings say; and what it asks of them.

It is ready as quickly as ever, takes writes and finds words; health says what to do, and what was made wrong by
somebody else is left as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
from collections.abc import Callable, Iterator
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


def refused(services: Services) -> None:
    services.do(services.to_qdrant.stop())
    services.do(services.to_embedding.stop())


def stalled(services: Services) -> None:
    services.call(services.to_qdrant.stall)
    services.call(services.to_embedding.stall)


def failing(services: Services) -> None:
    services.qdrant.status = dict.fromkeys(EVERYTHING, (500, "panicked"))
    services.embedding.fault = "500"


@pytest.mark.parametrize("fault", [refused, stalled, pytest.param(failing, marks=pytest.mark.long)])
def test_a_start_while_both_services_are_away_is_a_start(
    services: Services, tmp_path: Path, fault: Callable[[Services], None]
) -> None:
    fault(services)
    with started(services, tmp_path / "data") as house:
        house.household.live(40)
        found = house.search(house.household.last)
        assert found["items"]
        assert found["degraded"] == ["embedder"]
        until(lambda: "index: " in house.reasons() and "embedder: " in house.reasons(), house.reasons)
        services.heal()
        house.settled()


def test_a_server_that_is_too_old_and_a_new_one_that_starts_slowly_are_waited_for(services: Services, tmp_path: Path) -> None:
    services.do(services.to_qdrant.stop())
    with started(services, tmp_path / "data") as house:
        house.household.live(20)
        until(lambda: "no connection" in house.reasons(), house.reasons)
        services.qdrant.version = "1.9.0"
        services.do(services.to_qdrant.start_again())
        until(lambda: "Qdrant 1.9.0 is too old; 1.16 or newer is needed" in house.reasons(), house.reasons)
        assert set(services.qdrant.seen) == {"greet"}
        services.qdrant.version = VERSION
        services.qdrant.status = dict.fromkeys(EVERYTHING, (503, "loading 4 of 9 shards"))
        until(lambda: "loading 4 of 9 shards" in house.reasons(), house.reasons)
        services.qdrant.status = dict.fromkeys(EVERYTHING - {"greet", "list", "read"}, (503, "loading 9 of 9 shards"))
        until(lambda: services.qdrant.seen.count("create"), house.reasons)
        house.household.live(20)
        assert house.search()["degraded"] == ["index"]
        services.heal()
        house.settled()


def test_a_server_that_comes_back_empty_or_as_it_was_before_is_filled_without_embedding_anything_again(
    services: Services, tmp_path: Path
) -> None:
    with started(services, tmp_path / "data") as house:
        house.household.live(40)
        house.settled()
        embedded = len(services.embedding.texts)
        services.do(services.to_qdrant.stop())
        until(lambda: "no connection" in house.reasons(), house.reasons)
        services.do(services.qdrant.wipe())
        services.do(services.to_qdrant.start())
        until(house.in_parity, house.differing)
        assert len(services.embedding.texts) == embedded

        house.household.live(40)
        house.settled()
        snapshot = services.call(services.qdrant.snapshot)
        house.household.live(40)  # changes and removes some of what is in it
        house.settled()
        embedded = len(services.embedding.texts)
        services.call(services.qdrant.restore, snapshot)
        assert house.differing()
        until(house.in_parity, house.differing)
        assert len(services.embedding.texts) == embedded


@pytest.mark.parametrize("as_made", [{"dimension": DIMENSION + 1}, {"dimension": DIMENSION, "distance": "Dot"}])
def test_a_collection_that_does_not_fit_at_the_start_is_explained_and_left_as_it_is(
    services: Services, tmp_path: Path, as_made: dict[str, object]
) -> None:
    with started(services, tmp_path / "data") as house:
        house.household.live(20)
        house.settled()
    (name,) = (name for name in services.qdrant.collections() if name.startswith("nexusd-episodes-"))
    services.do(services.qdrant.remake(name, **as_made))
    with started(services, tmp_path / "data", seed=2) as house:
        size, distance = shape = services.qdrant.shape(name)
        told = f"{name} on the server has {size} dimensions under {distance}, not {DIMENSION} under Cosine; remove it"
        until(lambda: told in house.reasons(), house.reasons)
        house.household.live(20)
        found = house.search(house.household.last)
        assert found["items"]
        assert found["degraded"] == ["index"]
        assert services.qdrant.shape(name) == shape
        assert services.qdrant.collections()[name] == []
        services.heal()  # people remove it
        house.settled()


CLUSTER = {
    "NEXUSD_INDEX__SHARD_NUMBER": "6", "NEXUSD_INDEX__REPLICATION_FACTOR": "2",
    "NEXUSD_INDEX__WRITE_CONSISTENCY_FACTOR": "2", "NEXUSD_INDEX__COLLECTION_PREFIX": "house-",
}  # fmt: skip


def test_what_the_settings_say_of_a_server_is_what_it_is_asked_and_the_key_goes_to_it_alone(tmp_path: Path) -> None:
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
        chosen["NEXUSD_INDEX__API_KEY"] = "another"
        with started(services, tmp_path / "data", seed=3, **chosen) as house:
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
