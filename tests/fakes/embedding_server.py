"""An honest embedding service over HTTP that misbehaves on command.

It speaks the three dialects, embeds as the fake embedder does, checks what it is sent, and keeps connections. Runs
in the test's own loop, or beside it in a thread (`InThread`) for a daemon in another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal

from fakes.closing import close_port
from fakes.embedder import text_vector

Kind = Literal["service", "single", "vector", "ollama", "openai"]
PATHS = {"ollama": "/api/embed", "openai": "/v1/embeddings"}
OWN_PATH = "/embed"  # of the memory system's service


class EmbeddingServer:
    """`kind` "single" is the memory system's service in a version that takes one text at a time, "vector" one that
    calls its answer so.

    Switches, for every request: `fault` (see `_misbehave`), `retry_after`, `model` (the only one it knows), `key`,
    `max_bytes` of a body, `unknown_form` (the status for a body that it does not understand), `gate` (an Event that
    requests wait for). `faults` are for one request each, and go first. For single texts, by a piece of them: `poison`
    (400 for the whole request), `crashing` (500), `hanging`, `flawed` (`flaw`: "nan", "inf", "null", "zero" or
    "empty"); `max_chars` of a text. `requests` has the texts of each request.
    """

    def __init__(self, kind: Kind = "service", dimension: int = 32) -> None:
        self.kind: Kind = kind
        self.dimension = dimension
        self.fault = ""
        self.faults: list[str] = []
        self.retry_after = ""
        self.model = "fake"
        self.key = ""
        self.unknown_form = 400
        self.max_bytes = 1 << 30
        self.max_chars = 1 << 30
        self.poison: set[str] = set()
        self.crashing: set[str] = set()
        self.hanging: set[str] = set()
        self.flawed: set[str] = set()
        self.flaw = "nan"
        self.flaws_left = -1  # after so many it is well again; -1: never
        self.gate: asyncio.Event | None = None
        self.waiting = 0  # requests that the gate holds
        self.requests: list[list[str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.connections = 0
        self.open = 0
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def texts(self) -> list[str]:
        """Every text that it was sent, as often as it was sent."""
        return [text for request in self.requests for text in request]

    async def start(self) -> None:
        """At any free port, or again at the one that it had."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1 << 24)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await close_port(server)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> EmbeddingServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side went, or the test ends
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; false when the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ")
        fault = self.faults.pop(0) if self.faults else self.fault
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        if fault and not await self._misbehave(fault, writer):
            return False
        if fault in {"", "count", "dimension", "reversed"}:
            await self._embed(method, path, headers, content, fault, writer)
        return True

    async def _misbehave(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        """A whole request goes wrong. "count", "dimension" and "reversed" are wrong answers, made later."""
        match fault:
            case "hang":
                await asyncio.Event().wait()
            case "reset":
                return False
            case "cut":
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{"embeddings": [[0.1,')
                await writer.drain()
                return False
            case "truncated":  # complete for HTTP, and no JSON
                await self._send(writer, 200, b'{"embeddings": [[0.1,')
            case "html":
                await self._send(writer, 200, b"<!doctype html><title>Router</title>", kind="text/html")
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n[")
                with contextlib.suppress(ConnectionError):
                    while True:
                        writer.write(b"0.1," * 65536)
                        await writer.drain()
            case "redirect":
                await self._send(writer, 302, b"", location="http://192.0.2.1/embed")
            case "gzip":
                await self._send(writer, 200, b"\x1f\x8b", encoding="gzip")
            case status if status.isdigit():
                await self._send(writer, int(status), b'{"error": "as it was told to"}')
        return True

    async def _embed(
        self, method: str, path: str, headers: dict[str, str], content: bytes, fault: str, writer: asyncio.StreamWriter
    ) -> None:
        body = json.loads(content)
        if (method, path) != ("POST", PATHS.get(self.kind, OWN_PATH)):
            await self._send(writer, 404, b"404 page not found", kind="text/plain")
            return
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            wrong = {"error": {"message": f"Incorrect API key provided: {headers.get('authorization')}"}}
            await self._send(writer, 401, json.dumps(wrong).encode())
            return
        if len(content) > self.max_bytes:
            await self._send(writer, 413, b"<html>request entity too large</html>", kind="text/html")
            return
        texts = self._texts_of(body)
        if texts is None:
            await self._send(writer, self.unknown_form, b'{"error": "text is required"}')
            return
        self.requests.append(texts)
        self.bodies.append(body)
        if self.kind in {"ollama", "openai"} and body["model"] != self.model:
            wrong = {"error": f'model "{body["model"]}" not found, try pulling it first'}
            await self._send(writer, 404, json.dumps(wrong).encode())
        elif _any(self.hanging, texts):
            await asyncio.Event().wait()
        elif _any(self.crashing, texts):
            await self._send(writer, 500, b'{"error": "llama runner process has terminated"}')
        elif poisoned := [text for text in texts if _any(self.poison, [text])]:
            await self._send(writer, 400, json.dumps({"error": f"cannot take {poisoned[0]}"}).encode())
        elif any(len(text) > self.max_chars for text in texts):
            await self._send(writer, 400, b'{"error": "the input length exceeds the context length"}')
        else:
            dimension = self.dimension + 1 if fault == "dimension" else self.dimension
            vectors = [self._vector(text, dimension) for text in texts]
            if fault == "count":
                vectors = [*vectors, vectors[0]]
            await self._send(writer, 200, json.dumps(self._answer_of(vectors, fault)).encode())

    def _texts_of(self, body: dict[str, Any]) -> list[str] | None:
        match self.kind:
            case "single" | "vector":
                return [body["text"]] if isinstance(body.get("text"), str) else None
            case "service":
                return body["texts"] if isinstance(body.get("texts"), list) else None
        return body["input"]

    def _answer_of(self, vectors: list[list[Any]], fault: str) -> dict[str, Any]:
        match self.kind:
            case "vector":
                return {"vector": vectors[0]}
            case "single":
                return {"embedding": vectors[0]} if len(vectors) == 1 else {"vector": vectors}
            case "openai":
                data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
                return {"object": "list", "data": data[::-1] if fault == "reversed" else data}
        return {"embeddings": vectors}

    def _vector(self, text: str, dimension: int) -> list[Any]:
        if not _any(self.flawed, [text]) or self.flaws_left == 0:
            return text_vector(text, dimension)
        self.flaws_left -= 1
        flawed: dict[str, list[Any]] = {
            "nan": [float("nan")] * dimension, "inf": [float("inf")] + [0.0] * (dimension - 1),
            "null": [None] * dimension, "zero": [0.0] * dimension, "empty": [],
        }  # fmt: skip
        return flawed[self.flaw]

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, *,
        kind: str = "application/json", location: str = "", encoding: str = "",
    ) -> None:
        more = {"location": location, "content-encoding": encoding, "retry-after": self.retry_after}
        extra = "".join(f"{name}: {value}\r\n" for name, value in more.items() if value)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


class InThread:
    """The server in a thread of its own; `up` and `down` let it come and go at the same port."""

    def __init__(self, server: EmbeddingServer) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedding server")

    def up(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result(10)

    def down(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(10)

    def __enter__(self) -> EmbeddingServer:
        self._thread.start()
        self.up()
        return self.server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _any(pieces: Iterable[str], texts: Iterable[str]) -> bool:
    return any(piece in text for piece in pieces for text in texts)
