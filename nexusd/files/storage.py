"""The files of people: presets, tools and MCP servers, together.

Owns the thread on which the disk is asked, and how often it is asked for changes made by hand. A slow disk keeps
that thread waiting and nothing else. Knows neither forms nor methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import FilesConfig
from nexusd.errors import RpcError
from nexusd.files.directory import Directory, UnusableError
from nexusd.files.mcp_servers import FILE, McpServersFile
from nexusd.files.presets import PresetFiles
from nexusd.files.tools import ToolFiles
from nexusd.model.events import Publish, tell_nobody
from nexusd.store.database import Database


class FileStorage:
    """Everything in the files' directory. Used on one event loop."""

    def __init__(
        self,
        root: Path,
        config: FilesConfig,
        store: Database,
        clock: Clock,
        *,
        publish: Publish = tell_nobody,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval_s = config.poll_interval_s
        self._sleep = sleep
        self._log = structlog.get_logger("nexusd.files")
        self._thread = ThreadPoolExecutor(1, "files")   # one: what happens to files happens one after the other
        self._root = Directory(root, None, config.max_file_bytes)
        self.presets = PresetFiles(root, config, store, self._thread, clock, publish)
        self.tools = ToolFiles(root, config, store, self._thread, clock, publish)
        self.mcp_servers = McpServersFile(root, config, store, self._thread, clock, publish)
        self._refused = ""

    def set_interval(self, seconds: float) -> None:
        """Look for changes so often, after the next look."""
        self._interval_s = seconds

    async def open(self) -> None:
        """Clear away what a crash left, and read everything once. What cannot be used is told, and no reason to end."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._tidy)
        await self.scan()

    async def scan(self) -> None:
        """Look for changes once. What the store does not take now is looked at again the next time."""
        refused = ""
        for scan in (self.presets.scan, self.tools.scan, self.mcp_servers.scan):
            try:
                await scan()
            except RpcError as error:
                refused = error.message
        if refused and refused != self._refused:
            self._log.warning("changed files cannot be taken over now", reason=refused)
        self._refused = refused

    async def run(self) -> None:
        """Look for changes for ever."""
        while True:
            await self._sleep(self._interval_s)
            await self.scan()

    async def close(self) -> None:
        """Wait for what the disk is doing."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    def broken(self) -> dict[str, str]:
        """Every file that cannot be taken, with what is wrong with it; `presets` and `tools` are the directories."""
        found = self.presets.broken() | self.tools.broken()
        if self.mcp_servers.problem:
            found[FILE] = self.mcp_servers.problem
        for name, shelf in (("presets", self.presets.shelf), ("tools", self.tools.shelf)):
            if shelf.problem:
                found[name] = shelf.problem
        return found

    def _tidy(self) -> None:
        try:
            self._root.make()
        except UnusableError as error:
            self._log.warning("directory cannot be used", directory="", problem=str(error))
        for directory in (self._root, self.presets.shelf.directory, self.tools.shelf.directory):
            try:
                count = directory.sweep()
            except OSError:     # not there, or no directory of ours: the scan says so
                continue
            if count:
                self._log.info("removed what unfinished writes left", files=count, directory=directory.shown(""))
