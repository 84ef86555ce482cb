"""What SQLite alone does here: the same schema, triggers and outbox rows, by apsw in one process, no daemon."""

from __future__ import annotations

import time
from pathlib import Path

from texts import Texts

from nexusd.store.connection import open_writer
from nexusd.store.migrations import load_migrations, migrate

BATCH = 64
CHECKPOINT_EVERY = 64  # batches; about what the daemon's own 4 MB of log come to


# a trigger that follows rows into the outbox
OUTBOX_TRIGGERS = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%\\_outbox\\_%' ESCAPE '\\'"


def drop_outbox_triggers(database: Path) -> None:
    """Make a database whose rows no outbox follows; the daemon takes it as any other."""
    db = open_writer(database, "FULL")
    for (name,) in db.execute(OUTBOX_TRIGGERS).fetchall():
        db.execute(f"DROP TRIGGER {name}")
    db.close()


def bare_creates_per_second(directory: Path, seconds: float) -> float:
    """Durable inserts of exchanges a second, in transactions of 64."""
    directory.mkdir(parents=True)
    db = open_writer(directory / "bare.db", "FULL")
    migrate(db, load_migrations(), None)
    texts = Texts(seed=1)
    now_ms = time.time_ns() // 1_000_000
    db.execute(
        "INSERT INTO sessions (external_id, metadata, created_at, updated_at) VALUES ('bare', '{}', ?, ?)",
        (now_ms, now_ms),
    )
    pool = [(texts.sentence(), texts.sentence()) for _ in range(2000)]
    rows, batches = 0, 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(BATCH):
            user, assistant = pool[rows % len(pool)]
            db.execute(
                "INSERT INTO episodes (session_id, user_message, ai_response, metadata, created_at, updated_at) "
                "VALUES (1, ?, ?, '{}', ?, ?)",
                (user, assistant, now_ms, now_ms),
            ).fetchall()
            rows += 1
        db.execute("COMMIT")
        batches += 1
        if batches % CHECKPOINT_EVERY == 0:
            db.wal_checkpoint()
    took_s = time.perf_counter() - began
    db.close()
    return rows / took_s
