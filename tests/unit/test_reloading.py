"""New settings while the daemon runs: every part takes them, or none does."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import ManualClock
from structlog.testing import capture_logs

from nexusd.config import Settings, load_settings
from nexusd.config_changes import is_under
from nexusd.config_reading import all_keys
from nexusd.config_sections import (
    CacheConfig,
    Config,
    FilesConfig,
    LimitsConfig,
    LogConfig,
    OutboxConfig,
    ServerConfig,
    StorageConfig,
    TcpConfig,
)
from nexusd.errors import BadContent
from nexusd.lifecycle import Notifier, StopSignal, Supervisor
from nexusd.log import LogControl
from nexusd.parts import Parts
from nexusd.reloading import Reloader, Taker

pytestmark = pytest.mark.anyio
PROJECT = Path(__file__).parents[2]


class Part:
    """Takes settings, and remembers them; fails if it is told to."""

    def __init__(self, journey: list[str], name: str) -> None:
        self.config = Config()
        self.fails = 0
        self._journey = journey
        self._name = name

    def take(self, config: Config) -> None:
        self._journey.append(self._name)
        if self.fails:
            self.fails -= 1
            raise RuntimeError(f"{self._name} is stuck")
        self.config = config


class House:
    """A reloader with three parts and a settings file."""

    def __init__(self, directory: Path, notify_socket: str | None = None) -> None:
        self.file = directory / "config.yaml"
        self.file.write_text("{}\n")
        self.journey: list[str] = []
        self.log, self.limits, self.cache = (Part(self.journey, name) for name in ("log", "limits", "cache"))
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.looks_at_files = 0
        self.loads = 0
        self.hold = threading.Event()   # reading the file waits for it
        self.hold.set()
        self.notifier = Notifier(notify_socket)
        self.reloader = Reloader(
            self.load(), self.load,
            [
                Taker(["log.level"], self.log.take),
                Taker(["server.limits"], self.limits.take),
                Taker(["cache"], self.cache.take),
            ],
            notifier=self.notifier, status_line=lambda: "ready",
            publish=lambda topic, data: self.events.append((topic, data)), look_at_files=self.look_at_files,
        )  # fmt: skip

    def load(self) -> Settings:
        assert self.hold.wait(20)
        self.loads += 1
        return load_settings(config=self.file, data=self.file.parent, environ={})

    async def look_at_files(self) -> None:
        self.looks_at_files += 1


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


GOOD = "log: {level: debug}\ncache: {ttlMs: 5}\nserver: {limits: {maxBatch: 7}, tcp: {port: 1234}}\n"


async def test_the_parts_that_are_concerned_take_what_changed_and_the_rest_is_named(house: House) -> None:
    house.file.write_text("log: {level: debug}\nserver: {tcp: {port: 1234}}\nstorage: {readers: 2}\n")
    done = await house.reloader.reload()
    assert (done.changed, done.needs_restart) == (["log.level"], ["server.tcp.port", "storage.readers"])
    assert house.journey == ["log"]
    assert house.log.config.log.level == "debug"
    held = house.reloader.settings.config
    assert (held.log.level, held.server.tcp.port, held.storage.readers) == ("debug", 3002, 4)
    assert house.events == [("system", {"state": "reloaded", "changed": ["log.level"]})]
    assert house.looks_at_files == 1


async def test_what_needs_a_restart_is_named_each_time_until_it_is_taken_back(house: House) -> None:
    house.file.write_text("server: {tcp: {port: 1234}}\n")
    for _ in range(2):
        assert (await house.reloader.reload()).needs_restart == ["server.tcp.port"]
    assert house.reloader.status().needs_restart == ["server.tcp.port"]
    house.file.write_text("{}\n")
    assert (await house.reloader.reload()).needs_restart == []


async def test_the_same_file_again_changes_nothing(house: House) -> None:
    house.file.write_text(GOOD)
    await house.reloader.reload()
    done = await house.reloader.reload()
    assert done.changed == []
    assert house.journey == ["log", "limits", "cache"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("log: {level: debug}\ncache: {ttlMs: -1}\n", "config.yaml:2: cache.ttlMs: found -1"),
        ("log: {level: debug}\nlimits: {}\n", "config.yaml:2: limits: no such setting"),
        ("log: [", "config.yaml:1: not valid YAML"),
    ],
)
async def test_a_file_with_anything_wrong_changes_nothing_and_says_what_and_where(
    house: House, text: str, told: str
) -> None:
    house.file.write_text(text)
    with capture_logs() as entries, pytest.raises(BadContent) as caught:
        await house.reloader.reload()
    assert told in caught.value.message
    assert house.journey == []
    assert house.reloader.settings.config == Config()
    assert [(entry["event"], entry["log_level"]) for entry in entries] == [
        ("settings refused; the old ones hold", "error")
    ]
    assert told in entries[0]["problems"]
    status = house.reloader.status()
    assert (status.reloads, status.refused) == (0, 1)
    assert told in (status.refusal or "")
    assert house.events == []
    house.file.write_text("{}\n")
    await house.reloader.reload()
    assert house.reloader.status().refusal is None


async def test_a_file_that_is_gone_is_refused_and_not_taken_for_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text("log: {level: error}\n")

    def load() -> Settings:
        return load_settings(config=None, data=tmp_path, environ={})

    reloader = Reloader(
        load(), load, [Taker(["log.level"], lambda _: pytest.fail("it changes nothing"))], notifier=Notifier(None),
        status_line=str, publish=lambda _topic, _data: None, look_at_files=lambda: asyncio.sleep(0),
    )  # fmt: skip
    file.rename(tmp_path / "elsewhere.yaml")
    with pytest.raises(BadContent, match="is gone"):
        await reloader.reload()
    assert reloader.settings.config.log.level == "error"


@pytest.mark.parametrize("stuck", ["log", "limits", "cache"])
async def test_if_one_part_cannot_take_them_all_others_go_back(house: House, stuck: str) -> None:
    house.file.write_text(GOOD)
    part: Part = getattr(house, stuck)
    part.fails = 1
    with pytest.raises(RuntimeError, match=f"{stuck} is stuck"):
        await house.reloader.reload()
    assert [one.config for one in (house.log, house.limits, house.cache)] == [Config()] * 3
    assert house.reloader.settings.config == Config()
    assert house.reloader.status().refusal == f"RuntimeError: {stuck} is stuck"
    assert (await house.reloader.reload()).changed == ["server.limits.maxBatch", "cache.ttlMs", "log.level"]


async def test_a_part_that_cannot_even_go_back_keeps_no_other_from_it(house: House) -> None:
    house.file.write_text(GOOD)
    house.limits.fails = 2
    with capture_logs() as entries, pytest.raises(RuntimeError):
        await house.reloader.reload()
    assert house.journey == ["log", "limits", "limits", "log"]
    assert house.log.config == Config()
    assert "a part does not go back to the settings that hold" in {entry["event"] for entry in entries}


async def test_all_parts_change_in_one_turn_of_the_loop(house: House) -> None:
    house.file.write_text(GOOD)
    turns: list[int] = []
    loop = asyncio.get_running_loop()

    def look() -> None:
        turns.append(sum(one.config != Config() for one in (house.log, house.limits, house.cache)))
        if turns[-1] < 3:
            loop.call_soon(look)

    look()
    await house.reloader.reload()
    while turns[-1] < 3:
        await asyncio.sleep(0)
    assert set(turns) == {0, 3}


async def test_the_loop_turns_while_the_file_is_read(house: House) -> None:
    house.hold.clear()
    reload = asyncio.create_task(house.reloader.reload())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not reload.done()
    house.hold.set()
    await reload


async def test_reloads_come_one_after_the_other_and_the_last_sees_the_last_file(house: House) -> None:
    house.hold.clear()
    first = asyncio.create_task(house.reloader.reload())
    await asyncio.sleep(0)
    house.file.write_text("log: {level: error}\n")
    second = asyncio.create_task(house.reloader.reload())
    house.hold.set()
    await asyncio.gather(first, second)
    assert house.reloader.settings.config.log.level == "error"
    assert house.loads == 3     # the start, and two


async def test_many_signals_are_few_reloads_and_a_refusal_ends_nothing(house: House) -> None:
    supervisor = Supervisor(StopSignal(), ManualClock(), chance=random.Random(1))
    supervisor.start("reload", house.reloader.run)
    house.file.write_text("nonsense: 1\n")
    for _ in range(1000):
        house.reloader.request()
    while not house.reloader.status().refused:
        await asyncio.sleep(0)
    house.file.write_text("log: {level: debug}\n")
    house.reloader.request()
    while house.log.config.log.level != "debug":
        await asyncio.sleep(0)
    assert house.loads <= 4
    [state] = supervisor.states()
    assert (state.state, state.restarts) == ("running", 0)
    await supervisor.close()


# --- the daemon's own parts ------------------------------------------------------------------------------


@pytest.fixture
async def app(tmp_path: Path) -> Parts:
    settings = load_settings(config=None, data=tmp_path, environ={})
    return Parts(settings, lambda: settings, LogControl())


async def test_the_settings_file_says_what_is_taken_without_a_restart(app: Parts) -> None:
    text = (PROJECT / "config.yaml").read_text().replace("\n# ", " ")
    [listed] = re.findall(r"Taken without a restart, by `nexusctl reload` or SIGHUP: ([\w., ]+)\.\n", text)
    assert set(listed.split(", ")) == set(app.reloader.changeable)


async def test_every_setting_that_is_taken_without_a_restart_is_one(app: Parts) -> None:
    names = [key.name for key in all_keys(Config)]
    assert [one for one in app.reloader.changeable if not any(is_under(name, [one]) for name in names)] == []


async def test_every_part_of_the_daemon_takes_its_settings_as_they_are_and_as_they_were(app: Parts) -> None:
    new = Config(
        log=LogConfig(level="debug", slow_request_ms=5), cache=CacheConfig(max_entries=5),
        outbox=OutboxConfig(batch_size=5, max_backoff_s=5), files=FilesConfig(poll_interval_s=5),
        storage=StorageConfig(max_queued_writes=5, read_timeout_s=5),
        server=ServerConfig(limits=LimitsConfig(max_depth=5), tcp=TcpConfig(host_names="mini"), drain_timeout_s=5),
    )  # fmt: skip
    level = logging.getLogger().level
    try:
        for config in (new, Config()):
            for taker in app.reloader._takers:
                taker.take(config)
            assert app.dispatcher._limits == app.server._limits == config.server.limits
            assert app.dispatcher.slow_s == config.log.slow_request_ms / 1000
            assert app.worker._config == app.reembedding._config == config.outbox
            assert app.cache.stats().max_entries == config.cache.max_entries
            assert app.files._interval_s == config.files.poll_interval_s
            assert app.store._config == config.storage
    finally:
        logging.getLogger().setLevel(level)


# --- what systemd is told ---------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("text", ["log: {level: debug}\n", "nonsense: 1\n"])
async def test_systemd_is_told_when_it_begins_and_that_it_is_over_however_it_ended(
    tmp_path: Path, manager: socket.socket, text: str
) -> None:
    house = House(tmp_path, manager.getsockname())
    house.file.write_text(text)
    await asyncio.gather(house.reloader.reload(), return_exceptions=True)
    first, second, third = (manager.recv(4096) for _ in range(3))
    assert first.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert (second, third) == (b"READY=1", b"STATUS=ready")
    house.notifier.close()
