"""What goes wrong between the daemon and a Qdrant server, over a small fake of one."""

from __future__ import annotations

import asyncio
import random
import ssl
import subprocess
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.clock import ManualClock
from fakes.proxy import Proxy
from fakes.qdrant_server import FakeQdrant
from harness.server_index import InMemoryClient, in_memory_index
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig, IndexTlsConfig
from nexusd.errors import BadContent, DimensionMismatch, IndexUnavailable
from nexusd.index.filters import Filter, Match
from nexusd.index.index import CollectionSpec, Point
from nexusd.index.server import ServerIndex
from nexusd.index.server_doubts import LASTS_S

pytestmark = pytest.mark.anyio

DIMENSION = 4
SPEC = CollectionSpec("episodes-1a2b", DIMENSION)
NAMED = f"nexusd-{SPEC.name}"
SHORT_S = 0.3  # the deadline of calls where a test waits for it
GIVEN_UP_S = 1.0  # the same, where other calls have to be answered within it


@pytest.fixture
async def fake() -> AsyncIterator[FakeQdrant]:
    server = FakeQdrant()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def proxy(fake: FakeQdrant) -> AsyncIterator[Proxy]:
    between = Proxy(fake.port)
    await between.start()
    yield between
    await between.stop()


@asynccontextmanager
async def opened(
    url: str, *, ensured: bool = True, clock: Any = None, on_up: Callable[[], None] | None = None,
    on_running: Callable[[bool], None] | None = None, **settings: Any,
) -> AsyncIterator[ServerIndex]:
    config = IndexConfig(backend="server", url=url, **{"check_interval_s": 0.1, **settings})
    index = ServerIndex(config, clock or SystemClock(), on_up=on_up, on_running=on_running)
    await index.start()
    try:
        if ensured:
            await index.ensure(SPEC)
        yield index
    finally:
        await index.close()


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """What the index's own task does has no event here: look again and again, but not for ever."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def vector(seed: int, dimension: int = DIMENSION) -> bytes:
    chance = random.Random(seed)
    return array("f", [chance.gauss(0, 1) for _ in range(dimension)]).tobytes()


def point(id_: int, version: int = 1, **payload: Any) -> Point:
    return Point(id_, version, vector(id_), payload)


async def versions(index: ServerIndex) -> dict[int, int]:
    return {each.id: each.version for each in await index.scroll(SPEC.name, 0, 1000)}


async def test_points_of_others_whose_ids_no_row_can_have_are_passed_over(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        await index.upsert(SPEC.name, [point(7)])
        for id_ in (2**63, 2**64 - 1, "6f5902ac-237a-4b4c-9c8e-1b2f7a0e1d11"):
            foreign = models.PointStruct(id=id_, vector=[1, 0, 0, 0], payload={})
            await fake._local.upsert(NAMED, [foreign])
        assert await versions(index) == {7: 1}



# the server is away


async def test_a_server_that_is_down_at_the_start_is_found_when_it_comes(fake: FakeQdrant) -> None:
    await fake.stop()
    told: list[bool] = []
    came = asyncio.Event()
    async with opened(fake.url, ensured=False, on_up=came.set, on_running=told.append) as index:
        with pytest.raises(IndexUnavailable, match="no connection"):
            await index.ensure(SPEC)
        health = index.health()
        assert not health.available
        assert health.detail.startswith(f"127.0.0.1:{fake.port}: no connection")
        await fake.start()
        async with asyncio.timeout(20):
            await came.wait()
        await index.ensure(SPEC)
        assert index.health().available
        assert told == [True]


async def test_while_the_server_is_away_every_call_is_refused_at_once(fake: FakeQdrant) -> None:
    told: list[bool] = []
    async with opened(fake.url, on_running=told.append) as index:
        await fake.stop()
        with pytest.raises(IndexUnavailable):
            await index.count(SPEC.name)
        assert not index.health().available
        async with asyncio.timeout(1):
            for _ in range(100):
                with pytest.raises(IndexUnavailable):
                    await index.search(SPEC.name, vector(1), 5, None)
        await fake.start()
        await until(lambda: index.health().available)
        assert await index.count(SPEC.name) == 0
        assert told == [True, False, True]


async def test_a_server_that_stalls_is_given_up_after_the_deadline_and_found_again(
    fake: FakeQdrant, proxy: Proxy
) -> None:
    async with opened(
        proxy.url, call_timeout_s=GIVEN_UP_S, search_timeout_s=GIVEN_UP_S, connect_timeout_s=GIVEN_UP_S
    ) as index:
        await index.upsert(SPEC.name, [point(1)])
        incarnation = index.health().incarnations[SPEC.name]
        proxy.stall()
        with pytest.raises(IndexUnavailable):
            await index.search(SPEC.name, vector(1), 5, None)
        await until(lambda: not index.health().available)
        proxy.flow()
        await until(lambda: index.health().available)
        assert await versions(index) == {1: 1}
        assert index.health().incarnations[SPEC.name] == incarnation


async def test_one_slow_search_is_no_outage(fake: FakeQdrant) -> None:
    told: list[bool] = []
    async with opened(fake.url, search_timeout_s=SHORT_S, on_running=told.append) as index:
        fake.stalled = {"query"}
        with pytest.raises(IndexUnavailable, match="no answer within"):
            await index.search(SPEC.name, vector(1), 5, None)
        looks = fake.seen.count("greet")
        await until(lambda: fake.seen.count("greet") > looks + 1)
        assert await index.count(SPEC.name) == 0
        assert told == [True]


async def test_a_server_that_answers_small_questions_alone_is_asked_ever_more_rarely(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        fake.cut = {"upsert"}
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            await until(lambda: index.health().available)
            with pytest.raises(IndexUnavailable):
                await index.upsert(SPEC.name, [point(1)])
        assert asyncio.get_running_loop().time() - began > 0.2 + 0.4 + 0.8


class SlowToGreet(InMemoryClient):
    """Greets when it is let, and loses every write."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.asked = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def info(self, **kwargs: Any) -> models.VersionInfo:
        self.asked.set()
        await self.let.wait()
        return models.VersionInfo(title="qdrant", version="1.17.0")

    async def upsert(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        raise ResponseHandlingException(httpx.ReadError("broken off"))


async def test_a_look_that_began_before_a_call_failed_does_not_find_the_server_back() -> None:
    client = SlowToGreet()
    index = in_memory_index(client, IndexConfig(backend="server", check_interval_s=0.1))
    await index.start()
    await index.ensure(SPEC)
    client.let.clear()
    client.asked.clear()
    async with asyncio.timeout(20):
        await client.asked.wait()
        with pytest.raises(IndexUnavailable):
            await index.upsert(SPEC.name, [point(1)])
        client.asked.clear()
        client.let.set()
        while not client.asked.is_set():
            assert not index.health().available
            await asyncio.sleep(0)
        await until(lambda: index.health().available)
    await index.close()


async def test_a_stall_is_noticed_while_nobody_asks(fake: FakeQdrant) -> None:
    async with opened(fake.url, connect_timeout_s=SHORT_S) as index:
        fake.stalled = {"greet"}
        await until(lambda: not index.health().available)
        assert "no answer in time" in index.health().detail


async def test_an_index_closes_at_once_while_the_server_stalls(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        fake.stalled = {"greet", "upsert", "read"}
        writing = asyncio.create_task(index.upsert(SPEC.name, [point(1)]))
        await until(lambda: "upsert" in fake.seen)
        async with asyncio.timeout(2):
            writing.cancel()
            await asyncio.wait({writing})
            await index.close()


@pytest.mark.parametrize("fault", ["cut connections", "corrupted answers", "cut answers"])
async def test_answers_that_do_not_arrive_whole_are_no_answers(fake: FakeQdrant, proxy: Proxy, fault: str) -> None:
    async with opened(proxy.url) as index:
        await index.upsert(SPEC.name, [point(1)])
        if fault == "cut connections":
            fake.stalled = {"query"}
            asking = asyncio.create_task(index.search(SPEC.name, vector(1), 5, None))
            await until(lambda: "query" in fake.seen)
            proxy.cut()
        else:
            proxy.corrupting = fault == "corrupted answers"
            fake.cut = {"query"} if fault == "cut answers" else set()
            asking = asyncio.create_task(index.search(SPEC.name, vector(1), 5, None))
        with pytest.raises(IndexUnavailable):
            await asking
        fake.stalled, fake.cut, proxy.corrupting = set(), set(), False
        await until(lambda: index.health().available)
        assert await versions(index) == {1: 1}


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (500, "Service internal error: No space left on device: WAL buffer size exceeds", "disk is full"),
        (507, "", "disk is full"),
        (429, "rate limit", "429"),
        (500, "panicked", "500: panicked"),
        (403, "Forbidden: read-only", "may not do this"),
        (400, "Format error in JSON body: unknown variant", "400"),
    ],
)
async def test_a_server_that_cannot_take_a_write_stays_up_and_the_write_is_not_lost(
    fake: FakeQdrant, status: int, said: str, told: str
) -> None:
    async with opened(fake.url) as index:
        fake.status["upsert"] = (status, said)
        with pytest.raises(IndexUnavailable, match=told):
            await index.upsert(SPEC.name, [point(1)])
        assert index.health().available
        fake.status.clear()
        await index.upsert(SPEC.name, [point(1)])
        assert await versions(index) == {1: 1}


async def test_a_server_that_asks_for_patience_is_told_with_its_time(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        fake.status["upsert"] = (429, "too many")
        for header, after_ms in (("7", 7000), ("99999999", 3_600_000), ("Wed, 21 Oct 2026 07:28:00 GMT", None)):
            fake.headers = {"Retry-After": header}
            with pytest.raises(IndexUnavailable) as caught:
                await index.upsert(SPEC.name, [point(1)])
            assert caught.value.retry_after_ms == after_ms


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_server_that_is_still_starting_counts_as_away(fake: FakeQdrant, status: int) -> None:
    fake.status["greet"] = (status, "starting")
    async with opened(fake.url, ensured=False) as index:
        with pytest.raises(IndexUnavailable):
            await index.ensure(SPEC)
        assert f"({status})" in index.health().detail
        fake.status.clear()
        await until(lambda: index.health().available)


@pytest.mark.parametrize("status", [413, 400, 422])
async def test_a_point_that_the_server_refuses_is_bad_content(fake: FakeQdrant, status: int) -> None:
    async with opened(fake.url) as index:
        fake.status["upsert"] = (status, "Validation error: too large")
        with pytest.raises(BadContent):
            await index.upsert(SPEC.name, [point(1)])
        assert index.health().available


async def test_a_wrong_key_is_said_and_never_shown(
    fake: FakeQdrant, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.key = "right"
    async with opened(fake.url, ensured=False, api_key="sesame-open") as index:
        with pytest.raises(IndexUnavailable, match="refuses the key"):
            await index.ensure(SPEC)
        assert "refuses the key" in index.health().detail
        assert "sesame-open" not in index.health().detail
        assert not index.health().available
    async with opened(fake.url, api_key="right") as index:
        assert index.health().available
    output = capsys.readouterr()
    assert "sesame-open" not in output.out + output.err


@pytest.mark.parametrize(
    ("title", "version", "told"),
    [
        ("qdrant - vector search engine", "1.15.5", "Qdrant 1.15.5 is too old; 1.16 or newer is needed"),
        ("qdrant - vector search engine", "weird", "too old"),
        ("elasticsearch", "9.0.0", "no Qdrant"),
    ],
)
async def test_what_is_no_qdrant_or_too_old_is_refused_in_words(
    fake: FakeQdrant, title: str, version: str, told: str
) -> None:
    fake.title, fake.version = title, version
    async with opened(fake.url, ensured=False) as index:
        with pytest.raises(IndexUnavailable, match=told):
            await index.ensure(SPEC)
        assert told in index.health().detail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that only itself has signed, and its key."""
    place = tmp_path_factory.mktemp("tls")
    files = place / "cert.pem", place / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=qdrant", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )
    return files


@pytest.fixture
async def encrypted(certificate: tuple[Path, Path]) -> AsyncIterator[FakeQdrant]:
    server = FakeQdrant()
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.tls.load_cert_chain(*certificate)
    await server.start()
    yield server
    await server.stop()


async def test_a_server_is_believed_by_its_certificate(encrypted: FakeQdrant, certificate: tuple[Path, Path]) -> None:
    for tls in (IndexTlsConfig(ca_file=str(certificate[0])), IndexTlsConfig(verify=False)):
        async with opened(encrypted.url, tls=tls, api_key="k") as index:
            await index.upsert(SPEC.name, [point(1)])
            assert await versions(index) == {1: 1}


async def test_a_server_that_nobody_vouches_for_gets_no_key(encrypted: FakeQdrant) -> None:
    async with opened(encrypted.url, ensured=False, api_key="k") as index:
        with pytest.raises(IndexUnavailable, match=r"(?i)certificate"):
            await index.ensure(SPEC)
        assert encrypted.seen == []


async def test_certificates_that_cannot_be_read_are_said_and_end_nothing(fake: FakeQdrant, tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    tls = IndexTlsConfig(ca_file=str(broken))
    async with opened("https://127.0.0.1:1", ensured=False, tls=tls) as index:
        with pytest.raises(IndexUnavailable, match="cannot connect"):
            await index.ensure(SPEC)


# the collection is not what it was


async def test_a_wiped_server_is_noticed_while_nobody_asks_and_begun_anew(fake: FakeQdrant) -> None:
    ups: list[None] = []
    async with opened(fake.url, on_up=lambda: ups.append(None)) as index:
        await index.upsert(SPEC.name, [point(1)])
        before = index.health().incarnations[SPEC.name]
        await fake.wipe()
        await until(lambda: len(ups) == 2)
        assert index.health().incarnations[SPEC.name] != before
        assert await index.count(SPEC.name) == 0
        await index.upsert(SPEC.name, [point(2)])
        assert fake.collections() == {NAMED: [2]}


async def test_a_wiped_server_is_noticed_by_the_next_call(fake: FakeQdrant) -> None:
    async with opened(fake.url, check_interval_s=60.0) as index:
        await index.upsert(SPEC.name, [point(1)])
        before = index.health().incarnations[SPEC.name]
        await fake.wipe()
        with pytest.raises(IndexUnavailable):
            await index.search(SPEC.name, vector(1), 5, None)
        await until(lambda: index.health().incarnations[SPEC.name] != before)
        assert await index.count(SPEC.name) == 0


async def test_a_collection_of_another_dimension_is_told_and_left_alone(fake: FakeQdrant) -> None:
    async with opened(fake.url, check_interval_s=60.0) as index:
        await index.upsert(SPEC.name, [point(1)])
        before = index.health().incarnations[SPEC.name]
        await fake.remake(NAMED, dimension=9)
        with pytest.raises(IndexUnavailable):  # no point is to blame
            await index.upsert(SPEC.name, [point(2)])
        await until(lambda: index.health().incarnations[SPEC.name] != before)
        with pytest.raises(DimensionMismatch, match="remove it there"):
            await index.ensure(SPEC)
        with pytest.raises(IndexUnavailable, match="9 dimensions"):
            await index.count(SPEC.name)
        assert "9 dimensions" in index.health().detail
        assert fake.collections() == {NAMED: []}


async def test_a_refused_collection_that_was_removed_is_made_anew(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        await fake.remake(NAMED, dimension=9)
        await until(lambda: index.health().detail)
        await fake.wipe()
        await until(lambda: not index.health().detail)
        await index.upsert(SPEC.name, [point(1)])
        assert await versions(index) == {1: 1}


async def test_a_collection_that_somebody_else_made_is_left_alone(fake: FakeQdrant) -> None:
    async with opened(fake.url, ensured=False) as index:
        other = CollectionSpec("others", DIMENSION)
        await index.ensure(other)
        await fake.remake("nexusd-others", dimension=DIMENSION)
        async with opened(fake.url, ensured=False) as later:
            with pytest.raises(IndexUnavailable, match="was not made by nexusd"):
                await later.ensure(other)
        assert fake.collections() == {"nexusd-others": []}


async def test_of_two_daemons_the_later_one_has_the_collection(fake: FakeQdrant) -> None:
    async with opened(fake.url) as first:
        before = first.health().incarnations[SPEC.name]
        async with opened(fake.url) as second:
            await until(lambda: "another nexusd" in first.health().detail)
            assert first.health().incarnations[SPEC.name] != before
            for _ in range(3):  # and it stays so
                with pytest.raises(IndexUnavailable, match="another nexusd"):
                    await first.ensure(SPEC)
            with pytest.raises(IndexUnavailable, match="another nexusd"):
                await first.upsert(SPEC.name, [point(1)])
            await second.upsert(SPEC.name, [point(2)])
            assert second.health().incarnations[SPEC.name] == before
            assert await versions(second) == {2: 1}


async def test_a_second_prefix_is_a_second_index(fake: FakeQdrant) -> None:
    async with opened(fake.url) as first, opened(fake.url, collection_prefix="other-") as second:
        await first.upsert(SPEC.name, [point(1)])
        await second.upsert(SPEC.name, [point(2)])
        assert fake.collections() == {NAMED: [1], f"other-{SPEC.name}": [2]}


async def test_a_state_that_was_put_back_is_another_incarnation(fake: FakeQdrant) -> None:
    async with opened(fake.url) as first:
        await first.upsert(SPEC.name, [point(1)])
        older = dict(fake.mark(NAMED))
    async with opened(fake.url, check_interval_s=0.2) as index:
        before = index.health().incarnations[SPEC.name]
        fake.put_back(NAMED, older)
        await until(lambda: index.health().incarnations[SPEC.name] != before)
        await index.upsert(SPEC.name, [point(1, version=2)])
        assert await versions(index) == {1: 2}


async def test_payload_indexes_that_are_missing_are_made(fake: FakeQdrant) -> None:
    async with opened(fake.url):
        assert fake.indexes(NAMED) == {"terms", "numbers.createdAt", "stamp"}
        fake.indexes(NAMED).clear()
        await until(lambda: len(fake.indexes(NAMED)) == 3)


# writes that nobody waits for any more


async def test_a_write_that_was_given_up_and_comes_late_overwrites_nothing_newer(fake: FakeQdrant) -> None:
    async with opened(fake.url, call_timeout_s=GIVEN_UP_S) as index:
        await index.upsert(SPEC.name, [point(1, version=1)])
        fake.late = {"upsert"}
        with pytest.raises(IndexUnavailable, match="no answer"):
            await index.upsert(SPEC.name, [point(1, version=2), point(2, version=1)])
        fake.late = set()
        await until(lambda: index.health().available)
        await index.upsert(SPEC.name, [point(1, version=3)])
        assert await fake.carry_out_late() == 1
        assert await versions(index) == {1: 3, 2: 1}


async def test_a_write_of_an_earlier_run_that_comes_late_overwrites_nothing(fake: FakeQdrant) -> None:
    async with opened(fake.url, call_timeout_s=GIVEN_UP_S) as index:
        fake.late = {"upsert"}
        for _ in range(3):  # the later run must not begin to count where this one did
            with pytest.raises(IndexUnavailable):
                await index.upsert(SPEC.name, [point(1, version=2)])
            await until(lambda: index.health().available)
    fake.late = set()
    async with opened(fake.url) as index:
        await index.upsert(SPEC.name, [point(1, version=3)])
        assert await fake.carry_out_late() == 3
        assert await versions(index) == {1: 3}


async def test_a_removal_that_comes_late_removes_nothing_newer(fake: FakeQdrant) -> None:
    async with opened(fake.url, call_timeout_s=GIVEN_UP_S) as index:
        await index.upsert(SPEC.name, [point(1), point(2)])
        fake.late = {"delete"}
        with pytest.raises(IndexUnavailable):
            await index.delete(SPEC.name, [1, 2])
        fake.late = set()
        await until(lambda: index.health().available)
        await index.upsert(SPEC.name, [point(1, version=2)])
        assert await fake.carry_out_late() == 1
        assert await versions(index) == {1: 2}


async def test_a_removed_point_that_a_late_write_brings_back_is_removed_again(fake: FakeQdrant) -> None:
    async with opened(fake.url, call_timeout_s=GIVEN_UP_S) as index:
        fake.late = {"upsert"}
        with pytest.raises(IndexUnavailable):
            await index.upsert(SPEC.name, [point(1), point(2)])
        fake.late = set()
        await until(lambda: index.health().available)
        await index.delete(SPEC.name, [1, 2])
        await index.upsert(SPEC.name, [point(2, version=5)])  # that one was let in again
        assert await fake.carry_out_late() == 1
        await until(lambda: fake.collections()[NAMED] == [2])
        assert await versions(index) == {2: 5}


async def test_removals_are_not_said_again_for_ever(fake: FakeQdrant) -> None:
    clock = ManualClock()
    async with opened(fake.url, clock=clock) as index:
        fake.status["upsert"] = (500, "who knows")
        with pytest.raises(IndexUnavailable):
            await index.upsert(SPEC.name, [point(1)])
        await index.delete(SPEC.name, [1])
        await until(lambda: fake.seen.count("delete") > 2)
        clock.advance(LASTS_S + 1)
        await until(lambda: fake.seen[-4:] == ["greet", "read"] * 2)


async def test_a_write_that_the_server_only_noted_counts_for_nothing(
    fake: FakeQdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(fake.url) as index:
        noted = {"operation_id": 0, "status": str(models.UpdateStatus.ACKNOWLEDGED)}
        monkeypatch.setattr("fakes.qdrant_server.COMPLETED", noted)
        with pytest.raises(IndexUnavailable, match="did not carry the write out"):
            await index.upsert(SPEC.name, [point(1)])


async def test_a_filter_as_deep_as_a_message_may_be_is_asked(fake: FakeQdrant) -> None:
    where = Filter(must=(Match("sessionId", (1,)),))
    for _ in range(64):
        where = Filter(must=(where,))
    async with opened(fake.url) as index:
        await index.upsert(SPEC.name, [point(1, sessionId=1)])
        assert [hit.id for hit in await index.search(SPEC.name, vector(1), 5, where)] == [1]


async def test_a_large_upsert_goes_in_pieces_so_that_its_encoding_holds_nobody_up(fake: FakeQdrant) -> None:
    spec = CollectionSpec("large", 768)
    async with opened(fake.url, ensured=False) as index:
        await index.ensure(spec)
        await index.upsert(spec.name, [Point(id_, 1, vector(id_, 768), {}) for id_ in range(1, 101)])
        assert fake.seen.count("upsert") == 3
        assert await index.count(spec.name) == 100


# names for other readers


async def test_a_name_is_an_alias_and_all_of_them_change_at_once(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        other = CollectionSpec("episodes-3c4d", DIMENSION)
        await index.ensure(other)
        await index.publish({"a": SPEC.name, "b": SPEC.name})
        assert fake.aliases() == {"nexusd-a": f"nexusd-{SPEC.name}", "nexusd-b": f"nexusd-{SPEC.name}"}
        await index.publish({"a": other.name, "b": other.name})
        assert set(fake.aliases().values()) == {f"nexusd-{other.name}"}
        assert fake.seen.count("alias") == 2


async def test_a_name_that_cannot_be_given_is_told_and_stops_nothing(
    fake: FakeQdrant, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(fake.url, call_timeout_s=1.0) as index:
        await index.ensure(CollectionSpec("a", DIMENSION))  # somebody may have a collection of the very name
        await index.publish({"a": SPEC.name})
        fake.status["alias"] = (403, "Forbidden")
        await index.publish({"b": SPEC.name})
        fake.stalled.add("alias")
        await index.publish({"c": SPEC.name})
        assert fake.aliases() == {}
        assert await versions(index) == {}
        told = capsys.readouterr().out
        for reason in ("already exists", "the key may not do this", "no answer within"):
            assert reason in told


async def test_names_wait_for_a_server_that_is_away(fake: FakeQdrant) -> None:
    async with opened(fake.url) as index:
        await fake.stop()
        with pytest.raises(IndexUnavailable):
            await index.publish({"a": SPEC.name})
        await fake.start()
        await until(lambda: index.health().available)
        await index.publish({"a": SPEC.name})
        assert fake.aliases() == {"nexusd-a": f"nexusd-{SPEC.name}"}
