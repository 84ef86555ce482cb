"""What an export holds, and the first and the last line of its file.

Owns the format's name and version. A line between the two is a row: `{"table": "episodes", ...}` with the fields that
`imports.store` takes of such a row. Knows neither how rows are read nor how they are taken in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from nexusd.model.fields import Id, Name, Params, TimeMs

FORMAT = "nexusd-export"
VERSION = 1     # of the lines; a reader refuses what is newer
MAX_CURSOR = 1024

ExportCursor = Annotated[
    str, Meta(max_length=MAX_CURSOR, description="As exports.begin or the page before answered it.")
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Rows = Annotated[int, Meta(ge=0)]


class BeginExport(Params, frozen=True, kw_only=True):
    """Parameters of exports.begin: everything, or what belongs to a session or a project."""

    session_id: Annotated[Id | None, Meta(description="That session alone, and the project that it is in.")] = None
    project_id: Annotated[Id | None, Meta(description="That project alone, and its sessions.")] = None
    vectors: Annotated[
        bool, Meta(description="With the vectors that the serving model made, so that nothing is embedded again.")
    ] = False

    def __post_init__(self) -> None:
        """One scope."""
        if self.session_id is not None and self.project_id is not None:
            raise ValueError("expected one of `sessionId` and `projectId`, got both")


class ExportModel(Struct, frozen=True, kw_only=True, rename="camel"):
    """The embedding model that served."""

    key: str
    dimension: Annotated[int, Meta(ge=1)]


class ExportBegun(Struct, frozen=True, kw_only=True, rename="camel"):
    """What exports.begin answers. `rows`: how many there are of each table, in the order in which they will come."""

    cursor: str
    created_at: TimeMs
    program: str
    schema_version: int
    epoch: str
    model: ExportModel
    rows: dict[str, Rows]


class PageExport(Params, frozen=True, kw_only=True):
    """Parameters of exports.page."""

    cursor: ExportCursor
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many rows at most.")] = 500


class ExportPage(Struct, frozen=True, kw_only=True, rename="camel"):
    """Rows of one table, each with its `table`, as a line of the file has them; null: there is nothing more."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class ExportScope(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What was exported. `id`: of the session or the project."""

    of: Literal["everything", "session", "project"]
    id: Id | None = None


class ExportHeader(Struct, frozen=True, kw_only=True, rename="camel"):
    """The first line. `rows`: how many of each table there were when it began; some may have gone meanwhile."""

    format: str
    version: Annotated[int, Meta(ge=1)]
    created_at: TimeMs
    created: str                    # the same for people
    program: str
    schema_version: Annotated[int, Meta(ge=1)]
    epoch: str
    scope: ExportScope
    vectors: bool
    model: ExportModel
    rows: dict[str, Rows]


class ExportEnd(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The last line: rows by table, and the hash of every byte before this line."""

    end: Literal["nexusd-export"]
    rows: dict[str, Rows]
    sha256: Sha256


class ExportedPreset(Params, frozen=True, kw_only=True):
    """A preset's line."""

    name: Name
    content: dict[str, Any]


class ExportedTool(Params, frozen=True, kw_only=True):
    """A tool's line."""

    name: Name
    source: str


class ExportedMcpServer(Params, frozen=True, kw_only=True):
    """The line of an entry of mcp-servers.json, secrets and all."""

    name: Name
    config: dict[str, Any]
