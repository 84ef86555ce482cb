"""Whether a stopped daemon's data agree with themselves: rows, full text, outbox and index."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw

from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig, IndexConfig
from nexusd.embedding.embedder import Fingerprint
from nexusd.embedding.model_files import identify
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import CollectionSpec


def assert_store_is_sound(data: Path) -> dict[int, int]:
    """SQLite, foreign keys and the full-text index check clean; the versions of the exchanges by id."""
    db = apsw.Connection(str(data / "nexus.db"))
    try:
        assert db.pragma("integrity_check") == "ok"
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.execute("INSERT INTO episodes_fts (episodes_fts, rank) VALUES ('integrity-check', 1)")
        return dict(db.execute("SELECT id, version FROM episodes"))
    finally:
        db.close()


def indexed_versions(data: Path, model: Fingerprint | None = None) -> dict[int, int]:
    """What the embedded index holds of the exchanges, under the built-in model or another: versions by id."""
    fingerprint = model or identify(EmbeddingConfig())

    async def scroll_all() -> dict[int, int]:
        name = f"episodes-{fingerprint.short}"
        index = EmbeddedIndex(data / "index", IndexConfig(), SystemClock())
        await index.start()
        try:
            await index.ensure(CollectionSpec(name, fingerprint.dimension))
            found: dict[int, int] = {}
            while page := await index.scroll(name, max(found, default=0), 1000):
                found.update({point.id: point.version for point in page})
            return found
        finally:
            await index.close()

    return asyncio.run(scroll_all())
