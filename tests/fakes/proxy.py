"""A TCP proxy that does to a connection what networks do: it stalls, cuts, corrupts, refuses."""

from __future__ import annotations

import asyncio

from fakes.closing import close_port


class Proxy:
    """Forwards every connection to one port of this machine. Faults hold from the next piece of data on."""

    def __init__(self, port: int) -> None:
        self.corrupting = False
        self.port = 0
        self._upstream = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, as HTTP."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen: at first at any port, then at the same again."""
        self._listener = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._listener is not None:
            server, self._listener = self._listener, None
            await close_port(server)
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def start_again(self) -> None:
        """Listen again, if it does not."""
        if self._listener is None:
            await self.start()

    def stall(self) -> None:
        """Take connections and data, and pass nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on again, beginning with what was held."""
        self._flowing.set()

    def cut(self) -> None:
        """Break every connection that there is."""
        for task in list(self._connections):
            task.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            ends.append(up_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, up_writer))
                both.create_task(self._pass(up_reader, writer, answers=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if answers and self.corrupting:
                data = data.replace(b'"', b"\x00")
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one end has closed: so does the other
