"""A store of many exchanges with their vectors, written straight into the database.

The vectors are made up (points around centres, as real ones lie), and stored as if the model had been paid for
them: the daemon takes them to the index through its outbox without embedding anything.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from texts import Texts

from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.model_files import identify
from nexusd.store.connection import open_writer
from nexusd.store.episodes import EpisodeSource
from nexusd.store.migrations import load_migrations, migrate
from nexusd.sync.sources import episode_document

SESSION_ROWS = 100
CENTRES = 2000
SPREAD = 0.6  # of a vector around its centre; 0 would be all the same, 1 and more no structure at all
BATCH = 2000


def prefill(database: Path, episodes: int) -> None:
    """Make the database with so many exchanges, each with its vector and its outbox row."""
    fingerprint = identify(EmbeddingConfig())
    database.parent.mkdir(parents=True, exist_ok=True)
    db = open_writer(database, "NORMAL")
    migrate(db, load_migrations(), None)
    texts, chance = Texts(seed=2), np.random.default_rng(3)
    centres = chance.standard_normal((CENTRES, fingerprint.dimension))
    start_ms = time.time_ns() // 1_000_000 - episodes * 1000
    db.execute("INSERT INTO projects (name, created_at, updated_at) VALUES ('bench', ?, ?)", (start_ms, start_ms))
    for first in range(0, episodes, BATCH):
        count = min(BATCH, episodes - first)
        vectors = centres[chance.integers(0, CENTRES, count)] + SPREAD * chance.standard_normal(
            (count, fingerprint.dimension)
        )
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
        with db:
            for offset in range(count):
                row = first + offset
                now_ms = start_ms + row * 1000
                if row % SESSION_ROWS == 0:
                    db.execute(
                        "INSERT INTO sessions (external_id, project_id, created_at, updated_at) VALUES (?, 1, ?, ?)",
                        (f"bench-{row // SESSION_ROWS}", now_ms, now_ms),
                    )
                session = row // SESSION_ROWS + 1
                user, assistant = texts.sentence(), texts.sentence()
                db.execute(
                    "INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (session, user, assistant, now_ms, now_ms),
                )
                row_id = db.last_insert_rowid()
                source = EpisodeSource(
                    id=row_id, version=1, session_id=session, project_id=1, user_message=user,
                    ai_response=assistant, metadata={}, created_at=now_ms,
                )
                db.execute(
                    "INSERT INTO embeddings (collection, row_id, model, dim, content_hash, vector) "
                    "VALUES ('episodes', ?, ?, ?, ?, ?)",
                    (row_id, fingerprint.short, fingerprint.dimension,
                     episode_document(source, "").content_hash, vectors[offset].tobytes()),
                )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
