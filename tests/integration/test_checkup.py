"""system.check over the whole daemon: each fault is told in its own line with what to do, and spoils no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.whole_daemon import WalkingClock, WholeDaemon, whole_daemon

from nexusd import checkup
from nexusd.store.connection import Connection

pytestmark = pytest.mark.anyio

NAMES = [
    "settings", "permissions", "disk", "database", "full text", "index", "embedder", "outbox", "files", "backups",
    "replication", "clock", "memory", "tasks",
]  # fmt: skip
Fault = Callable[["House"], Awaitable[None]]


class House:
    """A daemon, and what it stands on, to be spoilt."""

    def __init__(self, daemon: WholeDaemon, embedder: FakeEmbedder, index: FakeIndex, clock: WalkingClock) -> None:
        self.daemon, self.embedder, self.index, self.clock = daemon, embedder, index, clock

    async def checks(self, **params: Any) -> dict[str, dict[str, Any]]:
        found = (await self.daemon.get("system.check", **params))["checks"]
        assert [one["check"] for one in found] == NAMES
        assert all(bool(one["advice"]) == (one["state"] != "ok") for one in found)
        return {one["check"]: one for one in found}

    async def remember(self, text: str) -> int:
        session = await self.daemon.get("sessions.create", externalId=text)
        row = await self.daemon.get("episodes.create", sessionId=session["id"], userMessage=text, aiResponse="")
        return int(row["id"])

    async def change(self, sql: str) -> None:
        def run(db: Connection) -> None:
            db.execute(sql)

        await self.daemon.store.write(run)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    embedder, index, clock = FakeEmbedder(), FakeIndex(), WalkingClock()
    async with whole_daemon(tmp_path / "data", embedder=embedder, index=index, clock=clock) as daemon:
        (tmp_path / "data").chmod(0o700)
        (tmp_path / "data" / "nexusd.sock").touch(mode=0o600)   # no listener here
        await daemon.drained()
        yield House(daemon, embedder, index, clock)


async def test_a_daemon_that_is_well_says_so_of_every_part(house: House) -> None:
    found = await house.checks()
    assert {name: one["says"] for name, one in found.items() if one["state"] != "ok"} == {}
    await house.remember("tea")
    await house.daemon.drained()
    found = await house.checks(thorough=True)
    assert {name: one["says"] for name, one in found.items() if one["state"] != "ok"} == {}


async def test_backups_are_told_with_what_to_do_about_them(house: House) -> None:
    assert (await house.checks())["backups"]["says"] == "there is none yet"
    await house.daemon.get("backup.create")
    assert (await house.checks())["backups"]["says"].endswith("the newest 0 s old")
    directory = Path((await house.daemon.get("backup.status"))["directory"])
    [tar] = directory.iterdir()
    tar.write_bytes(tar.read_bytes()[:-2000])     # cut short: it is none any more
    assert (await house.checks())["backups"]["says"] == "there is none yet"


async def damage_the_words(house: House) -> None:
    await house.change("UPDATE episodes_fts_data SET block = zeroblob(9) WHERE id > 10")


async def lose_the_words(house: House) -> None:
    await house.change("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')")


async def lose_the_embedder(house: House) -> None:
    house.embedder.unavailable = "it went home"


async def lose_the_index(house: House) -> None:
    house.index.down = True


async def poison(house: House) -> None:
    house.embedder.rejected.add("User: poison\nAssistant: ")
    await house.remember("poison")
    await house.daemon.drained()


async def set_the_clock_back(house: House) -> None:
    house.clock._now_ms -= 3_600_000


@pytest.mark.parametrize(
    ("fault", "check", "state", "says", "advice"),
    [
        (damage_the_words, "full text", "problem", "that of episodes is damaged", "nexusctl index repair"),
        (lose_the_words, "full text", "problem", "it lacks 1 row of episodes", "nexusctl index repair"),
        (lose_the_embedder, "embedder", "problem", "it went home", "tried again by itself"),
        (lose_the_embedder, "embedder", "problem", "it went home", "Another model is configured"),  # it is no fake
        (lose_the_index, "index", "problem", "does not answer", "tried again by itself"),
        (poison, "outbox", "warning", "1 row cannot be indexed", "nexusctl outbox list --state dead"),
        (set_the_clock_back, "clock", "warning", "60 min behind the newest row", "timedatectl"),
    ],
)  # fmt: skip
async def test_a_fault_is_told_in_its_line_and_in_no_other(
    house: House, fault: Fault, check: str, state: str, says: str, advice: str
) -> None:
    await house.remember("tea")
    await house.daemon.drained()
    before = await house.checks()
    await fault(house)
    found = await house.checks()
    assert (found[check]["state"], says in found[check]["says"]) == (state, True), found[check]
    assert advice in found[check]["advice"]
    others = {name: one["state"] for name, one in found.items() if name != check}
    assert others == {name: one["state"] for name, one in before.items() if name != check}
    health = await house.daemon.get("health")
    if health["status"] != "ok":  # what health calls degraded is never well here
        assert {one["state"] for one in found.values()} & {"warning", "problem"}


async def test_a_reference_that_leads_nowhere_is_found(house: House) -> None:
    other = apsw.Connection(str(house.daemon.store.path))   # a visitor that enforces nothing
    other.execute("INSERT INTO relationships (from_id, to_id, label, created_at, updated_at) VALUES (8, 9, 'x', 1, 1)")
    other.close()
    found = (await house.checks())["database"]
    assert (found["state"], found["says"].count("refers to no row of entities")) == ("problem", 2)
    assert ".recover" in found["advice"]


async def test_a_preset_that_is_broken_is_told(house: House, tmp_path: Path) -> None:
    (tmp_path / "data" / "presets").mkdir(exist_ok=True)
    (tmp_path / "data" / "presets" / "Chef.yaml").write_text("prompt: [\n")
    await house.daemon.files.scan()
    found = (await house.checks())["files"]
    assert (found["state"], found["says"].startswith("presets/Chef.yaml: ")) == ("warning", True)


async def test_a_model_that_hangs_is_told_when_its_time_is_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PROBE_TIMEOUT_S", 0.05)
    house.embedder.gate = asyncio.Event()
    found = await house.checks()
    assert (found["embedder"]["state"], found["index"]["state"]) == ("warning", "ok")
    assert "not looked at to its end" in found["embedder"]["says"]


async def test_a_check_that_fails_spoils_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checkup, "check_memory", breaks)
    found = await house.checks()
    assert found["memory"]["says"] == "could not be looked at: ZeroDivisionError"
    assert found["clock"]["state"] == "ok"


async def test_a_large_database_is_read_only_when_that_is_asked_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.remember("tea")
    await damage_the_words(house)
    monkeypatch.setattr(checkup, "MAX_READ_BYTES", 1)
    found = await house.checks()
    assert "--thorough" in found["database"]["says"]
    assert found["full text"]["state"] == "ok"      # every row has its entry; the rest was not read
    assert (await house.checks(thorough=True))["full text"]["state"] == "problem"


async def test_the_embedder_is_really_asked_each_time(house: House) -> None:
    await house.checks()
    await house.checks()
    assert len(house.embedder.query_calls) == 2


async def test_a_comparison_says_whether_anything_is_left_to_do(house: House) -> None:
    row_id = await house.remember("tea")
    await house.daemon.drained()
    verifying = asyncio.create_task(house.daemon._app.verifier.run())
    target = house.daemon.collections.physical("episodes")
    await house.index.delete(target, [row_id])
    await house.daemon.get("index.verify")
    one = (await house.checks())["index"]
    assert (one["state"], one["advice"]) == ("problem", "nexusctl index repair")
    await house.daemon.get("index.repair")
    await house.daemon.drained()
    one = (await house.checks())["index"]
    assert one["state"] == "ok"
    assert one["says"].endswith("ago, and what differed was mended")
    house.index.down = True
    assert (await house.daemon.get("index.verify"))["state"] == "failed"
    house.index.down = False
    one = (await house.checks())["index"]
    assert (one["state"], one["advice"]) == ("warning", "nexusctl index verify")
    assert "the last comparison broke off: down" in one["says"]
    verifying.cancel()
    await asyncio.wait({verifying})
