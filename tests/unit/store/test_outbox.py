from __future__ import annotations

import pytest

from nexusd.errors import InvalidParams, OutboxRowNotFound
from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.outbox import ListOutbox
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.episodes import delete_episode, insert_episode, insert_episodes, update_episode
from nexusd.store.outbox import (
    OutboxEntry,
    bury,
    claim_batch,
    count_outbox,
    finish_batch,
    list_outbox,
    next_due_ms,
    postpone,
    release_batch,
    requeue_collection,
    reset_inflight,
    retry_dead,
    unfinished,
)

NOW = 1_000_000
BACKOFF = 300_000


def add(db: Connection, session: Session, count: int) -> list[int]:
    items = [NewEpisode(session_id=session.id, user_message=f"m{i}", ai_response="") for i in range(count)]
    return [episode.id for episode in insert_episodes(db, items, NOW)]


def claim(db: Connection, limit: int = 100, now_ms: int = NOW) -> list[OutboxEntry]:
    """All that is due, or the `limit` oldest; what has its turn when is claimed elsewhere."""
    entries = sorted(claim_batch(db, 100, now_ms, BACKOFF, ("episodes",)), key=lambda entry: entry.seq)
    release_batch(db, entries[limit:])
    return entries[:limit]


def state(db: Connection, row_id: int) -> tuple[object, ...]:
    sql = "SELECT op, version, state, attempts, not_before_ms, error_kind, error FROM outbox WHERE row_id = ?"
    return db.execute(sql, (row_id,)).fetchall()[0]


def test_finish_removes_what_is_as_it_was_claimed(db: Connection, session: Session) -> None:
    same, changed, deleted, requeued = add(db, session, 4)
    entries = claim(db)
    update_episode(db, UpdateEpisode(id=changed, user_message="new"), NOW)
    delete_episode(db, deleted)
    assert finish_batch(db, entries[:3]) == 1
    assert unfinished(db, "episodes", [same, changed, deleted]) == {changed: "pending", deleted: "pending"}
    requeue_collection(db, "episodes", NOW)     # the index was wiped: what was sent is lost, of any version
    assert finish_batch(db, entries[3:]) == 0
    assert unfinished(db, "episodes", [requeued]) == {requeued: "pending"}


def test_an_old_claim_does_not_finish_a_newer_one(db: Connection, session: Session) -> None:
    (row_id,) = add(db, session, 1)
    old = claim(db)
    update_episode(db, UpdateEpisode(id=row_id, user_message="new"), NOW)
    new = claim(db)
    assert finish_batch(db, old) == 0
    assert state(db, row_id)[:3] == ("upsert", 2, "inflight")
    assert finish_batch(db, new) == 1


@pytest.mark.parametrize("kind", ["release", "postpone", "bury"])
def test_a_change_meanwhile_is_never_held_back(db: Connection, session: Session, kind: str) -> None:
    (row_id,) = add(db, session, 1)
    entries = claim(db)
    update_episode(db, UpdateEpisode(id=row_id, user_message="new"), NOW)
    if kind == "release":
        release_batch(db, entries, NOW + 5)
    elif kind == "postpone":
        postpone(db, entries, NOW + 5, "busy", "later")
    else:
        bury(db, entries[0], "bad_content", "never")
    assert state(db, row_id) == ("upsert", 2, "pending", 0, 0, None, None)


def test_release_counts_no_attempt_and_postpone_does(db: Connection, session: Session) -> None:
    released, postponed = add(db, session, 2)
    entries = claim(db)
    release_batch(db, entries[:1], NOW + 1)
    postpone(db, entries[1:], NOW + 5, "internal_error", "oops")
    assert state(db, released) == ("upsert", 1, "pending", 0, NOW + 1, None, None)
    assert state(db, postponed) == ("upsert", 1, "pending", 1, NOW + 5, "internal_error", "oops")
    assert claim(db) == []
    assert next_due_ms(db, NOW, BACKOFF, ("episodes",)) == NOW + 1
    assert [e.row_id for e in claim(db, now_ms=NOW + 4)] == [released]
    assert [e.row_id for e in claim(db, now_ms=NOW + 5)] == [postponed]
    assert next_due_ms(db, NOW, BACKOFF, ("episodes",)) is None


def test_a_clock_set_back_holds_nothing_up(db: Connection, session: Session) -> None:
    (row_id,) = add(db, session, 1)
    postpone(db, claim(db), NOW + BACKOFF, "busy", "later")
    assert claim(db) == []
    a_year_ago = NOW - BACKOFF
    assert next_due_ms(db, a_year_ago, BACKOFF, ("episodes",)) == 0
    assert [e.row_id for e in claim(db, now_ms=a_year_ago)] == [row_id]


def test_a_new_change_forgets_the_old_failures(db: Connection, session: Session) -> None:
    (row_id,) = add(db, session, 1)
    bury(db, claim(db)[0], "bad_content", "why")
    assert state(db, row_id) == ("upsert", 1, "dead", 1, 0, "bad_content", "why")
    delete_episode(db, row_id)
    assert state(db, row_id) == ("delete", 2, "pending", 0, 0, None, None)


def test_dead_letters_are_counted_listed_and_retried(db: Connection, session: Session) -> None:
    ids = add(db, session, 4)
    entries = claim(db, 3)
    for entry in entries[:2]:
        bury(db, entry, "bad_content", "why")
    counts = count_outbox(db)
    assert (counts.pending, counts.inflight, counts.dead, counts.oldest_ms) == (1, 1, 2, NOW)
    dead = list_outbox(db, ListOutbox(state="dead"))
    assert [(row.row_id, row.error_kind, row.error) for row in dead.items] == [
        (row_id, "bad_content", "why") for row_id in ids[:2]
    ]
    with pytest.raises(OutboxRowNotFound):
        retry_dead(db, [entries[2].seq, 999], NOW + 9)
    assert retry_dead(db, [entries[0].seq, entries[2].seq, 999], NOW + 9) == 1
    assert state(db, ids[0]) == ("upsert", 1, "pending", 0, 0, None, None)
    assert retry_dead(db, [], NOW + 9) == 1
    assert count_outbox(db).dead == 0


def test_oldest_is_the_oldest_living(db: Connection, session: Session) -> None:
    add(db, session, 1)
    bury(db, claim(db)[0], "bad_content", "why")
    assert count_outbox(db).oldest_ms is None
    insert_episode(db, NewEpisode(session_id=session.id, user_message="x", ai_response=""), NOW + 7)
    assert count_outbox(db).oldest_ms == NOW + 7
    claim(db)
    assert count_outbox(db).oldest_ms == NOW + 7


def test_inflight_of_a_dead_daemon_is_pending_again(db: Connection, session: Session) -> None:
    add(db, session, 2)
    claim(db)
    assert reset_inflight(db) == 2
    assert len(claim(db)) == 2


def test_requeue_queues_every_row_and_spares_the_deletes(db: Connection, session: Session) -> None:
    kept, gone, dead = add(db, session, 3)
    entries = claim(db)
    finish_batch(db, entries[:2])
    bury(db, entries[2], "bad_content", "why")
    delete_episode(db, gone)
    assert requeue_collection(db, "episodes", NOW) == 2
    assert state(db, kept)[:3] == ("upsert", 1, "pending")
    assert state(db, dead)[:3] == ("upsert", 1, "pending")
    assert state(db, gone)[:3] == ("delete", 2, "pending")
    with pytest.raises(InvalidParams):
        requeue_collection(db, "nonsense", NOW)


def test_list_pages_by_seq_and_filters(db: Connection, session: Session) -> None:
    ids = add(db, session, 5)
    first = list_outbox(db, ListOutbox(limit=2))
    claimed = claim(db, 3)
    finish_batch(db, claimed[:2])   # the page's own rows go
    second = list_outbox(db, ListOutbox(limit=2, cursor=first.next_cursor))
    third = list_outbox(db, ListOutbox(limit=2, cursor=second.next_cursor))
    assert [row.row_id for page in (first, second, third) for row in page.items] == ids
    assert third.next_cursor is None
    assert [row.row_id for row in list_outbox(db, ListOutbox(state="inflight")).items] == [ids[2]]
    assert list_outbox(db, ListOutbox(collection="entities")).items == []
    assert [row.row_id for row in list_outbox(db, ListOutbox(offset=1)).items] == ids[3:]
