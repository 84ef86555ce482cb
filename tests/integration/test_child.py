"""A process that works for the daemon, with small children that do what a child can do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nexusd.child import ChildDied, ChildProcess, ChildRefused, ChildUnavailable

pytestmark = pytest.mark.anyio

SERVANT = '''
import os, sys, time
from pathlib import Path
from nexusd.child_channel import ChildChannel, become_child

become_child()
channel = ChildChannel(int(sys.argv[1]))
notes = Path(sys.argv[2])
try:
    while True:
        message = channel.receive(float(sys.argv[3]) if len(sys.argv) > 3 else None)
        if message is None:
            (notes / "idle").touch()
            continue
        id_, op, payload = message
        if op == "echo":
            channel.reply(id_, payload)
        elif op == "refuse":
            channel.fail(id_, "too_hard", "this is too hard", limit=3)
        elif op == "die":
            os._exit(payload)
        elif op == "die with":
            for _ in range(payload):
                channel.receive(None)
            os._exit(7)
        elif op == "sleep":
            time.sleep(payload)
            channel.reply(id_, None)
        elif op == "write":
            (notes / payload).touch()
            channel.reply(id_, None)
        elif op == "garbage":
            channel._socket.sendall(payload)
except EOFError:
    (notes / "ended well").touch()
'''


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "servant.py").write_text(SERVANT)
    (tmp_path / "stillborn.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@asynccontextmanager
async def started(
    notes: Path,
    module: str = "servant",
    *arguments: str,
    on_started: Callable[[ChildProcess], Awaitable[None]] | None = None,
    on_running: Callable[[bool], None] | None = None,
) -> AsyncIterator[ChildProcess]:
    child = ChildProcess(
        "servant", module, [str(notes), *arguments], on_started=on_started, on_running=on_running
    )
    try:
        yield child
    finally:
        await child.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_first_call_starts_the_child_and_answers_come_to_their_callers(children: Path) -> None:
    async with started(children) as child:
        assert child.pid is None
        answers = await asyncio.gather(*(child.call("echo", [n, b"x" * n], timeout_s=20) for n in range(300)))
        assert answers == [[n, b"x" * n] for n in range(300)]


async def test_large_requests_and_answers_pass_whole(children: Path) -> None:
    async with started(children) as child:
        payload = os.urandom(5_000_000)
        assert await child.call("echo", payload, timeout_s=20) == payload


async def test_a_refusal_has_its_kind_message_and_details(children: Path) -> None:
    async with started(children) as child:
        with pytest.raises(ChildRefused, match="this is too hard") as refused:
            await child.call("refuse", None, timeout_s=20)
        assert (refused.value.kind, refused.value.details) == ("too_hard", {"limit": 3})


async def test_a_child_that_dies_fails_every_waiting_call_and_is_started_again(children: Path) -> None:
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        first = child.pid
        began = time.monotonic()
        answers = await asyncio.gather(
            child.call("die with", 5, timeout_s=20),  # when all wait: a later one waits for the next child
            *(child.call("echo", n, timeout_s=20) for n in range(5)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [ChildDied] * 6
        assert time.monotonic() - began < 5
        assert await child.call("echo", 2, timeout_s=20) == 2
        assert child.pid not in (None, first)
        assert child.restarts == 1


async def test_a_child_that_does_not_answer_is_killed_and_none_of_its_work_happens_later(
    children: Path,
) -> None:
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        hanging = asyncio.create_task(child.call("sleep", 600, timeout_s=0.3))
        behind = asyncio.create_task(child.call("write", "too late", timeout_s=20))
        for call in (hanging, behind):
            with pytest.raises(ChildUnavailable):
                await call
        assert await child.call("echo", 2, timeout_s=20) == 2
        assert not (children / "too late").exists()


async def test_a_stopped_child_is_killed_too(children: Path) -> None:
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(ChildUnavailable):
            await child.call("echo", 2, timeout_s=0.3)
        assert await child.call("echo", 3, timeout_s=20) == 3


async def test_a_child_that_never_comes_up_costs_a_call_its_deadline_and_no_more(children: Path) -> None:
    async with started(children, "stillborn") as child:
        began = time.monotonic()
        with pytest.raises(ChildUnavailable, match=r"is not running|died"):
            await child.call("echo", 1, timeout_s=1.0)
        assert time.monotonic() - began < 3.0


async def test_restarts_are_spaced_out(children: Path) -> None:
    async with started(children, "stillborn") as child:
        child.start()
        await until(lambda: child.restarts == 3)
        began = time.monotonic()
        await until(lambda: child.restarts == 4)
        assert time.monotonic() - began > 0.25  # 0.1, 0.2, 0.4, ... s
        assert child.last_error == "ended with 3"


async def test_what_is_done_on_start_is_done_before_any_call_and_again_after_each_restart(children: Path) -> None:
    greeted: list[int | None] = []

    async def greet(child: ChildProcess) -> None:
        assert await child.call_starting("echo", "hello", timeout_s=20) == "hello"
        assert not child.running
        greeted.append(child.pid)

    async with started(children, on_started=greet) as child:
        await child.call("echo", 1, timeout_s=20)
        with pytest.raises(ChildUnavailable):
            await child.call("die", 1, timeout_s=20)
        await child.call("echo", 2, timeout_s=20)
        assert len(set(greeted)) == 2
        assert greeted[-1] == child.pid


async def test_a_start_that_fails_is_tried_again_whatever_the_error(children: Path) -> None:
    errors: list[Exception] = [ValueError("unforeseen"), ChildUnavailable("foreseen")]

    async def fail_at_first(_: ChildProcess) -> None:
        if errors:
            raise errors.pop()

    async with started(children, on_started=fail_at_first) as child:
        assert await child.call("echo", 1, timeout_s=20) == 1
        assert child.restarts == 2


async def test_the_reason_tells_of_the_latest_end_alone_and_does_not_grow(
    children: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: ChildProcess) -> None:
        raise ChildUnavailable("no room")

    async with started(children, on_started=fail) as child:
        child.start()
        await until(lambda: child.restarts == 3)
        assert child.last_error == "no room (ended with -9)"
    monkeypatch.setattr("sys.executable", str(children / "nothing"))
    async with started(children) as child:
        child.start()
        await until(lambda: child.restarts == 3)
        assert child.last_error.count("No such file") == 1


async def test_a_child_that_dies_while_it_is_started_is_noticed_at_once(children: Path) -> None:
    deaths = iter([1])

    async def kill_it(child: ChildProcess) -> None:
        for code in deaths:
            await child.call_starting("die", code, timeout_s=60)

    async with started(children, on_started=kill_it) as child:
        assert await child.call("echo", 1, timeout_s=10) == 1


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\xc1\xc1", b"\x01\x00\x00\x00\x01"])
async def test_a_child_that_speaks_nonsense_is_replaced(children: Path, garbage: bytes) -> None:
    async with started(children) as child:
        with pytest.raises(ChildUnavailable):
            await child.call("garbage", garbage, timeout_s=20)
        assert await child.call("echo", 1, timeout_s=20) == 1
        assert child.restarts == 1


async def test_a_caller_that_goes_away_disturbs_nobody(children: Path) -> None:
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        leaving = asyncio.create_task(child.call("sleep", 0.1, timeout_s=20))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await child.call("echo", 2, timeout_s=20) == 2
        assert child.restarts == 0


async def test_cancelling_a_call_always_cancels_it(children: Path) -> None:
    """Also at the moment when the answer arrives: a call that swallowed it would leave its task running."""
    async with started(children) as child:

        async def ask_for_ever() -> None:
            while True:
                await child.call("echo", 1, timeout_s=20)

        for turns in range(60):
            asking = asyncio.create_task(ask_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            _, pending = await asyncio.wait([asking], timeout=10)
            assert not pending


async def test_what_cannot_be_sent_is_an_error_of_its_caller_alone(children: Path) -> None:
    async with started(children) as child:
        with pytest.raises(OverflowError):
            await child.call("echo", 2**70, timeout_s=20)
        with pytest.raises(TypeError):
            await child.call("echo", object(), timeout_s=20)
        assert await child.call("echo", 1, timeout_s=20) == 1


async def test_close_lets_the_child_end_well_and_refuses_whoever_waits(children: Path) -> None:
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        waiting = asyncio.create_task(child.call("sleep", 0.2, timeout_s=20))
        await asyncio.sleep(0.05)
    with pytest.raises(ChildUnavailable):
        await waiting
    assert (children / "ended well").exists()
    began = time.monotonic()
    with pytest.raises(ChildUnavailable):
        await child.call("echo", 1, timeout_s=20)
    assert time.monotonic() - began < 1


async def test_a_child_that_does_not_end_is_killed_at_close(
    children: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.child.CLOSE_GRACE_S", 0.2)
    async with started(children) as child:
        await child.call("echo", 1, timeout_s=20)
        process_id = child.pid
        waiting = asyncio.create_task(child.call("sleep", 600, timeout_s=20))
        await asyncio.sleep(0.05)
    with pytest.raises(ChildUnavailable):
        await waiting
    assert not Path(f"/proc/{process_id}").exists()


async def test_closing_before_the_child_is_up_refuses_its_callers_and_leaves_no_process(children: Path) -> None:
    for turns in range(12):
        child = ChildProcess("servant", "servant", [str(children)])
        waiting = asyncio.create_task(child.call("echo", 1, timeout_s=20))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        process_id = child.pid
        async with asyncio.timeout(10):
            await child.close()
        answer: Any = (await asyncio.gather(waiting, return_exceptions=True))[0]
        assert answer == 1 or isinstance(answer, ChildUnavailable)
        if process_id is not None:
            await until(lambda process_id=process_id: not Path(f"/proc/{process_id}").exists())


async def test_a_child_whose_descriptor_is_past_1023_serves(children: Path) -> None:
    """A busy daemon has as many connections; select() would refuse such a descriptor."""
    import resource  # noqa: PLC0415  only here

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("the limit on open files is too low to try")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        async with started(children) as child:
            assert await child.call("echo", 1, timeout_s=20) == 1
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_receive_with_a_timeout_comes_back_without_a_request(children: Path) -> None:
    async with started(children, "servant", "0.01") as child:
        await child.call("echo", 1, timeout_s=20)
        await until((children / "idle").exists)
        assert await child.call("echo", 2, timeout_s=20) == 2


def test_a_child_dies_with_its_daemon(children: Path) -> None:
    daemon = (
        "import asyncio, sys\n"
        "from nexusd.child import ChildProcess\n"
        "async def main():\n"
        "    child = ChildProcess('servant', 'servant', [sys.argv[1]])\n"
        "    await child.call('echo', 1, timeout_s=20)\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", daemon, str(children)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        process_id = next(int(line) for line in parent.stdout if line.strip().isdigit())
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process_id}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{process_id}").exists()


async def test_it_is_told_when_calls_are_taken_and_when_not_any_more(children: Path) -> None:
    told: list[bool] = []
    async with started(children, on_running=told.append) as child:
        await child.call("echo", 1, timeout_s=20)
        assert told == [True]
        with pytest.raises(ChildDied):
            await child.call("die", 7, timeout_s=20)
        await until(lambda: told == [True, False, True])
        assert await child.call("echo", 2, timeout_s=20) == 2
    assert told == [True, False, True]  # a close is no news to who closes


async def test_a_child_that_never_came_up_never_went_away(children: Path) -> None:
    async def cannot(child: ChildProcess) -> None:
        await child.call_starting("refuse", None, timeout_s=20)

    told: list[bool] = []
    async with started(children, on_started=cannot, on_running=told.append) as child:
        child.start()
        await until(lambda: child.restarts >= 2)
    assert told == []


async def test_a_call_in_the_very_moment_in_which_the_pipe_breaks_is_told_so(children: Path) -> None:
    async with started(children) as child:
        for turns in range(6):
            assert await child.call("echo", turns, timeout_s=20) == turns
            child._writer.transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                assert await child.call("echo", "again", timeout_s=20) == "again"
            except ChildUnavailable:
                continue
