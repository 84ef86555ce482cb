"""Clients that store one exchange after the other until the standard input ends; prints what became of it as JSON.

Some connect anew for every request, with nothing but a socket and without a second try; some keep a client of
nexusd.client. Prints a line each time when every one of them has stored ten more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

from nexusd.client import AsyncClient

WORKERS = 16
SOCKET = "/run/nexusd/nexusd.sock"


class Load:
    """What was acknowledged, and what went wrong."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.acknowledged: dict[str, int] = {}
        self.failures: list[str] = []
        self.stopping = asyncio.Event()
        self.slowest_s = 0.0
        self.counts: dict[str, int] = {}
        self.rounds = 0

    async def _connect_and_create(self, text: str) -> int:
        """One connection, one request, one reply."""
        reader, writer = await asyncio.open_unix_connection(SOCKET)
        params = {"sessionId": self.session, "userMessage": text, "aiResponse": "stored"}
        request = {"jsonrpc": "2.0", "id": 1, "method": "episodes.create", "params": params}
        writer.write(json.dumps(request).encode() + b"\n")
        line = await reader.readline()
        writer.close()
        return int(json.loads(line)["result"]["id"])

    async def worker(self, name: str, create: Callable[[str], Awaitable[int]]) -> None:
        loop, number = asyncio.get_running_loop(), 0
        while not self.stopping.is_set() or not number:
            number += 1
            text = f"{name}-{number}"
            began_s = loop.time()
            try:
                self.acknowledged[text] = await create(text)
                self._count(name)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                self.failures.append(f"{text}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.01)
            self.slowest_s = max(self.slowest_s, loop.time() - began_s)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        if len(self.counts) == WORKERS and min(self.counts.values()) >= 10 * (self.rounds + 1):
            self.rounds += 1
            print(f"round {self.rounds}", flush=True)

    async def run(self) -> None:
        """Until the standard input ends."""
        loop = asyncio.get_running_loop()
        async with AsyncClient(SOCKET) as client:
            async def create(text: str) -> int:
                given = {"sessionId": self.session, "userMessage": text, "aiResponse": "stored"}
                return int((await client.call("episodes.create", **given))["id"])

            ways = {"once": self._connect_and_create, "kept": create}
            workers = [
                asyncio.create_task(self.worker(f"{way}-{n}", ways[way])) for way in ways for n in range(WORKERS // 2)
            ]
            await loop.run_in_executor(None, sys.stdin.read)
            self.stopping.set()
            await asyncio.gather(*workers)
        print(json.dumps({"acknowledged": self.acknowledged, "failures": self.failures, "slowestS": self.slowest_s}))


asyncio.run(Load(int(sys.argv[1])).run())
