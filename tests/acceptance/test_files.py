"""Files and the cache through a daemon's own socket: edited by hand, told by an event, there after a kill."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon


class Line:
    """One connection, a message a line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        self._socket.sendall(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
        )
        while "id" not in (message := json.loads(self._lines.readline())):
            self._events.append(message["params"])
        return message.get("result", message.get("error"))

    def event(self) -> dict[str, Any]:
        """The next event's data."""
        event = self._events.pop(0) if self._events else json.loads(self._lines.readline())["params"]
        data: dict[str, Any] = event["data"]
        return data

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", settings={"NEXUSD_FILES__POLL_INTERVAL_S": "0.1"}).start() as running:
        yield running


def test_an_edit_by_hand_is_told_and_served_and_a_broken_one_degrades_nothing(daemon: Daemon) -> None:
    line = Line(daemon.socket_path)
    line.call("events.subscribe", topics=["files"])
    path = daemon.data / "presets" / "Chef.yaml"
    path.write_text("temperature: 0.7\n")
    assert line.event() == {"kind": "preset", "name": "Chef", "change": "changed"}
    assert line.call("presets.get", name="Chef")["content"] == {"temperature": 0.7}
    path.write_text("temperature: [\n")
    while line.event()["change"] != "broken":
        continue
    served = line.call("presets.get", name="Chef")
    assert (served["content"], served["state"]) == ({"temperature": 0.7}, "broken")
    assert list(line.call("system.status")["files"]["broken"]) == ["presets/Chef.yaml"]
    assert "presets/Chef.yaml" in daemon.log_tail()
    assert not any("preset" in reason for reason in line.call("health")["reasons"])
    path.unlink()
    while line.event()["change"] != "removed":
        continue
    assert line.call("presets.get", name="Chef")["data"]["kind"] == "not_found"
    line.close()


def test_a_kill_takes_the_cache_and_nothing_that_was_acknowledged(daemon: Daemon) -> None:
    line = Line(daemon.socket_path)
    for n in range(20):
        assert line.call("presets.put", name=f"p{n}", content={"n": n})["content"] == {"n": n}
        assert line.call("tools.put", name=f"t{n}", source=f"{n}")["state"] == "ok"
        assert line.call("mcpServers.put", name=f"s{n}", config={"url": f"{n}"}) == {"name": f"s{n}", "kind": "url"}
    line.call("cache.set", key="k", value=1)
    assert line.call("cache.get", key="k")["value"] == 1
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    line.close()
    daemon.start()
    line = Line(daemon.socket_path)
    assert line.call("cache.get", key="k") == {"found": False, "value": None, "expiresInMs": None}
    assert len(line.call("presets.list")["items"]) == 20
    assert len(line.call("tools.list")["items"]) == 20
    assert [line.call("mcpServers.get", name=f"s{n}")["config"] for n in range(20)] == [
        {"url": f"{n}"} for n in range(20)
    ]
    assert line.call("presets.get", name="p7")["content"] == {"n": 7}
    line.close()
