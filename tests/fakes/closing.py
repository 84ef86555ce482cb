"""How a fake service closes its port.

asyncio drops a connection that was accepted and not handed over when its server closes, and leaves its socket to the
collector of garbage: a warning in whatever test runs by then.
"""

from __future__ import annotations

import asyncio


async def close_port(server: asyncio.Server) -> None:
    """Accept no more, let what was accepted come to whom it is for, close."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(3):  # turns of the loop: each hand-over takes one
        await asyncio.sleep(0)
    server.close()
