"""kill -9 in the middle of writing: everything that was acknowledged is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness.database import open_database

from nexusd.store.episodes import select_episode
from nexusd.store.integrity import check_integrity

pytestmark = pytest.mark.anyio

# Writes from many callers, and says each id as soon as it is acknowledged.
WRITER = textwrap.dedent("""
    import asyncio, os, sys
    from pathlib import Path
    from nexusd.clock import SystemClock
    from nexusd.config_sections import StorageConfig
    from nexusd.model.episodes import CreateEpisode
    from nexusd.model.sessions import CreateSession
    from nexusd.store.database import Database
    from nexusd.store.episodes import insert_episode
    from nexusd.store.idempotency import Receipt
    from nexusd.store.sessions import insert_session

    async def main():
        database = Database(Path(sys.argv[1]), StorageConfig(), SystemClock(), on_fatal=print)
        await database.open()
        session = await database.write(insert_session, CreateSession(external_id=str(os.getpid())), 1)
        async def call(n):
            i = 0
            while True:
                text = f"caller{n} says {i}"
                new = CreateEpisode(session_id=session.id, user_message=text, ai_response="yes " * 50)
                receipt = Receipt(f"{os.getpid()}-{n}-{i}", "uid:1", "m", b"h") if n % 2 else None
                row = await database.write_once(receipt, insert_episode, new, 1)
                os.write(1, f"{row.id} {text}\\n".encode())
                i += 1
        await asyncio.gather(*(call(n) for n in range(16)))

    asyncio.run(main())
""")


async def check_after_kill(path: Path, acknowledged: dict[int, str]) -> None:
    async with open_database(path) as database:
        for row_id, text in acknowledged.items():
            assert database.peek(select_episode, row_id).user_message == text
        assert await database.write(check_integrity) == []
        counts = "SELECT count(*), (SELECT count(*) FROM outbox), max(id) FROM episodes"
        rows, owed, last = await database.read(lambda db: db.execute(counts).fetchall()[0])
        assert rows == owed
        assert rows >= len(acknowledged)
        assert last == rows


def run_and_kill(path: Path, lines: int) -> dict[int, str]:
    """Let it acknowledge so many writes, kill it without warning, and read the rest of what it had said."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    whole = [line.decode().rstrip("\n").split(" ", 1) for line in said if line.endswith(b"\n")]
    return {int(row_id): text for row_id, text in whole}


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
async def test_killed_at_any_moment_every_acknowledged_write_is_there(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(11)
    path = tmp_path / "nexus.db"
    acknowledged: dict[int, str] = {}
    for _ in range(rounds):
        acknowledged |= run_and_kill(path, chance.randrange(1, 2000))
        await check_after_kill(path, acknowledged)
    assert len(acknowledged) > rounds
