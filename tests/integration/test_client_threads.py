"""The blocking client shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.scripted_daemon import ScriptedDaemon, held, stays_silent

from nexusd.client import Client, ClientClosed, DeadlineExceeded, Notification


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        yield daemon


def test_threads_share_a_client_and_each_gets_its_own_reply(daemon: ScriptedDaemon) -> None:
    with Client(daemon.address) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: client.call("echo", n=n), range(200)))
    assert answers == [{"n": n} for n in range(200)]
    assert daemon.connections == 1


def test_close_wakes_the_thread_that_waits_for_a_reply(daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [stays_silent]
    client = Client(daemon.address)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.call, "echo")
        daemon.wait_for("echo")
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(10)


def test_waiting_for_another_threads_call_counts_against_the_deadline(daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [held]
    with Client(daemon.address) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.call, "echo", n=1)
        daemon.wait_for("echo")
        with pytest.raises(DeadlineExceeded):
            client.call("echo", n=2, timeout_s=0.05)
        daemon.release()
        assert first.result(10) == {"n": 1}
    assert len(daemon.calls("echo")) == 1


def test_interrupted_call_takes_its_connection_with_it(daemon: ScriptedDaemon) -> None:
    def interrupt(_note: Notification) -> None:
        raise KeyboardInterrupt

    daemon.acts["echo"] = [held]
    with Client(daemon.address, on_notification=interrupt) as client:
        client.call("health")
        noticed = threading.Thread(target=lambda: (daemon.wait_for("echo"), daemon.notify("event", {})))
        noticed.start()
        with pytest.raises(KeyboardInterrupt):
            client.call("echo", n=1)
        noticed.join(10)
        daemon.release()
        assert client.call("echo", n=2) == {"n": 2}
    assert daemon.connections == 2
