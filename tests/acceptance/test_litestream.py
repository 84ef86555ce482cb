"""Replication by the real Litestream: the machine's disk dies, and the memories come back as of any moment.

A daemon with the documented settings, clients that write, Litestream with the settings that the project ships. Then
daemon and Litestream are killed and the data directory is deleted.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from fakes.s3_server import S3Server
from harness.daemon import Daemon
from harness.database import open_database
from harness.litestream import NOT_THERE, PROGRAM, Litestream, example

from nexusd.client import Client, ClientError, Retry
from nexusd.store.connection import Connection
from nexusd.store.integrity import check_references, check_table, count_full_text, table_names
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.writer import IDLE_TURN_S

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=NOT_THERE)

CLIENTS = 3
# Between an acknowledgement and the replica: 0.1 s until Litestream looks, 0.1 s until it sends, and a busy machine.
LOST_AT_MOST_S = 3.0


def until(met: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `met` answers in the end; Litestream is another process, so nothing can tell us."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


class Writers:
    """Clients that write one exchange after the other, and know when which was asked for and acknowledged."""

    def __init__(self, daemon: Daemon, session: int) -> None:
        self._daemon, self._session = daemon, session
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(CLIENTS)]
        self.rows: dict[str, tuple[datetime, datetime]] = {}

    def _write(self, number: int) -> None:
        link = Client(self._daemon.socket_path, retry=Retry(tries=1))
        with contextlib.suppress(ClientError), link as client:  # until the daemon is killed
            for count in range(1_000_000):
                text, asked = f"writer {number} said {count}", datetime.now(UTC)
                client.call("episodes.create", sessionId=self._session, userMessage=text, aiResponse="")
                self.rows[text] = asked, datetime.now(UTC)
                if self._ended.wait(0.005):
                    return

    def more(self, number: int) -> None:
        """Return when so many more rows were acknowledged."""
        wanted = len(self.rows) + number
        until(lambda: len(self.rows) >= wanted)

    def acknowledged_by(self, moment: datetime) -> set[str]:
        return {text for text, (_, acknowledged) in self.rows.items() if acknowledged <= moment}

    def asked_after(self, moment: datetime) -> set[str]:
        return {text for text, (asked, _) in self.rows.items() if asked > moment}

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def embedder() -> Iterator[EmbeddingServer]:
    with InThread(EmbeddingServer()) as server:
        yield server


def make_daemon(data: Path, embedder: EmbeddingServer, **more: str) -> Daemon:
    settings = {"EMBEDDING_SERVICE_URL": embedder.url, "NEXUSD_EMBEDDING__DIMENSION": str(embedder.dimension)}
    return Daemon(data, settings={**settings, "NEXUSD_STORAGE__CHECKPOINTS": "litestream", **more})


@pytest.fixture(params=["directory", "s3"])
def litestream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Litestream]:
    """Of a database that is not there yet; not started."""
    database = tmp_path / "data" / "nexus.db"
    (tmp_path / "elsewhere").mkdir()
    with contextlib.ExitStack() as stack:
        if request.param == "s3":
            server = stack.enter_context(S3Server())
            settings = example("s3", database, endpoint=server.url)
        else:
            settings = example("directory", database, path=str(tmp_path / "elsewhere" / "replica"))
        with contextlib.closing(_Killed(Litestream(tmp_path / "elsewhere", settings))) as killed:
            yield killed.litestream
        if request.param == "s3":
            assert {"put", "list", "get", "head"} <= set(server.asked)


class _Killed:
    """Ends it with the test."""

    def __init__(self, litestream: Litestream) -> None:
        self.litestream = litestream

    def close(self) -> None:
        self.litestream.__exit__(None, None, None)


def said_in(db: Connection) -> set[str]:
    return {text for (text,) in db.execute("SELECT user_message FROM episodes")}


async def whole(path: Path) -> set[str]:
    """Open it as a daemon would; what was said, after every check that the store has for itself."""
    async with open_database(path) as store:
        assert await store.read(check_references) == []
        for table in await store.read(table_names):
            assert await store.read(check_table, table) == []
        for text in TEXT_TABLES.values():
            assert await store.read(count_full_text, text.name) == (0, 0)
        assert await store.read(lambda db: db.execute("PRAGMA integrity_check").get) == "ok"
        return await store.read(said_in)


def replication(client: Client) -> str:
    """What the doctor says of it."""
    return next(str(one["state"]) for one in client.call("system.check")["checks"] if one["check"] == "replication")


@pytest.mark.anyio
async def test_after_the_disk_died_the_memories_come_back_as_of_any_moment(
    tmp_path: Path, embedder: EmbeddingServer, litestream: Litestream
) -> None:
    data = tmp_path / "data"
    with make_daemon(data, embedder).start() as daemon, Client(daemon.socket_path, timeout_s=60) as client:
        session: int = client.call("sessions.create", externalId="kitchen")["id"]
        with litestream, Writers(daemon, session) as writers:
            until(lambda: litestream.listening)
            writers.more(100)
            before = litestream.sync()
            assert replication(client) == "ok"
            writers.more(20)
            marked = client.call("episodes.create", sessionId=session, userMessage="marked", aiResponse="")["id"]
            between = litestream.sync()
            client.call("episodes.delete", id=marked)
            litestream.sync()
            writers.more(100)
            died = datetime.now(UTC)
            daemon.kill()
            litestream.kill()
    shutil.rmtree(data)

    for (asked, moment), database in ((before, tmp_path / "before.db"), (between, data / "nexus.db")):
        litestream.restore(database, moment)
        said = await whole(database)
        assert writers.acknowledged_by(asked) <= said, "acknowledged before, and lost"
        assert not writers.asked_after(moment) & said, "from after that moment"
        assert ("marked" in said) is (moment == between[1])
    litestream.restore(tmp_path / "last.db")
    last = await whole(tmp_path / "last.db")
    assert "marked" not in last, "it was deleted then"
    lost = writers.acknowledged_by(died) - last
    late = [writers.rows[text][1] for text in lost]
    assert all((died - acknowledged).total_seconds() < LOST_AT_MOST_S for acknowledged in late), len(lost)

    with make_daemon(data, embedder).start() as daemon, Client(daemon.socket_path) as client:
        client.call("outbox.wait", timeoutMs=60_000)
        best = client.call("memory.search", query="marked", mode="semantic", collections=["episodes"])["items"][0]
        assert best["record"]["userMessage"] == "marked"
        assert client.call("index.verify", timeoutMs=60_000)["agrees"] is True


@pytest.mark.long   # what it rests on is in test_store_database.py
def test_a_pause_of_either_program_costs_no_copy_of_everything(tmp_path: Path, embedder: EmbeddingServer) -> None:
    """What the setting is for: after our own checkpoint it has to copy the whole database anew."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = example("directory", data / "nexus.db", path=str(elsewhere / "replica"))
    copies = elsewhere / "replica" / "ltx" / "0"

    def largest_since(known: set[Path]) -> int:
        return max(path.stat().st_size for path in set(copies.iterdir()) - known)

    daemon = make_daemon(data, embedder)
    with daemon.start(), Client(daemon.socket_path) as client:
        session = client.call("sessions.create", externalId="kitchen")["id"]
        said = [{"sessionId": session, "userMessage": f"{n}", "aiResponse": f"{n:x}" * 2000} for n in range(400)]
        client.call("episodes.createMany", items=said[:100])
        client.call("outbox.wait", timeoutMs=60_000)
        with Litestream(elsewhere, settings) as litestream:
            until(lambda: litestream.listening)
            litestream.sync()
            assert litestream.terminate() == 0
        everything, known = sum(path.stat().st_size for path in copies.iterdir()), set(copies.iterdir())
        client.call("episodes.create", **said[200])
        idle_at = time.monotonic() + 1.5 * IDLE_TURN_S          # when our own checkpoint would be over
        until(lambda: time.monotonic() > idle_at)
        with Litestream(elsewhere, settings) as litestream:
            until(lambda: litestream.listening)
            litestream.sync()
            assert litestream.terminate() == 0
        assert largest_since(known) < everything / 4
        client.call("episodes.create", **said[201])
    assert daemon.process is not None                       # it ended last, as when a machine is shut down
    known = set(copies.iterdir())
    with daemon.start(), Client(daemon.socket_path) as client, Litestream(elsewhere, settings) as litestream:
        client.call("episodes.create", **said[202])
        until(lambda: litestream.listening)
        litestream.sync()
    assert largest_since(known) < everything / 4
    litestream.restore(elsewhere / "nexus.db")
    restored = apsw.Connection(str(elsewhere / "nexus.db"))
    assert {f"{n}" for n in (*range(100), 200, 201, 202)} == said_in(restored)
    restored.close()


def test_an_index_that_knows_more_than_the_restored_rows_is_made_to_agree(
    tmp_path: Path, embedder: EmbeddingServer
) -> None:
    """The database goes back, its index does not: the same ids and versions come to stand for other texts."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = example("directory", data / "nexus.db", path=str(elsewhere / "replica"))
    daemon = make_daemon(data, embedder)

    def say(client: Client, text: str) -> int:
        session = client.call("sessions.list")["items"][0]["id"]
        return int(client.call("episodes.create", sessionId=session, userMessage=text, aiResponse="")["id"])

    def found(client: Client, text: str) -> list[str]:
        client.call("outbox.wait", timeoutMs=60_000)
        items = client.call("memory.search", query=text, mode="semantic", collections=["episodes"])["items"]
        return [item["record"]["userMessage"] for item in items]

    with daemon.start(), Client(daemon.socket_path) as client, Litestream(elsewhere, settings) as litestream:
        client.call("sessions.create", externalId="kitchen")
        changed = say(client, "the kettle is blue")
        client.call("outbox.wait", timeoutMs=60_000)
        until(lambda: litestream.listening)
        _, moment = litestream.sync()
        client.call("episodes.update", id=changed, userMessage="the kettle is red")
        lost = say(client, "the oven is broken")
        client.call("outbox.wait", timeoutMs=60_000)
        daemon.terminate()
        litestream.terminate()
    for path in data.glob("nexus.db*"):
        path.unlink()
    litestream.restore(data / "nexus.db", moment)
    done = subprocess.run(
        [sys.executable, "-m", "nexusd", "--data", str(data), "--adopt"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:7]) == (0, "adopted"), done.stderr
    texts = len(embedder.texts)
    with daemon.start(), Client(daemon.socket_path) as client:
        assert found(client, "the kettle is blue") == ["the kettle is blue"]
        assert "User: the kettle is blue" not in "\n".join(embedder.texts[texts:]), "its vector was kept"
        assert say(client, "the roof is green") == lost     # an id once more, at the same version
        assert found(client, "the roof is green")[0] == "the roof is green"
        client.call("episodes.update", id=changed, userMessage="the kettle is gone")
        assert found(client, "the kettle is gone")[0] == "the kettle is gone"
        assert client.call("index.verify", timeoutMs=60_000)["agrees"] is True
