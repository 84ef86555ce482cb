"""How far the index is behind, by collection."""

from __future__ import annotations

import json

from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import Session
from nexusd.store.backlog import COUNT_COLLECTIONS, count_collections
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episodes
from nexusd.store.outbox import OutboxCounts, bury, claim_batch, count_outbox

NOW = 1_000_000
QUEUE = "INSERT INTO outbox (collection, row_id, version, op, created_ms) VALUES (?, ?, 1, 'upsert', ?)"


def test_rows_are_counted_by_collection_and_state_with_the_age_of_the_oldest_that_lives(
    db: Connection, session: Session
) -> None:
    items = [NewEpisode(session_id=session.id, user_message=f"m{i}", ai_response="") for i in range(5)]
    insert_episodes(db, items, NOW)
    for row_id in range(3):
        db.execute(QUEUE, ("messages", row_id, NOW - 500 + row_id))
    entries = claim_batch(db, 3, NOW, 1000, ["episodes"])
    bury(db, entries[0], "bad_content", "no")
    db.execute(QUEUE, ("vectors", 1, NOW - 900))
    (only,) = claim_batch(db, 1, NOW, 1000, ["vectors"])
    bury(db, only, "bad_content", "no")

    assert count_collections(db) == {
        "episodes": OutboxCounts(pending=2, inflight=2, dead=1, oldest_ms=NOW),
        "messages": OutboxCounts(pending=3, inflight=0, dead=0, oldest_ms=NOW - 500),
        "vectors": OutboxCounts(pending=0, inflight=0, dead=1, oldest_ms=None),
    }
    total = count_outbox(db)
    assert (total.pending, total.inflight, total.dead) == (5, 2, 2)


def test_an_oldest_row_that_is_under_way_is_the_oldest_still(db: Connection, session: Session) -> None:
    insert_episodes(db, [NewEpisode(session_id=session.id, user_message="m", ai_response="")], NOW)
    claim_batch(db, 1, NOW, 1000, ["episodes"])
    db.execute(QUEUE, ("episodes", 77, NOW + 5))
    assert count_collections(db)["episodes"].oldest_ms == NOW


def test_an_empty_outbox_has_no_collections(db: Connection) -> None:
    assert count_collections(db) == {}


def test_the_many_are_counted_without_looking_at_the_rows(db: Connection) -> None:
    (plan,) = db.execute(f"EXPLAIN QUERY PLAN {COUNT_COLLECTIONS.format(queue='outbox')}").fetchall()
    assert "COVERING INDEX" in json.dumps(plan)
