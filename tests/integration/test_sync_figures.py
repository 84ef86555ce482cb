"""How fast the outbox drains, measured: `pytest --long -s tests/integration/test_sync_figures.py`.

Every figure is printed beside what it must reach, on a machine that does nothing else. The embedder is instant: its
vectors are made beforehand. A Qdrant server is stood for by the client library's in-memory mode, in this process and
over HTTP in another one, whose own work in Python is most of the time; and by one that reads the points and keeps them
in a dictionary, which leaves what the daemon and the way over HTTP cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import statistics
import struct
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import FakeEmbedder
from fakes.qdrant_server import COMPLETED, HANDLERS, FakeQdrant
from harness.outbox_bench import NOW_MS, Bench, make_bench
from harness.server_index import InMemoryClient, in_memory_index

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.embedding.embedder import Vector
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import Index
from nexusd.index.server import ServerIndex
from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import CreateSession
from nexusd.store.connection import Connection, open_writer
from nexusd.store.episodes import insert_episodes
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.outbox import hasten, next_due_ms, requeue_collection
from nexusd.store.sessions import insert_session

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(600)]

ROWS = 20_000
SERVER_ROWS = 6000
DIMENSION = 384
WORDS = [f"word{n}" for n in range(3000)]
MANY = 100_000


def exchanges(count: int, session: int, seed: int = 1) -> list[NewEpisode]:
    """Exchanges of 60 words."""
    chance = random.Random(seed)
    return [
        NewEpisode(
            session_id=session, user_message=" ".join(chance.choices(WORDS, k=30)),
            ai_response=" ".join(chance.choices(WORDS, k=30)),
        )
        for _ in range(count)
    ]  # fmt: skip


class InstantEmbedder(FakeEmbedder):
    def __init__(self) -> None:
        super().__init__(dimension=DIMENSION)
        gauss = random.Random(2).gauss
        self._ready = [
            struct.pack(f"<{DIMENSION}f", *[gauss(0, 1) for _ in range(DIMENSION)]) for _ in range(997)
        ]  # fmt: skip
        self.embedded = 0

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        self.embedded += len(texts)
        return [self._ready[(self.embedded + n) % len(self._ready)] for n in range(len(texts))]


@contextlib.asynccontextmanager
async def index_of(kind: str, directory: Path) -> AsyncIterator[Index]:
    if kind.startswith("embedded"):
        config = IndexConfig(rebuild_after=IndexConfig().rebuild_after if "graphs" in kind else 10 * ROWS)
        index: Index = EmbeddedIndex(directory / "index", config, SystemClock())
        await index.start()
        yield index
        await index.close()
    elif kind == "server, in memory":
        index = in_memory_index(InMemoryClient())
        await index.start()
        yield index
        await index.close()
    else:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve_qdrant, args=(theirs, "only keeps" in kind), daemon=True)
        process.start()
        url = await asyncio.to_thread(ours.recv)
        index = ServerIndex(IndexConfig(backend="server", url=url), SystemClock())
        await index.start()
        yield index
        await index.close()
        process.kill()


def _serve_qdrant(pipe: Pipe, only_keeps: bool) -> None:
    kept: dict[int, Any] = {}

    async def keep(_server: FakeQdrant, _name: str, body: Any) -> Any:
        kept.update((point["id"], point) for point in body["points"])
        return COMPLETED

    async def retrieve(_server: FakeQdrant, _name: str, body: Any) -> Any:
        return [{"id": id_, "payload": kept[id_]["payload"]} for id_ in body["ids"] if id_ in kept]

    async def count(_server: FakeQdrant, _name: str, _body: Any) -> Any:
        return {"count": len(kept)}

    async def serve() -> None:
        if only_keeps:  # a process of its own: nobody else sees this
            HANDLERS.update(upsert=keep, retrieve=retrieve, count=count)
        server = FakeQdrant()
        await server.start()
        pipe.send(server.url)
        await asyncio.Event().wait()

    asyncio.run(serve())


async def _drained(bench: Bench, rows: int) -> tuple[float, float]:
    """Rows a second, and microseconds a row of this process's CPU time."""
    cpu, began = time.process_time(), time.perf_counter()
    bench.start()
    while not (await bench.worker.wait_for(None, [], 60)).done:
        pass
    took = time.perf_counter() - began
    cpu = time.process_time() - cpu
    await bench.stop()
    return rows / took, cpu / rows * 1e6


@pytest.mark.parametrize(
    ("kind", "rows", "fresh_aim", "stored_aim"),
    [
        ("embedded", ROWS, 3000, 5000),
        ("embedded, while graphs are built", ROWS, 0, 0),  # by another process: what is left depends on the cores
        ("server, in memory", SERVER_ROWS, 1500, 1500),
        ("server, over HTTP", SERVER_ROWS, 0, 0),
        ("server that only keeps, over HTTP", ROWS, 1500, 1500),
    ],
)
async def test_how_fast_rows_are_drained(
    tmp_path: Path, kind: str, rows: int, fresh_aim: int, stored_aim: int
) -> None:
    embedder = InstantEmbedder()
    bench_with = partial(make_bench, tmp_path, embedder=embedder)
    async with index_of(kind, tmp_path) as index, bench_with(index=index) as bench:  # type: ignore[arg-type]  # any
        for start in range(0, rows, 500):
            await bench.store.write(insert_episodes, exchanges(500, bench.session, start), NOW_MS)
        fresh, fresh_us = await _drained(bench, rows)
        assert embedder.embedded == rows
        await bench.store.write(requeue_collection, "episodes", NOW_MS)
        stored, stored_us = await _drained(bench, rows)
        assert embedder.embedded == rows  # from the stored vectors alone
        assert await index.count(bench.collections.physical("episodes")) == rows
    print(f"\n{kind}: {fresh:,.0f} rows/s with an instant embedder (at least {fresh_aim:,}), {stored:,.0f} rows/s from "
          f"stored vectors (at least {stored_aim:,}); {fresh_us:.0f} and {stored_us:.0f} us a row in this process")
    assert fresh >= fresh_aim
    assert stored >= stored_aim


def _database(path: Path) -> tuple[Connection, int]:
    db = open_writer(path, "FULL")
    migrate(db, load_migrations())
    return db, insert_session(db, CreateSession(external_id="s"), NOW_MS).id


def test_many_rows_that_wait_hold_up_neither_the_loop_nor_the_writer(tmp_path: Path) -> None:
    db, _ = _database(tmp_path / "nexus.db")
    with db:
        db.executemany(
            "INSERT INTO outbox (collection, row_id, version, op, not_before_ms, created_ms) "
            "VALUES ('episodes', ?, 1, 'upsert', ?, 1)",
            [(n, NOW_MS + 1 + n % 300_000) for n in range(MANY)],
        )
    looks = []
    for _ in range(200):
        began = time.perf_counter()
        assert next_due_ms(db, NOW_MS, 300_000, ("episodes", "entities")) == NOW_MS + 1
        looks.append(time.perf_counter() - began)
    slices, place = [], (NOW_MS, 0)
    while place is not None:
        began = time.perf_counter()
        with db:
            place = hasten(db, "episodes", place, 1000)
        slices.append(time.perf_counter() - began)
    db.close()
    print(f"\n{MANY:,} rows postponed: a look takes {statistics.median(looks) * 1e6:.0f} us; they are hastened in "
          f"{len(slices)} transactions of {statistics.median(slices) * 1000:.1f} ms, the longest of "
          f"{max(slices) * 1000:.1f} (50 at most are asked for)")
    assert statistics.median(looks) < 0.001
    assert statistics.median(slices) < 0.05
