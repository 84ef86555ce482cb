"""Listening with both clients: in order, across lost connections, and beside calls that it never disturbs."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import Act, ScriptedDaemon, hangs_up, is_busy, refuses, stays_silent

from nexusd.client import AsyncClient, Client, ConnectionFailed, Event, InvalidParams, ProtocolViolated, Retry
from nexusd.client.async_events import FEW_WAITING, MOST_WAITING

IMPATIENT = Retry(tries=4, first_s=0.001, longest_s=0.002)
START = 1000


class BlockingStream:
    """An asynchronous stream that a test can use like a blocking one; the loop runs while it waits."""

    def __init__(self, runner: asyncio.Runner, stream: Any) -> None:
        self._runner = runner
        self._stream = stream

    @property
    def seq(self) -> int | None:
        seq: int | None = self._stream.seq
        return seq

    def __enter__(self) -> BlockingStream:
        self._runner.run(self._awaited("__aenter__"))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> BlockingStream:
        return self

    def __next__(self) -> Event:
        try:
            event: Event = self._runner.run(self._awaited("__anext__"))
        except StopAsyncIteration:
            raise StopIteration from None
        return event

    def close(self) -> None:
        self._runner.run(self._awaited("close"))

    async def _awaited(self, name: str) -> Any:
        return await getattr(self._stream, name)()


class BlockingAsyncClient:
    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **options)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            return await self._client.call(*args, **kwargs)

        return self._runner.run(call())

    def events(self, *args: Any, **kwargs: Any) -> Any:
        return BlockingStream(self._runner, self._client.events(*args, **kwargs))

    def close(self) -> None:
        self._runner.run(self._client.close())

    def end(self) -> None:
        self.close()
        self._runner.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        daemon.answers["events.subscribe"] = {"subscription": 1, "seq": START}
        yield daemon


@pytest.fixture(params=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest, daemon: ScriptedDaemon) -> Iterator[Any]:
    with ExitStack() as stack:
        if request.param == "blocking":
            yield stack.enter_context(Client(daemon.address, retry=IMPATIENT, timeout_s=10.0))
        else:
            client = BlockingAsyncClient(daemon.address, retry=IMPATIENT, timeout_s=10.0)
            stack.callback(client.end)
            yield client


def tell(daemon: ScriptedDaemon, seq: int, topic: str = "episodes", **data: Any) -> None:
    daemon.notify("event", {"seq": seq, "topic": topic, "data": data, "subscription": 1})


def then_tells(*seqs: int) -> Act:
    """Subscribe, and send events in the same breath as the reply."""

    async def act(daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await daemon.behave(writer, request)
        for seq in seqs:
            params = {"seq": seq, "topic": "episodes", "data": {}, "subscription": 1}
            await daemon.send(writer, {"jsonrpc": "2.0", "method": "event", "params": params})

    return act


def then_hangs_up(*seqs: int) -> Act:
    async def act(daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await then_tells(*seqs)(daemon, writer, request)
        await writer.drain()
        writer.close()

    return act


def test_events_come_in_their_order_as_records(client: Any, daemon: ScriptedDaemon) -> None:
    with client.events(["episodes", "outbox"]) as events:
        assert events.seq == START
        tell(daemon, START + 1, method="episodes.create", id=7)
        tell(daemon, START + 2, "outbox", state="drained")
        first, second = next(events), next(events)
    assert first == Event(
        seq=START + 1, topic="episodes", data={"method": "episodes.create", "id": 7}, subscription=1
    )
    assert (second.topic, second.data["state"]) == ("outbox", "drained")
    assert daemon.calls("events.subscribe") == [{"topics": ["episodes", "outbox"]}]


def test_it_begins_where_it_is_told_to(client: Any, daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [then_tells(START - 1, START)]
    with client.events(since_seq=START - 2) as events:
        assert [next(events).seq, next(events).seq] == [START - 1, START]
    assert daemon.calls("events.subscribe") == [{"topics": [], "sinceSeq": START - 2}]


def test_calls_and_events_have_connections_of_their_own(client: Any, daemon: ScriptedDaemon) -> None:
    client.call("echo", n=0)
    with client.events() as events:
        for number in range(1, 4):
            tell(daemon, START + number)
            assert client.call("echo", n=number) == {"n": number}
        assert [next(events).seq for _ in range(3)] == [START + 1, START + 2, START + 3]
    assert daemon.connections == 2


def test_a_lost_connection_is_made_again_from_the_last_event_that_came(client: Any, daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [then_hangs_up(START + 1, START + 5), hangs_up, then_tells(START + 6)]
    events = client.events(["episodes"])
    assert [next(events).seq for _ in range(3)] == [START + 1, START + 5, START + 6]
    events.close()
    assert [asked.get("sinceSeq") for asked in daemon.calls("events.subscribe")] == [None, START + 5, START + 5]


def test_a_connection_lost_before_any_event_resumes_from_the_subscription(client: Any, daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [then_hangs_up(), then_tells(START + 1)]
    with client.events() as events:
        assert next(events).seq == START + 1
    assert [asked.get("sinceSeq") for asked in daemon.calls("events.subscribe")] == [None, START]


def test_a_gap_is_an_event_like_others(client: Any, daemon: ScriptedDaemon) -> None:
    with client.events() as events:
        tell(daemon, START + 8, "lagged", after=START, next=START + 9)
        tell(daemon, START + 9)
        assert [(event.topic, event.seq) for event in (next(events), next(events))] == [
            ("lagged", START + 8), ("episodes", START + 9),
        ]  # fmt: skip


def test_a_daemon_that_starts_or_is_busy_is_asked_again(client: Any, daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [is_busy(1), refuses(-32007, "starting", retryable=True)]
    with client.events() as events:
        tell(daemon, START + 1)
        assert next(events).seq == START + 1


def test_a_daemon_that_is_gone_for_good_is_told(client: Any, daemon: ScriptedDaemon) -> None:
    with client.events() as events:
        daemon.vanish()
        with pytest.raises(ConnectionFailed):
            next(events)


def test_connections_that_bring_nothing_but_their_end_are_not_made_for_ever(
    client: Any, daemon: ScriptedDaemon
) -> None:
    daemon.acts["events.subscribe"] = [then_hangs_up() for _ in range(20)]
    with pytest.raises(ConnectionFailed):
        next(client.events())
    assert len(daemon.calls("events.subscribe")) == IMPATIENT.tries


def test_a_refused_subscription_is_its_error(client: Any, daemon: ScriptedDaemon) -> None:
    daemon.acts["events.subscribe"] = [refuses(-32602, "invalid_params", "Invalid params: topics[0]: one of a, b")]
    with pytest.raises(InvalidParams, match=r"topics\[0\]"):
        next(client.events(["epsiodes"]))


def test_a_text_in_place_of_topics_is_refused_here(client: Any) -> None:
    with pytest.raises(TypeError, match="list of topics"):
        client.events("episodes")


def test_what_is_no_event_is_a_violation(client: Any, daemon: ScriptedDaemon) -> None:
    with client.events() as events:
        daemon.notify("something else", {"a": 1})
        daemon.notify("event", {"seq": "one"})
        with pytest.raises(ProtocolViolated):
            next(events)


def test_closing_the_client_ends_its_streams(client: Any, daemon: ScriptedDaemon) -> None:
    with client.events() as events:
        tell(daemon, START + 1)
        assert next(events).seq == START + 1
        client.close()
        assert list(events) == []


def until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(500):
        if condition():
            return
        done.wait(0.02)
    raise AssertionError("it did not come to that")


def test_a_stream_that_was_dropped_lets_its_connection_go(client: Any, daemon: ScriptedDaemon) -> None:
    events = client.events()
    tell_once = then_tells(START + 1)
    daemon.acts["events.subscribe"] = [tell_once]
    assert next(events).seq == START + 1
    assert len(daemon._writers) == 1
    del events
    gc.collect()
    if isinstance(client, BlockingAsyncClient):
        client.call("echo", n=1)    # a turn of its loop
        until(lambda: len(daemon._writers) == 1)
    else:
        until(lambda: len(daemon._writers) == 0)


# --- what only one of them can do ---


def test_another_thread_ends_the_wait_of_a_blocking_stream(daemon: ScriptedDaemon) -> None:
    with Client(daemon.address, retry=IMPATIENT) as client:
        events = client.events()
        seen: list[Event] = []
        thread = threading.Thread(target=lambda: seen.extend(events))
        thread.start()
        daemon.wait_for("events.subscribe")
        tell(daemon, START + 1)
        until(lambda: len(seen) == 1)
        events.close()
        thread.join(10)
        assert not thread.is_alive()
    assert [event.seq for event in seen] == [START + 1]


def test_a_ctrl_c_that_does_not_interrupt_the_read_ends_the_wait_all_the_same(daemon: ScriptedDaemon) -> None:
    """Taken by another thread, as by this one just before the read: no system call is interrupted."""
    with Client(daemon.address) as nexus, nexus.events() as stream:
        daemon.wait_for("events.subscribe")
        interrupting = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
        ending = threading.Timer(10, stream.close)  # what would end it otherwise
        interrupting.start()
        ending.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert ending.is_alive()  # it was not that
        ending.cancel()


@pytest.fixture
async def stream_client(daemon: ScriptedDaemon) -> Any:
    async with AsyncClient(daemon.address, retry=IMPATIENT) as client:
        yield client


@pytest.mark.anyio
async def test_cancelling_the_wait_loses_nothing(stream_client: AsyncClient, daemon: ScriptedDaemon) -> None:
    async with stream_client.events() as events:
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(tell, daemon, START + 1)
        assert (await anext(events)).seq == START + 1
    assert daemon.connections == 1


@pytest.mark.anyio
async def test_cancelling_the_subscription_leaves_none_behind(
    stream_client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.acts["events.subscribe"] = [stays_silent]
    events = stream_client.events()
    waiting = asyncio.create_task(anext(events))
    await asyncio.to_thread(daemon.wait_for, "events.subscribe")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    daemon.acts["events.subscribe"] = [then_tells(START + 1)]
    assert (await anext(events)).seq == START + 1
    await asyncio.to_thread(until, lambda: len(daemon._writers) == 1)
    assert daemon.connections == 2, "on the first one a subscription may stand"
    await events.close()


@pytest.mark.anyio
async def test_a_reader_that_rests_lets_the_rest_wait_in_the_socket(
    stream_client: AsyncClient, daemon: ScriptedDaemon
) -> None:
    count = 20 * MOST_WAITING
    daemon.acts["events.subscribe"] = [then_tells(*range(START + 1, START + 1 + count))]
    async with stream_client.events() as events:
        first = await anext(events)
        await asyncio.to_thread(until, lambda: len(events._listening.arrived) >= FEW_WAITING)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert len(events._listening.arrived) < count // 2
        rest = [(await anext(events)).seq for _ in range(count - 1)]
    assert [first.seq, *rest] == list(range(START + 1, START + 1 + count))
