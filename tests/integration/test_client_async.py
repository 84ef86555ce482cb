"""What only the asyncio client can do: many calls at once over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakes.scripted_daemon import ScriptedDaemon, does_it_and_hangs_up, held, refuses, stays_silent

from nexusd.client import AsyncClient, ClientClosed, Retry
from nexusd.errors import InvalidRequest, TooLarge

pytestmark = pytest.mark.anyio
EXCHANGE = {"sessionId": 1, "userMessage": "Where is the key?", "aiResponse": "Under the mat."}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: ScriptedDaemon) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(daemon.address, retry=Retry(tries=4, first_s=0.001, longest_s=0.002)) as client:
        yield client


async def asked(daemon: ScriptedDaemon, method: str, times: int = 1) -> None:
    await asyncio.to_thread(daemon.wait_for, method, times)


async def test_replies_out_of_order_find_their_callers(client: AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [held]
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(client.call("echo", n=1))
        await asked(daemon, "echo")
        assert await client.call("echo", n=2) == {"n": 2}
        assert not slow.done()
        daemon.release()
    assert slow.result() == {"n": 1}
    assert daemon.connections == 1


async def test_hundreds_of_calls_share_one_connection(client: AsyncClient, daemon: ScriptedDaemon) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(client.call("echo", n=number)) for number in range(300)]
    assert [call.result()["n"] for call in calls] == list(range(300))
    assert daemon.connections == 1
    assert len(daemon.calls("help")) == 1


async def test_cancelled_call_leaves_the_others_and_its_late_reply_reaches_nobody(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [held, held]
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(client.call("echo", n=1))
        staying = group.create_task(client.call("echo", n=2))
        await asked(daemon, "echo", 2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        daemon.release()
        assert await staying == {"n": 2}
    assert await client.call("echo", n=3) == {"n": 3}
    assert daemon.connections == 1


async def test_cancelling_who_connects_leaves_those_who_wait_for_the_connection(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(client.call("echo", n=1))
        second = group.create_task(client.call("echo", n=2))
        await asyncio.sleep(0)  # both have begun: the first connects, the second waits for it
        first.cancel()
    assert second.result() == {"n": 2}


async def test_cancelling_who_asks_about_a_method_leaves_those_who_wait_for_the_answer(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["help"] = [stays_silent]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(client.call("episodes.create", EXCHANGE))
        await asked(daemon, "help")
        second = group.create_task(client.call("episodes.create", EXCHANGE))
        await asyncio.sleep(0)
        first.cancel()
    assert second.result()["id"] == 1
    assert daemon.calls("episodes.create")[0]["idempotencyKey"]


async def test_lost_connection_repeats_every_call_on_it_once(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["episodes.create"] = [held, held, does_it_and_hangs_up]
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(client.call("episodes.create", EXCHANGE))
    keys = [params["idempotencyKey"] for params in daemon.calls("episodes.create")]
    assert len(daemon.episodes) == 3
    assert len(keys) == 6
    assert len(set(keys)) == 3
    assert daemon.connections == 2


async def test_oversized_message_is_blamed_on_the_largest_and_the_others_go_on(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [held, refuses(-32005, "too_large", nameless=True)]
    async with asyncio.TaskGroup() as group:
        small = group.create_task(client.call("echo", n=1))
        await asked(daemon, "echo")
        with pytest.raises(TooLarge):
            await client.call("echo", text="x" * 100_000)
        daemon.release()
    assert small.result() == {"n": 1}


async def test_call_that_was_given_up_is_blamed_for_nothing(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [stays_silent, refuses(-32600, "invalid_request", nameless=True)]
    leaving = asyncio.create_task(client.call("echo", n=1))
    await asked(daemon, "echo")
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(InvalidRequest):
        await client.call("echo", n=2, timeout_s=5)


async def test_close_ends_the_calls_on_the_way(client: AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [stays_silent, stays_silent]
    calls = [asyncio.create_task(client.call("echo", n=number)) for number in range(2)]
    await asked(daemon, "echo", 2)
    await client.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [ClientClosed, ClientClosed]


async def test_more_than_the_socket_takes_waits_and_arrives(
    client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    text = "x" * 1_000_000
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(client.call("echo", n=number, text=text)) for number in range(10)]
    assert [(call.result()["n"], len(call.result()["text"])) for call in calls] == [
        (number, len(text)) for number in range(10)
    ]
