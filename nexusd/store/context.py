"""What a context package needs beside the search: what a session was about before, and the entities in its texts.

Owns three reads and no table. Knows neither budget nor wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from nexusd.model.entities import Entity
from nexusd.model.summaries import Summary
from nexusd.store.connection import Connection
from nexusd.store.entities import ENTITY_COLUMNS, entity_from_row
from nexusd.store.summaries import SUMMARY_COLUMNS, summary_from_row
from nexusd.store.text_budget import TextBudget

# a session's summaries whose run begins before a place, or that tell no run, newest first
SELECT_SUMMARIES_BEFORE = f"""
SELECT {SUMMARY_COLUMNS} FROM summaries s
WHERE s.session_id = ? AND (s.first_episode_at IS NULL OR (s.first_episode_at, s.first_episode_id) < (?, ?))
ORDER BY s.created_at DESC, s.id DESC LIMIT ?"""

# the entities of these names in any case, in the order in which the names were given; CROSS JOIN looks each up by
# the index
SELECT_NAMED = f"""
SELECT {ENTITY_COLUMNS} FROM json_each(?) asked CROSS JOIN entities n ON n.name = asked.value COLLATE NOCASE
ORDER BY asked.key, n.id LIMIT ?"""

# an entity's relationships: those from it, then those to it, each the oldest first
SELECT_LINKS = """
SELECT r.id, source.name, r.label, target.name
FROM (
    SELECT * FROM (SELECT id, from_id, to_id, label FROM relationships WHERE from_id = ?1 ORDER BY id LIMIT ?2)
    UNION ALL
    SELECT * FROM (
        SELECT id, from_id, to_id, label FROM relationships
        WHERE to_id = ?1 AND from_id <> ?1 ORDER BY id LIMIT ?2)
    LIMIT ?2
) r JOIN entities source ON source.id = r.from_id JOIN entities target ON target.id = r.to_id
ORDER BY r.from_id <> ?1, r.id"""


_AFTER_ALL = (2**63 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class NamedLink:
    """A relationship, with the names of its ends."""

    id: int
    source: str
    label: str
    target: str


def summaries_before(
    db: Connection, session_id: int, place: tuple[int, int] | None, count: int
) -> list[Summary]:
    """The session's latest summaries of what came before an exchange, newest first; None: before none, so all.

    The exchange is told by its place: when it was made, and its id.
    """
    budget, newest_first = TextBudget(), list[Summary]()
    for row in db.execute(SELECT_SUMMARIES_BEFORE, (session_id, *(place or _AFTER_ALL), count)):
        summary = summary_from_row(row)
        if not budget.take(summary.content):
            break
        newest_first.append(summary)
    return newest_first


def entities_named(db: Connection, names: Sequence[str], count: int) -> list[Entity]:
    """The first entities that are called one of these names, in whatever case, as many as an answer may hold."""
    budget, found = TextBudget(), list[Entity]()
    for row in db.execute(SELECT_NAMED, (msgspec.json.encode(names).decode(), count)):
        entity = entity_from_row(row)
        if not budget.take(entity.notes or ""):
            break
        found.append(entity)
    return found


def select_links(db: Connection, entity_ids: Sequence[int], count: int) -> dict[int, list[NamedLink]]:
    """Of each of the entities the first `count` relationships, at either end."""
    return {id_: [NamedLink(*row) for row in db.execute(SELECT_LINKS, (id_, count))] for id_ in entity_ids}
