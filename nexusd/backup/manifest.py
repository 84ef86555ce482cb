"""What a backup says of itself, and how it lies on disk.

Owns the manifest's format and the names of a backup's members. Knows neither how a copy is made nor how it is put back.

A backup is one tar file, `NAME.tar`, that any tar opens. Its members, in this order:

    manifest.json       what this module describes; first, so that a list reads one block of each backup
    nexus.db.zst        the database, as one zstd frame
    config.yaml         the settings file without its secrets, where there was one; never put back, only shown
    files/presets/...   the files of the file store, with their paths
    files/tools/...
    files/mcp-servers.json

So `tar xf NAME.tar && zstd -d nexus.db.zst` is a restore without any of this program.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

FORMAT = 1                          # of the manifest; a reader refuses what is newer
SUFFIX = ".tar"
UNFINISHED_SUFFIX = ".unfinished"   # of what is being written; whatever still ends so at a start is swept
MANIFEST_MEMBER = "manifest.json"
DATABASE_MEMBER = "nexus.db.zst"
CONFIG_MEMBER = "config.yaml"
FILES_PREFIX = "files/"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # a million files' worth; more is no manifest

# manual: somebody asked. scheduled: the timer. migration: before the schema changed.
Kind = Literal["manual", "scheduled", "migration"]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0)]


class Member(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One member of the tar beside the manifest, as it lies in it."""

    name: str
    bytes: Size
    sha256: Sha256


class DatabaseFacts(Struct, frozen=True, kw_only=True, rename="camel"):
    """The database inside, unpacked: what it is, and what must be found in it again."""

    bytes: Size
    sha256: Sha256
    application_id: int
    schema_version: int
    sqlite_version: str
    epoch: str
    model: str | None               # key of the embedding model that served; null before the first one
    rows: dict[str, Size]           # by table


class Manifest(Struct, frozen=True, kw_only=True, rename="camel"):
    """All that a backup says of itself. `createdAt` is the moment whose state it holds."""

    format: Annotated[int, Meta(ge=1)]
    name: str
    kind: Kind
    created_at: Annotated[int, Meta(ge=0)]
    program: str                    # version of the nexusd that made it
    database: DatabaseFacts
    members: list[Member]           # in the order of the tar
    note: str | None = None         # what it was made for, if somebody said it


# Made once, while there is one thread: two that decode a type for the first time at the same moment crash msgspec.
MANIFESTS = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as people read it too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        ValueError: it is none, or of a newer format; the message says which.
    """
    try:
        manifest = MANIFESTS.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ValueError(f"the manifest cannot be read: {error}") from None
    if manifest.format > FORMAT:
        raise ValueError(f"the manifest has format {manifest.format}, this program knows {FORMAT} at most")
    return manifest
