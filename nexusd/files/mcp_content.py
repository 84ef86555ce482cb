"""The text of mcp-servers.json <-> its servers.

Owns which forms are taken, `{"mcpServers": {...}}` and the bare mapping of older files, and what a server must say.
What it does not know it keeps, in its order. Values may be secrets: no message holds one. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jiter
import msgspec
from msgspec import Meta

from nexusd.files.yaml_content import ContentError

MEMBER = "mcpServers"
MAX_COMPLAINT = 100     # characters of the parser's words

Kind = Literal["command", "url"]
_Text = Annotated[str, Meta(min_length=1)]


class _Command(msgspec.Struct, frozen=True, kw_only=True):
    """A program that clients start."""

    command: _Text
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None


class _Url(msgspec.Struct, frozen=True, kw_only=True):
    """A service that clients call."""

    url: _Text
    headers: dict[str, str] = {}
    type: str | None = None


@dataclass(frozen=True, slots=True)
class McpDocument:
    """The whole file as an object; the servers stand under `mcpServers`, or are the object itself."""

    top: dict[str, Any]

    @property
    def servers(self) -> dict[str, Any]:
        """The servers by name."""
        found: dict[str, Any] = self.top.get(MEMBER, self.top)
        return found

    def with_servers(self, servers: dict[str, Any]) -> McpDocument:
        """The same file with these servers."""
        return McpDocument({**self.top, MEMBER: servers} if MEMBER in self.top or not self.top else servers)


def read_mcp(data: bytes) -> McpDocument:
    """The servers of a file.

    Raises:
        ContentError: it is not JSON, or says something else.
    """
    try:
        top = jiter.from_json(data.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise ContentError(f"not valid JSON: {_without_keys(str(error))}") from None
    if msgspec.json.decode(msgspec.json.encode(top)) != top:    # 1e999 would be written again as null
        raise ContentError("a number is out of range")
    if not isinstance(top, dict) or not isinstance(top.get(MEMBER, {}), dict):
        raise ContentError(f'expected an object such as {{"{MEMBER}": {{}}}}')
    document = McpDocument(top)
    for place, (name, config) in enumerate(document.servers.items(), 1):
        try:
            kind_of(config)
        except ContentError as error:
            shown = name if len(name) <= MAX_COMPLAINT else f"number {place}"
            raise ContentError(f"server {shown!r}: {error}") from None
    return document


def write_mcp(document: McpDocument) -> bytes:
    """The file's text, for people."""
    return msgspec.json.format(msgspec.json.encode(document.top), indent=2) + b"\n"


def kind_of(config: object) -> Kind:
    """Whether a server is started or called.

    Raises:
        ContentError: it is neither, or a member has the wrong type.
    """
    if not isinstance(config, dict) or ("command" in config) == ("url" in config):
        raise ContentError("expected an object with either `command` or `url`")
    kind: Kind = "command" if "command" in config else "url"
    try:
        msgspec.convert(config, _Command if kind == "command" else _Url)
    except msgspec.ValidationError as error:    # its words name types and places, never values
        raise ContentError(str(error)) from None
    return kind


def _without_keys(complaint: str) -> str:
    """The parser's words where they are its own; a key that it names may be of any length."""
    return complaint if len(complaint) <= MAX_COMPLAINT else f"...{complaint[-60:]}"
