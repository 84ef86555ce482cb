"""mcp-servers.json: one file that people and programs both write.

Owns the last content that was good, which is served while the file is broken, and the rule that a broken file is
never written over. Names and values of servers reach no log: they may be secrets. Knows no method.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from nexusd.clock import Clock
from nexusd.config_sections import FilesConfig
from nexusd.errors import BadContent, BadName, McpServerNotFound, TooLarge
from nexusd.files.directory import Directory, Stamp, UnreadableError, UnusableError
from nexusd.files.mcp_content import MEMBER, McpDocument, kind_of, read_mcp, write_mcp
from nexusd.files.paging import cursor_after, names_of_page
from nexusd.files.receipts import Receipts
from nexusd.files.shelf import UNSETTLED_MS
from nexusd.files.yaml_content import ContentError
from nexusd.model.events import Publish
from nexusd.model.fields import Deletion
from nexusd.model.mcp_servers import ListMcpServers, McpServer, McpServerEntry, McpServers
from nexusd.store.database import Database
from nexusd.store.idempotency import Receipt

TOPIC = "files"
LISTING = "mcpServers"
FILE = "mcp-servers.json"
FILE_MODE = 0o600   # tokens stand in it


@dataclass(frozen=True, slots=True)
class _Read:
    """The file as it was read: its servers, or the problem with it. No stamp: look again."""

    document: McpDocument | None
    stamp: Stamp | str | None
    digest: str = ""
    problem: str = ""


class McpServersFile:
    """The servers that mcp-servers.json names."""

    def __init__(
        self, root: Path, config: FilesConfig, store: Database, thread: Executor, clock: Clock, publish: Publish
    ) -> None:
        self._max_bytes = config.max_file_bytes
        self._directory = Directory(root, None, config.max_file_bytes)
        self._thread = thread
        self._receipts = Receipts(store, clock)
        self._clock = clock
        self._publish = publish
        self._log = structlog.get_logger("nexusd.files")
        self._lock = asyncio.Lock()
        self._read = _Read(McpDocument({}), None)
        self._good = McpDocument({})

    @property
    def problem(self) -> str:
        """Why the file cannot be taken as it is now; empty if it can."""
        return self._read.problem

    async def scan(self) -> None:
        """Take over what changed in the file."""
        async with self._lock:
            read = await self._off_loop(self._look, self._read.stamp)
            if read is not None:
                self._take(read)

    def page(self, params: ListMcpServers) -> McpServers:
        """A page of servers by name."""
        servers = self._good.servers
        names = names_of_page(LISTING, sorted(servers), params)
        items = [McpServer(name=name, kind=kind_of(servers[name])) for name in names[: params.limit]]
        return McpServers(
            items=items,
            next_cursor=cursor_after(LISTING, items[-1].name) if len(names) > params.limit else None,
            problem=self.problem or None,
        )

    def get(self, name: str) -> McpServerEntry:
        """One server as the file has it.

        Raises:
            McpServerNotFound: there is none.
        """
        config = self._good.servers.get(name)
        if config is None:
            raise McpServerNotFound
        return McpServerEntry(name=name, kind=kind_of(config), config=config)

    async def put(self, name: str, config: dict[str, Any], receipt: Receipt | None) -> McpServer | msgspec.Raw:
        """Write a server, new or in the place of the one of this name; the rest of the file stays.

        Raises:
            BadName: not a name for a server.
            BadContent: the configuration is none, or the file is broken: it is left to whoever wrote it.
            TooLarge: the file would be.
            DiskFull, ReadOnly, OutcomeUnknown: the file cannot be written.
        """
        if any(unicodedata.category(one).startswith("C") for one in name):
            raise BadName("Expected no control characters in the name.")
        try:
            kind = kind_of(config)
        except ContentError as error:
            raise BadContent(f"The configuration cannot be taken: {error}.") from None
        async with self._lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            self._take(await self._off_loop(self._change, {name: config}))
            return await self._receipts.keep(receipt, McpServer(name=name, kind=kind))

    async def delete(self, name: str, receipt: Receipt | None) -> Deletion | msgspec.Raw:
        """Take a server out of the file; the rest stays.

        Raises:
            McpServerNotFound: there is none.
            BadContent: the file is broken: it is left to whoever wrote it.
            DiskFull, ReadOnly, OutcomeUnknown: the file cannot be written.
        """
        async with self._lock:
            if (kept := self._receipts.kept(receipt)) is not None:
                return kept
            self._take(await self._off_loop(self._change, {name: None}))
            gone = Deletion(deleted={"mcpServers": 1}, points_queued=0)
            return await self._receipts.keep_deletion(receipt, gone, "mcpServers.put")

    async def _off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _take(self, read: _Read) -> None:
        """Know this of the file from now on; tell what changed in it."""
        before, self._read = self._read, read
        if read.problem and (before.problem, before.digest) != (read.problem, read.digest):
            self._log.warning("file cannot be taken", file=FILE, problem=read.problem)
            self._tell(None, "broken")
        if read.document is None:
            return
        old, new = self._good.servers, read.document.servers
        self._good = read.document
        for name in new:
            if name not in old or msgspec.json.encode(old[name]) != msgspec.json.encode(new[name]):
                self._tell(name, "changed")
        for name in old.keys() - new.keys():
            self._tell(name, "removed")

    def _tell(self, name: str | None, change: str) -> None:
        self._publish(TOPIC, {"kind": "mcpServer", "name": name, "change": change})

    # ---- on the files' thread

    def _look(self, known: Stamp | str | None) -> _Read | None:
        """The file, if it shows a change since it had the stamp that is known."""
        try:
            seen = self._directory.look(FILE)
        except UnusableError as error:
            seen = f"the directory {error}"
        if seen is None:
            return _Read(McpDocument({}), None)
        if seen == known:
            return None
        if isinstance(seen, str):
            return _Read(None, seen, problem=seen)
        return self._read_now(seen)

    def _read_now(self, seen: Stamp | None) -> _Read:
        try:
            data, stamp = self._directory.read(FILE)
        except FileNotFoundError:
            return _Read(McpDocument({}), None)
        except UnreadableError as error:
            return _Read(None, seen, problem=str(error))
        try:
            return self._as_read(read_mcp(data), data, stamp)
        except ContentError as error:
            return self._as_read(None, data, stamp, str(error))

    def _as_read(self, document: McpDocument | None, data: bytes, stamp: Stamp, problem: str = "") -> _Read:
        settled = abs(self._clock.now_ms() - stamp.changed_ns // 1_000_000) > UNSETTLED_MS
        return _Read(document, stamp if settled else None, hashlib.sha256(data).hexdigest(), problem)

    def _change(self, change: dict[str, dict[str, Any] | None]) -> _Read:
        """Write the file with these servers put or, where they are None, taken out."""
        now = self._read_now(None)
        if now.document is None:
            raise BadContent(f"{FILE} is broken, and is not written over: {now.problem}")
        servers = dict(now.document.servers)
        for name, config in change.items():
            if config is not None:
                servers[name] = config
            elif servers.pop(name, None) is None:
                raise McpServerNotFound
        document = now.document.with_servers(servers)
        if MEMBER in servers and MEMBER not in now.document.top:
            raise BadName(f"In a file without `{MEMBER}` no server can have that name.")
        data = write_mcp(document)
        if len(data) > self._max_bytes:
            raise TooLarge(f"{FILE} would have {len(data):,} bytes; at most {self._max_bytes:,} are taken.")
        if data == write_mcp(now.document):     # as JSON: to Python, 1 and true are equal
            return now
        return self._as_read(document, data, self._directory.write(FILE, data, FILE_MODE))
