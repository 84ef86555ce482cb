"""What the daemon should hold outside its rows: presets, tools, MCP servers, and the cache."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

from harness.expected_rows import ANYTHING, Record, Rows
from harness.refused import Refused, refuse_unless

Params = dict[str, Any]
Result = Any

MAX_DEPTH = 32      # of what YAML may hold
DEFAULT_TTL_MS = 60_000


class ExpectedFiles(Rows):
    """Rows, and what stands beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.preset_files: dict[str, Any] = {}      # by name: what the file says, None where it is broken
        self.tool_files: dict[str, str] = {}
        self.servers: dict[str, Record] = {}
        self.servers_broken = False
        self.cached: dict[Any, tuple[Any, float]] = {}  # the value, and when it goes on the monotonic clock
        self.monotonic_s = 0.0

    # ---- presets

    def presets_create(self, p: Params, r: Result) -> Any:
        name = _name(p["name"])
        refuse_unless(name not in self.preset_files, "conflict")
        return self._write_preset(name, p["content"], r)

    def presets_update(self, p: Params, r: Result) -> Any:
        name = _name(p["name"])
        refuse_unless(name in self.preset_files, "not_found")
        return self._write_preset(name, p["content"], r)

    def presets_put(self, p: Params, r: Result) -> Any:
        return self._write_preset(_name(p["name"]), p["content"], r)

    def presets_delete(self, p: Params, _r: Result) -> Any:
        name = _name(p["name"])
        rows = self.of("presets", name=name)
        refuse_unless(bool(rows) or name in self.preset_files, "not_found")
        files = int(self.preset_files.pop(name, self) is not self)
        return {"deleted": {"presets": self.drop("presets", rows), "files": files}, "pointsQueued": 0, "outboxSeq": 0}

    def _write_preset(self, name: str, content: Params, r: Result) -> Any:
        refuse_unless(depth(content) <= MAX_DEPTH, "bad_content")
        row = self.preset_seen(name, content, r and r["id"])
        return self.shown_preset(name, row)

    def preset_seen(self, name: str, content: Params, told_id: Any) -> Record:
        """The file of a preset says this now, by whoever's hand."""
        self.preset_files[name] = content
        rows = self.of("presets", name=name)
        if rows:
            self.change("presets", rows[0], content=content)
            return rows[0]
        row = {"name": name, "content": content, "createdAt": self.now, "updatedAt": self.now}
        return self.put("presets", {"id": self.take_id("presets", told_id), **row})

    def shown_preset(self, name: str, row: Record | None) -> Record:
        """A preset as it is answered; one whose file is broken shows what was good last."""
        broken = self.preset_files[name] is None
        never = {"id": None, "name": name, "content": None, "createdAt": None, "updatedAt": None}
        return {**(row or never), "state": "broken" if broken else "ok", "problem": ANYTHING if broken else None}

    # ---- tools and MCP servers

    def tools_put(self, p: Params, _r: Result) -> Any:
        name = _name(p["name"])
        self.tool_files[name] = p["source"]
        return self.shown_tool(name)

    def tools_delete(self, p: Params, _r: Result) -> Any:
        name = _name(p["name"])
        if self.tool_files.pop(name, None) is None:
            raise Refused("not_found")
        return {"deleted": {"files": 1}, "pointsQueued": 0, "outboxSeq": 0}

    def shown_tool(self, name: str) -> Record:
        """A tool as lists have it."""
        data = self.tool_files[name].encode()
        return {
            "name": name, "bytes": len(data), "modifiedAt": ANYTHING, "sha256": hashlib.sha256(data).hexdigest(),
            "state": "ok", "problem": None,
        }  # fmt: skip

    def mcp_servers_put(self, p: Params, _r: Result) -> Any:
        config = p["config"]
        refuse_unless(("command" in config) != ("url" in config), "bad_content")
        refuse_unless(not self.servers_broken, "bad_content")
        self.servers[p["name"]] = config
        return self.shown_server(p["name"])

    def mcp_servers_delete(self, p: Params, _r: Result) -> Any:
        refuse_unless(not self.servers_broken, "bad_content")
        if self.servers.pop(p["name"], None) is None:
            raise Refused("not_found")
        return {"deleted": {"mcpServers": 1}, "pointsQueued": 0, "outboxSeq": 0}

    def shown_server(self, name: str) -> Record:
        """A server as lists have it."""
        return {"name": name, "kind": "command" if "command" in self.servers[name] else "url"}

    # ---- the cache

    def cache_set(self, p: Params, _r: Result) -> Any:
        ttl = p.get("ttl") or DEFAULT_TTL_MS
        self.cached[p["key"]] = p["value"], self.monotonic_s + ttl / 1000
        return {"expiresAt": self.now + ttl, "ttl": ttl}

    def cache_delete(self, p: Params, _r: Result) -> Any:
        self.expire()
        return {"deleted": self.cached.pop(p["key"], None) is not None}

    def cache_clear(self, _p: Params, _r: Result) -> Any:
        self.expire()
        count = len(self.cached)
        self.cached.clear()
        return {"deleted": count}

    def expire(self) -> None:
        """What had its time goes. Times are far apart, so that how long a call takes plays no part."""
        self.cached = {key: entry for key, entry in self.cached.items() if entry[1] > self.monotonic_s}

    # ---- a restart

    def restart(self) -> None:
        """What was only in memory is gone."""
        self.cached.clear()
        if self.servers_broken:
            self.servers.clear()


def _name(given: str) -> str:
    name = unicodedata.normalize("NFC", given)
    refuse_unless("/" not in name and not name.startswith(".") and not name.endswith("."), "bad_name")
    return name


def depth(value: Any) -> int:
    """How deep a value is nested."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 1


