"""A collection in which nothing was stored yet: a manifest that names no shard. Runs in the index's child only.

Owns nothing but that. Every shard that is open costs 6 MB, two threads and 10 ms at each start, and most stores
never fill all of the collections that there are; so the first points are what makes it a shard.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import msgspec

from nexusd.index.durable import sync_directory, write_durably
from nexusd.index.edge_collection import MANIFEST, Manifest, read_manifest
from nexusd.index.edge_payload import edge_filter
from nexusd.index.edge_shard import BrokenShardError, ShardUnusableError


class EmptyCollection:
    """Answers as a collection without points does."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path, *, dimension: int, distance: str) -> EmptyCollection | None:
        """The collection, made if it is missing; None if it has a shard, or its manifest is broken.

        Raises:
            SpecMismatchError: it exists with another dimension or distance.
            ShardUnusableError: it cannot be made.
        """
        try:
            manifest = read_manifest(directory)
            if manifest is None:  # never finished being made
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(parents=True)
                manifest = Manifest(dimension, distance, uuid.uuid4().hex, "")
                write_durably(directory / MANIFEST, msgspec.json.encode(manifest))
                sync_directory(directory.parent)
        except BrokenShardError:
            return None
        except OSError as error:
            raise ShardUnusableError(f"cannot make {directory.name}: {error}") from error
        if manifest.shard:
            return None
        manifest.check(directory.name, dimension, distance)
        return cls(directory, manifest)

    def search(self, _vector: bytes, _limit: int, where: dict[str, Any] | None) -> list[tuple[int, int, float]]:
        """Nothing.

        Raises:
            ValueError: the filter cannot be said.
        """
        if where is not None:
            edge_filter(where)
        return []

    def scroll(self, _after_id: int, _limit: int) -> list[tuple[int, int, str]]:
        """Nothing."""
        return []

    def count(self) -> int:
        """0."""
        return 0
