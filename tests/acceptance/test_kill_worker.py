"""kill -9 at every step of a delivery: after the next start the index holds exactly the rows, versions included."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import apsw
import pytest
from harness.daemon import Daemon
from harness.parity import assert_store_is_sound

from nexusd.client import Client, ClientError, Retry
from nexusd.sync import worker

DRIVER = Path(__file__).parent.parent / "harness" / "killing_daemon.py"
STEPS = (
    "claimed", "read", "embedded", "vectors_saved", "upserted", "deleted", "finished", "finished_without_point",
    "released", "given_back", "postponed", "buried",
)  # fmt: skip
TABLES = ("episodes", "entities", "summaries", "messages", "vectors")
SETTINGS = {
    "NEXUSD_OUTBOX__BATCH_SIZE": "4",  # several claims
    "NEXUSD_OUTBOX__MAX_ATTEMPTS": "2",
    "NEXUSD_OUTBOX__MAX_BACKOFF_S": "0.2",
    "NEXUSD_OUTBOX__DRAIN_TIMEOUT_S": "0",
}


def test_the_steps_are_those_that_the_worker_names() -> None:
    told = re.search(r"Steps that `reached` is told[^:]*: (.*?)\.\n", worker.__doc__ or "", re.DOTALL)
    assert told is not None
    assert set(re.findall(r"[a-z_]+", told[1])) >= set(STEPS)
    assert set(re.findall(r'_reached\("([a-z_]+)"\)', _source())) == set(STEPS)


def _source() -> str:
    folder = Path(worker.__file__ or "").parent
    return "".join((folder / name).read_text() for name in ("worker.py", "preparing.py", "sending.py", "setbacks.py"))


@pytest.mark.timeout(300)
def test_the_daemon_killed_at_every_step_of_a_delivery_agrees_with_itself_after_the_next_start(tmp_path: Path) -> None:
    alike = {"read", "embedded"}  # what is on disk then is what is there at `claimed`; the long form has them too
    _campaign(tmp_path, [step for step in STEPS if step not in alike], seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_daemon_killed_at_every_step_again_and_again(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    steps = list(STEPS) * 20
    random.Random(seed).shuffle(steps)
    _campaign(tmp_path, steps, seed=seed)


def _campaign(tmp_path: Path, steps: list[str], *, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    daemon = Daemon(tmp_path / "data", settings=SETTINGS, program=[str(DRIVER)])
    kill_at = daemon.data / "kill-at"
    kill_at.write_text("armed, for the faults of the embedder alone")
    with daemon.start():
        with Client(daemon.socket_path) as client:
            client.call("sessions.create", externalId="s")
            client.call("conversations.create")
        for step in steps:
            kill_at.write_text(step)
            _change_until_killed(daemon, chance, step)
            kill_at.unlink()
            daemon.start()
            _assert_agreement(daemon, f"after {step}, seed {seed}")
        assert daemon.terminate() == 0
    assert_store_is_sound(daemon.data)


def _change_until_killed(daemon: Daemon, chance: random.Random, step: str) -> None:
    """Some steps come where changes and claims meet in a certain way: then more changes are made."""
    assert daemon.process is not None
    for _ in range(6):
        _change_much(daemon, chance)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert daemon.process.wait(10) == -signal.SIGKILL
            return
    pytest.fail(f"it never came to {step}")


def _change_much(daemon: Daemon, chance: random.Random) -> None:
    """Changes of every kind, until the daemon is gone; some of the texts are more than the embedder can take."""
    with Client(daemon.socket_path, retry=Retry(tries=1)) as client:
        try:
            for word in ("tea", "poison", "deadly"):
                texts = [f"{word} {chance.random()}" for _ in range(8 if word == "tea" else 1)]
                client.call("episodes.createMany", items=[
                    {"sessionId": 1, "userMessage": text, "aiResponse": "ok"} for text in texts
                ])
            client.call("messages.create", conversationId=1, role="user", content=" ")
            client.call("entities.upsert", name=f"person {chance.randrange(10)}", type="person", metadata={
                "seen": chance.random(),
            })
            client.call("vectors.store", id=chance.randrange(10), text=f"text {chance.random()}")
            rows = client.call("episodes.list", sessionId=1, limit=500)["items"]
            for row in chance.sample(rows, min(4, len(rows))):
                client.call("episodes.update", id=row["id"], userMessage=f"changed {chance.random()}")
            for row in chance.sample(rows, min(4, len(rows))):
                client.call("episodes.delete", id=row["id"])
            client.call("outbox.wait", timeoutMs=20_000)
        except ClientError:
            return


def _assert_agreement(daemon: Daemon, when: str) -> None:
    """What the index holds, as the daemon tells when it rests, is what the rows say."""
    with Client(daemon.socket_path, timeout_s=60) as client:
        assert client.call("outbox.wait", timeoutMs=30_000)["pending"] == 0, when
        client.call("outbox.retry", seqs=[])  # what was buried goes through now
        assert client.call("outbox.wait", timeoutMs=30_000)["done"], when
    deadline = time.monotonic() + 10
    while (held := _held(daemon.data)) != (rows := _rows(daemon.data)):
        assert time.monotonic() < deadline, (when, held, rows)
        time.sleep(0.01)


def _held(data: Path) -> dict[str, dict[str, int]]:
    try:
        found: dict[str, dict[str, int]] = json.loads((data / "held.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _rows(data: Path) -> dict[str, dict[str, int]]:
    """The rows that the index is to hold; another process may read beside the daemon."""
    db = apsw.Connection(str(data / "nexus.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found: dict[str, dict[str, int]] = {}
        for table in TABLES:
            sql = f"""
            SELECT CAST(id AS TEXT), version FROM {table}
            WHERE id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?)"""
            rows: Any = db.execute(sql, (table,))
            found[table] = dict(rows)
        return found
    finally:
        db.close()
