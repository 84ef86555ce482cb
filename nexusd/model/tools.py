"""Tools: JavaScript files, stored for those who run them. The daemon never does."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.fields import Mutation, Page, Params, Record, TimeMs
from nexusd.model.presets import FileName, FileState


class ToolFile(Record, frozen=True, kw_only=True):
    """A tool without its source. A broken file has a problem and no hash."""

    name: str
    bytes: int
    modified_at: TimeMs
    sha256: str | None
    state: FileState
    problem: str | None


class Tool(Record, frozen=True, kw_only=True):
    """A tool with its source."""

    name: str
    source: str
    bytes: int
    modified_at: TimeMs
    sha256: str


class ListTools(Page, frozen=True, kw_only=True):
    """Parameters of tools.list: by name."""


class GetTool(Params, frozen=True, kw_only=True):
    """Parameters of tools.get."""

    name: FileName


class PutTool(Mutation, frozen=True, kw_only=True):
    """Parameters of tools.put."""

    name: FileName
    source: Annotated[str, Meta(description="The text of the file, at most files.maxFileBytes long.")]


class DeleteTool(Mutation, frozen=True, kw_only=True):
    """Parameters of tools.delete."""

    name: FileName
