from __future__ import annotations

from collections import OrderedDict

import anyio
import msgspec
import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.api.cache import CacheApi
from nexusd.cache import SWEEP_INTERVAL_S, Cache
from nexusd.config_sections import CacheConfig
from nexusd.errors import TooLarge
from nexusd.model.cache import MAX_TTL_MS, DeleteCached, GetCached, SetCached
from nexusd.model.fields import NoParams
from nexusd.wire.methods import Call, Principal
from nexusd.wire.validation import validate

CALL = Call(Principal("test", "admin"), "r-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def small(clock: ManualClock, **limits: int) -> Cache:
    return Cache(CacheConfig(**limits), clock)


def test_what_was_set_is_found_until_its_time_is_up(clock: ManualClock) -> None:
    cache = small(clock)
    assert cache.set("a", b"1", 1000) == 1000
    clock.advance(0.999)
    assert cache.get("a") == (b"1", 1)
    clock.advance(0.001)
    assert cache.get("a") is None
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


def test_the_default_time_to_live_is_the_configured_one(clock: ManualClock) -> None:
    assert CacheConfig().ttl_ms == 60_000
    cache = small(clock, ttl_ms=500)
    assert cache.set("a", b"1") == 500
    clock.advance(0.5)
    assert cache.get("a") is None


def test_the_wall_clock_may_jump(clock: ManualClock) -> None:
    cache = small(clock)
    cache.set("a", b"1", 1000)
    clock.jump(days=400)
    assert cache.get("a") is not None


def test_setting_again_begins_the_time_anew(clock: ManualClock) -> None:
    cache = small(clock)
    cache.set("a", b"1", 1000)
    clock.advance(0.9)
    cache.set("a", b"2", 1000)
    clock.advance(0.9)
    assert cache.get("a") == (b"2", 100)


def test_a_number_and_its_text_are_two_keys(clock: ManualClock) -> None:
    cache = small(clock)
    cache.set(5, b"1")
    assert cache.get("5") is None
    assert cache.get(5) is not None


def test_the_least_recently_used_makes_room_for_one_more_entry(clock: ManualClock) -> None:
    cache = small(clock, max_entries=3)
    for key in "abc":
        cache.set(key, b"1")
    cache.get("a")
    cache.set("b", b"2")    # in the place of what is there: needs no room
    cache.set("d", b"1")
    assert [key for key in "abcd" if cache.get(key)] == ["a", "b", "d"]
    assert (cache.stats().entries, cache.stats().evictions) == (3, 1)


def test_a_value_in_the_place_of_another_evicts_only_what_it_must(clock: ManualClock) -> None:
    cache = small(clock, max_bytes=1024)
    cache.set("a", b"x" * 400)
    cache.set("b", b"x" * 400)
    cache.set("a", b"x" * 600)
    assert cache.get("b") is not None
    assert cache.stats().evictions == 0


def test_as_many_go_as_the_bytes_of_a_new_one_need(clock: ManualClock) -> None:
    cache = small(clock, max_bytes=1024)
    for key in "abcd":
        cache.set(key, b"x" * 255)
    assert cache.stats().bytes == 1024
    cache.set("e", b"x" * 500)
    assert [key for key in "abcde" if cache.get(key)] == ["c", "d", "e"]
    assert cache.stats().evictions == 2


def test_the_key_counts_in_bytes(clock: ManualClock) -> None:
    cache = small(clock)
    cache.set("é", b"12")
    assert cache.stats().bytes == 4
    cache.set(7, b"12")
    assert cache.stats().bytes == 14


def test_what_is_larger_than_the_cache_is_refused_and_costs_nothing(clock: ManualClock) -> None:
    cache = small(clock, max_bytes=1024)
    cache.set("a", b"1")
    with pytest.raises(TooLarge):
        cache.set("a", b"x" * 1024)
    assert cache.get("a") is not None
    cache.set("a", b"x" * 1023)


def test_what_expired_makes_room_before_anything_alive_does(clock: ManualClock) -> None:
    cache = small(clock, max_entries=2)
    cache.set("old", b"1", 60_000)
    cache.set("short", b"1", 10)
    clock.advance(0.01)
    cache.set("new", b"1")
    assert cache.get("old") is not None
    assert (cache.stats().expirations, cache.stats().evictions) == (1, 0)


def test_delete_and_clear_say_what_went(clock: ManualClock) -> None:
    cache = small(clock)
    for key in "abc":
        cache.set(key, b"1", 1000 if key != "c" else 10)
    assert cache.delete("a")
    assert not cache.delete("a")
    clock.advance(0.01)
    assert not cache.delete("c")
    assert cache.clear() == 1
    assert (cache.stats().entries, cache.stats().bytes) == (0, 0)


def test_the_sweep_gives_the_memory_back(clock: ManualClock) -> None:
    cache = small(clock)
    for key in range(100):
        cache.set(key, b"x" * 100, 1000)
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        if naps:
            raise EOFError
        naps.append(seconds)
        clock.advance(seconds)

    async def run() -> None:
        await cache.run(sleep)

    with pytest.raises(EOFError):
        anyio.run(run)
    assert naps == [SWEEP_INTERVAL_S]
    assert cache._entries._Cache__currsize == 0  # asking politely would sweep
    assert cache.stats().expirations == 100


operations = st.lists(
    st.tuples(
        st.sampled_from(["get", "set", "delete", "pass"]), st.integers(0, 6), st.integers(0, 300), st.integers(1, 50)
    ),
    max_size=60,
)


@given(operations)
def test_it_does_what_a_plain_dictionary_with_a_clock_would(steps: list[tuple[str, int, int, int]]) -> None:
    clock = ManualClock()
    cache = small(clock, max_entries=4, max_bytes=1024)
    model: OrderedDict[int, tuple[bytes, float]] = OrderedDict()
    for what, key, size, ticks in steps:
        now = clock.monotonic_s()
        for dead in [k for k, (_, until) in model.items() if until <= now]:
            del model[dead]
        if what == "pass":
            clock.advance(ticks / 1024)     # exact in binary: the model and the cache round alike
            continue
        if what == "get":
            found = cache.get(key)
            assert (found and found[0]) == (model[key][0] if key in model else None)
            if key in model:
                model.move_to_end(key)
        elif what == "delete":
            assert cache.delete(key) == (model.pop(key, None) is not None)
        else:
            value = b"v" * size
            cache.set(key, value, ticks * 125)
            if key not in model:
                while len(model) >= 4:
                    model.popitem(last=False)
            model[key] = value, now + ticks * 125 / 1000
            model.move_to_end(key)
            while sum(8 + len(v) for v, _ in model.values()) > 1024:
                model.popitem(last=False)
        stats = cache.stats()
        live = {k: v for k, (v, until) in model.items() if until > clock.monotonic_s()}
        assert stats.entries == len(live) <= 4
        assert stats.bytes == sum(8 + len(v) for v in live.values()) <= 1024


def api(clock: ManualClock) -> CacheApi:
    return CacheApi(small(clock), clock)


def reply(result: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(result))


@pytest.mark.parametrize("value", [None, False, 0, "", [], {"a": [1, 2.5, None]}, "é\U0001f600", 2**63 - 1])
def test_any_json_comes_back_as_it_was_set(clock: ManualClock, value: object) -> None:
    methods = api(clock)
    set_ = reply(methods.set(CALL, SetCached(key="k", value=value, ttl=2000)))
    assert set_ == {"expiresAt": clock.now_ms() + 2000, "ttl": 2000}
    assert reply(methods.get(CALL, GetCached(key="k"))) == {"found": True, "value": value, "expiresInMs": 2000}


def test_what_is_not_there_is_null_and_not_found(clock: ManualClock) -> None:
    methods = api(clock)
    assert reply(methods.get(CALL, GetCached(key="k"))) == {"found": False, "value": None, "expiresInMs": None}
    assert reply(methods.delete(CALL, DeleteCached(key="k"))) == {"deleted": False}
    assert methods.stats(CALL, NoParams()).misses == 1


@pytest.mark.parametrize("ttl", [0, -1, MAX_TTL_MS + 1, 1.5, "60"])
def test_a_time_to_live_out_of_bounds_is_refused(ttl: object) -> None:
    with pytest.raises(Exception, match="ttl"):
        validate(SetCached, {"key": "k", "value": 1, "ttl": ttl})


def test_a_value_must_be_given_and_may_be_null() -> None:
    assert validate(SetCached, {"key": "k", "value": None, "ttl": MAX_TTL_MS}).value is None
    with pytest.raises(Exception, match="value"):
        validate(SetCached, {"key": "k"})


def test_new_bounds_hold_at_once_and_what_was_used_last_stays(clock: ManualClock) -> None:
    cache = small(clock)
    for key in "abcd":
        cache.set(key, b"1" * 9)
    cache.get("a")
    cache.set_bounds(CacheConfig(max_entries=2, ttl_ms=5))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "d"]
    assert cache.set("e", b"1") == 5
    assert cache.stats().entries == 2
    cache.set_bounds(CacheConfig(max_bytes=1024))
    for number in range(1000):
        cache.set(number, b"1" * 92)
    assert cache.stats().bytes == 1000
    cache.set_bounds(CacheConfig(max_bytes=2048))
    for number in range(1000):
        cache.set(number, b"1" * 92)
    assert cache.stats().bytes == 2000


def test_a_value_that_is_larger_than_the_new_bound_is_refused(clock: ManualClock) -> None:
    cache = small(clock)
    cache.set("a", b"1" * 2000)
    cache.set_bounds(CacheConfig(max_bytes=1024))
    assert cache.get("a") is None
    with pytest.raises(TooLarge):
        cache.set("a", b"1" * 2000)
