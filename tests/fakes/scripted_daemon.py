"""A small NDJSON daemon on a real socket that misbehaves on command.

It keeps episodes and idempotency keys as nexusd does, so that a write that a client repeats wrongly is
there twice. It runs on a thread of its own: blocking clients and child processes can talk to it as well.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fakes.closing import close_port

Act = Callable[["ScriptedDaemon", asyncio.StreamWriter, dict[str, Any]], Coroutine[Any, Any, None]]

WRITES = {"sessions.create", "episodes.create"}
READS = {
    "help", "echo", "health", "sessions.getByExternalId", "episodes.get", "memory.search", "memory.context",
    "system.status", "outbox.wait",
}  # fmt: skip


class Refused(Exception):
    def __init__(self, code: int, kind: str, message: str, **data: Any) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message,
                      "data": {"kind": kind, "retryable": False, "requestId": "r-1", **data}}  # fmt: skip


def not_found(message: str) -> Refused:
    return Refused(-32010, "not_found", message)


@dataclass
class ScriptedDaemon:
    """`acts[method]` are taken in turn, one a request; after them it behaves."""

    path: Path
    tcp: bool = False
    acts: dict[str, list[Act]] = field(default_factory=lambda: defaultdict(list))
    received: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    port: int = 0

    def __post_init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._opened: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._changed = threading.Condition()
        self.released = asyncio.Event()

    # --- what a test does with it ---

    def __enter__(self) -> ScriptedDaemon:
        self._thread.start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}" if self.tcp else str(self.path)

    def listen(self) -> None:
        """Take connections (again)."""
        self._run(self._listen())

    def vanish(self) -> None:
        """Close every connection and listen no more, as a daemon does that is killed."""
        self._run(self._vanish())

    def release(self) -> None:
        """Let go on what `held` holds."""
        self._loop.call_soon_threadsafe(self.released.set)

    def calls(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every request for the method so far."""
        with self._changed:
            return [request["params"] for request in self.received if request["method"] == method]

    def wait_for(self, method: str, times: int = 1) -> None:
        """Wait until it was asked this often."""

        def asked() -> bool:
            return sum(request["method"] == method for request in self.received) >= times

        with self._changed:
            assert self._changed.wait_for(asked, 10), f"{method} was not called {times} times"

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification to everybody who is connected."""

        async def send() -> None:
            for writer in self._writers:
                await self.send(writer, {"jsonrpc": "2.0", "method": method, "params": params})

        self._run(send())

    # --- what acts do with it ---

    async def send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()

    async def behave(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await self.send(writer, self.reply_to(request))

    def reply_to(self, request: dict[str, Any]) -> dict[str, Any]:
        head = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            return head | {"result": self._result(request["method"], dict(request["params"]))}
        except Refused as refused:
            return head | {"error": refused.error}

    # --- how it behaves ---

    def _result(self, method: str, params: dict[str, Any]) -> Any:
        key = params.pop("idempotencyKey", None)
        if key is not None and method in READS:
            raise Refused(-32602, "invalid_params", "Bad parameters.",
                          fields=[{"path": "idempotencyKey", "expected": "no such parameter"}])  # fmt: skip
        if key is not None and key in self._kept:
            return self._kept[key]
        if method in self.answers:
            answer = self.answers[method]
            return answer(params) if callable(answer) else answer
        if method not in WRITES | READS:
            raise Refused(-32601, "method_not_found", f"There is no method {method}.")
        result = getattr(self, "_" + method.replace(".", "_"))(params)
        if key is not None:
            self._kept[key] = result
        return result

    def _help(self, params: dict[str, Any]) -> Any:
        method = params["method"]
        if method not in WRITES | READS:
            raise Refused(-32601, "method_not_found", f"There is no method {method}.")
        names = ["anything", "idempotencyKey"] if method in WRITES else ["anything"]
        return {"name": method, "params": [{"name": name} for name in names]}

    def _echo(self, params: dict[str, Any]) -> Any:
        return params

    def _health(self, _params: dict[str, Any]) -> Any:
        return {"status": "ok", "reasons": []}

    def _sessions_create(self, params: dict[str, Any]) -> Any:
        external = params["externalId"]
        if external in self.sessions:
            raise Refused(-32011, "conflict", "Something of this name exists already.")
        self.sessions[external] = {
            "id": len(self.sessions) + 1, "externalId": external, "name": None, "projectId": None,
            "metadata": {}, "createdAt": 1, "updatedAt": 1,
        }  # fmt: skip
        return self.sessions[external]

    def _sessions_getByExternalId(self, params: dict[str, Any]) -> Any:  # noqa: N802 (the method's name)
        try:
            return self.sessions[params["externalId"]]
        except KeyError:
            raise not_found("No session has this id.") from None

    def _episodes_create(self, params: dict[str, Any]) -> Any:
        params.pop("waitFor", None)
        episode = {
            "id": len(self.episodes) + 1, "tokenCount": None, "metadata": {}, "version": 1,
            "createdAt": 1_700_000_000_000, "updatedAt": 1_700_000_000_000, "vector": "pending", **params,
        }  # fmt: skip
        self.episodes.append(episode)
        return episode

    def _episodes_get(self, params: dict[str, Any]) -> Any:
        try:
            return self.episodes[params["id"] - 1]
        except IndexError:
            raise not_found("No episode has this id.") from None

    # --- how it runs ---

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self.tcp:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self.path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._connected, self.path)

    async def _vanish(self) -> None:
        if self._server is not None:
            await close_port(self._server)
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        """A loop that ends before a connection has gone leaves its socket for whatever test comes next."""
        for _ in range(5):  # turns of the loop: a connection that was just taken is known by then
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._opened:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._opened), return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Not a coroutine: from here on the connection is known, whether it has been served or not."""
        self.connections += 1
        self._writers.add(writer)
        self._opened.append(writer)
        self._begin(self._serve(reader, writer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            buffered = b""
            while data := await reader.read(65536):
                *lines, buffered = (buffered + data).split(b"\n")
                for line in lines:
                    self._take(writer, json.loads(line))
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        acts = self.acts[request["method"]]
        act = acts.pop(0) if acts else ScriptedDaemon.behave
        self._begin(act(self, writer, request))
        with self._changed:
            self.received.append(request)
            self._changed.notify_all()


# --- acts ---


async def hangs_up(_daemon: ScriptedDaemon, writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
    """Close without having done anything."""
    writer.transport.abort()


async def does_it_and_hangs_up(
    daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]
) -> None:
    """The reply is lost, the write stands."""
    daemon.reply_to(request)
    writer.transport.abort()


async def stays_silent(
    _daemon: ScriptedDaemon, _writer: asyncio.StreamWriter, _request: dict[str, Any]
) -> None:
    """Never answer."""


async def held(daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
    """Answer after `release`, not before."""
    await daemon.released.wait()
    await daemon.behave(writer, request)


async def sends_garbage(
    _daemon: ScriptedDaemon, writer: asyncio.StreamWriter, _request: dict[str, Any]
) -> None:
    """Answer what is no JSON."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


def refuses(code: int, kind: str, message: str = "No.", *, nameless: bool = False, **data: Any) -> Act:
    """Answer this error; `nameless`: without the request's id, as for a message that cannot be read."""

    async def act(daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        reply_to = None if nameless else request["id"]
        error = Refused(code, kind, message, **data).error
        await daemon.send(writer, {"jsonrpc": "2.0", "id": reply_to, "error": error})

    return act


def is_busy(retry_after_ms: int) -> Act:
    return refuses(-32004, "busy", retryable=True, retryAfterMs=retry_after_ms)
