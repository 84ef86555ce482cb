from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.client.core import Reply, Request
from nexusd.client.errors import ConnectionFailed, WireError
from nexusd.client.exchange import Caller, Lost, Pause, Retry, Send, Unsent
from nexusd.errors import Busy

READ = Request("echo", {}, dict, mutates=False)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(retry: Retry, clock: Clock, seed: int = 1) -> Caller:
    return Caller(retry=retry, rng=random.Random(seed), now=clock)


def busy(send: Send, retry_after_ms: int | None = None) -> Reply:
    data = {"kind": "busy", "retryable": True, "retryAfterMs": retry_after_ms}
    return Reply(send.id, error=WireError(-32004, "Busy.", msgspec.Raw(msgspec.json.encode(data))))


@given(st.integers(1, 12), st.floats(0.001, 1), st.floats(0.001, 5), st.integers())
def test_pauses_are_jittered_and_bounded_and_the_tries_counted(
    tries: int, first_s: float, longest_s: float, seed: int
) -> None:
    clock = Clock()
    calls = caller(Retry(tries, first_s, longest_s), clock, seed)
    steps = calls.exchange(READ, calls.deadline(1e9))
    for sent in range(1, tries):
        assert isinstance(next(steps), Send)
        pause = steps.send(Unsent(ConnectionFailed()))
        assert isinstance(pause, Pause)
        assert 0 <= pause.seconds <= min(longest_s, first_s * 2 ** (sent - 1))
        clock.now += pause.seconds
    assert isinstance(next(steps), Send)
    with pytest.raises(ConnectionFailed):
        steps.send(Unsent(ConnectionFailed()))


def test_every_try_has_an_id_of_its_own() -> None:
    calls = caller(Retry(tries=3), Clock())
    steps = calls.exchange(READ, calls.deadline())
    first = next(steps)
    assert isinstance(first, Send)
    assert isinstance(steps.send(Lost(ConnectionFailed())), Pause)
    second = next(steps)
    assert isinstance(second, Send)
    assert first.id != second.id


def test_pause_past_the_deadline_is_not_begun_and_the_last_failure_told() -> None:
    calls = caller(Retry(tries=9), Clock())
    steps = calls.exchange(READ, calls.deadline(2.0))
    send = next(steps)
    assert isinstance(send, Send)
    with pytest.raises(Busy):
        steps.send(busy(send, retry_after_ms=5000))


def test_named_wait_is_kept_and_spread() -> None:
    pauses = set()
    for seed in range(20):
        calls = caller(Retry(), Clock(), seed)
        steps = calls.exchange(READ, calls.deadline(30))
        send = next(steps)
        assert isinstance(send, Send)
        pause = steps.send(busy(send, retry_after_ms=1000))
        assert isinstance(pause, Pause)
        assert 1.0 <= pause.seconds <= 1.25
        pauses.add(pause.seconds)
    assert len(pauses) == 20


def test_deadline_grows_by_what_the_daemon_is_asked_to_wait() -> None:
    calls = Caller(timeout_s=5, now=lambda: 100.0)
    assert calls.deadline() == 105
    assert calls.deadline(None, {"timeoutMs": 10_000}) == 115
    assert calls.deadline(1, {"timeoutMs": 10_000}) == 101
