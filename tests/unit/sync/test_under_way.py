"""Claims on their way: how many at a time, in which order they end, and what becomes of their errors."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from nexusd.sync.under_way import MAX_CLAIMS, UnderWay

pytestmark = pytest.mark.anyio


class Failed(Exception):
    """What a claim may fail with."""


class Sends:
    """Claims that end when they are told to."""

    def __init__(self) -> None:
        self.told = 0
        self.begun: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}
        self.fail: set[int] = set()
        self.cancelled: list[int] = []
        self.under_way = UnderWay(self._ended)

    def _ended(self) -> None:
        self.told += 1

    async def send(self, number: int) -> None:
        self.begun.append(number)
        try:
            await self.ends.setdefault(number, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number in self.fail:
            raise Failed(number)

    def end(self, number: int) -> None:
        self.ends.setdefault(number, asyncio.Event()).set()

    async def begin(self, number: int) -> None:
        await self.under_way.begin(partial(self.send, number), frozenset({number, number + 100}))


async def settle() -> None:
    """All that can happen has happened."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_more_than_there_is_room_for_waits_for_the_oldest() -> None:
    sends = Sends()
    for number in range(MAX_CLAIMS):
        await sends.begin(number)
    another = asyncio.create_task(sends.begin(MAX_CLAIMS))
    await settle()
    assert sends.begun == list(range(MAX_CLAIMS))
    assert not another.done()
    sends.end(0)
    await another
    await settle()
    assert sends.begun == list(range(MAX_CLAIMS + 1))
    assert sends.told == 1
    await sends.under_way.abandon()


async def test_rows_of_all_claims_under_way_are_known_until_theirs_has_ended() -> None:
    sends = Sends()
    assert not sends.under_way
    assert sends.under_way.seqs == frozenset()
    await sends.begin(0)
    await sends.begin(1)
    assert sends.under_way
    assert sends.under_way.seqs == {0, 100, 1, 101}
    sends.end(0)
    await settle()
    await sends.under_way.look()
    assert sends.under_way.seqs == {1, 101}
    sends.end(1)
    await sends.under_way.all_ended()
    assert not sends.under_way
    assert sends.cancelled == []


@pytest.mark.parametrize("how", ["look", "all_ended", "begin"])
async def test_what_a_claim_fails_with_is_raised_once_and_the_next_goes_on(how: str) -> None:
    sends = Sends()
    sends.fail.add(0)
    await sends.begin(0)
    await sends.begin(1)
    await settle()
    sends.end(0)
    await settle()
    with pytest.raises(Failed):
        await {"look": sends.under_way.look, "all_ended": sends.under_way.all_ended}.get(how, partial(sends.begin, 2))()
    assert sends.under_way.seqs == {1, 101}
    sends.end(1)
    await sends.under_way.all_ended()
    assert sends.begun == [0, 1]


async def test_being_quiet_waits_for_all_and_leaves_their_errors_to_be_learned() -> None:
    sends = Sends()
    sends.fail.add(0)
    await sends.under_way.quiet()  # at once: there is nothing
    await sends.begin(0)
    await sends.begin(1)
    quiet = asyncio.create_task(sends.under_way.quiet())
    await settle()
    sends.end(0)
    await settle()
    assert not quiet.done()
    sends.end(1)
    await quiet
    with pytest.raises(Failed):
        await sends.under_way.look()


async def test_abandoned_claims_are_over_before_anything_else_happens() -> None:
    sends = Sends()
    sends.fail.add(0)
    await sends.begin(0)
    await sends.begin(1)
    await settle()
    sends.end(0)
    await settle()
    await sends.under_way.abandon()
    assert sends.cancelled == [1]
    assert not sends.under_way
    await sends.under_way.abandon()  # of nothing


async def test_one_who_waits_and_is_cancelled_leaves_nothing_running() -> None:
    sends = Sends()
    await sends.begin(0)
    await sends.begin(1)
    waiting = asyncio.create_task(sends.under_way.all_ended())
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await sends.under_way.abandon()
    assert sends.cancelled == [0, 1]
    assert not sends.under_way
