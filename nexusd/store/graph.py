"""A walk over entities and relationships, breadth first.

Owns the order of the walk and what bounds it: an entity that everything is linked to must not hold a reader for
long. Links come as rows of JSON, those of many entities at once: between two rows SQLite gives the interpreter's
lock away, and a busy loop takes its time to give it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from nexusd.errors import EntityNotFound
from nexusd.model.graph import Direction, FindNeighbours, Neighbour, Neighbourhood
from nexusd.model.relationships import Relationship
from nexusd.store.connection import Connection
from nexusd.store.entities import select_entities
from nexusd.store.relationships import RELATIONSHIP_COLUMNS, entity_exists, relationship_from_row
from nexusd.store.text_budget import MAX_ANSWER_TEXT, TextBudget

MAX_LINKS_OF_ONE = 2_000    # followed of one entity, each way: the first by label, then by the other end
MAX_LINKS = 20_000          # followed in all, which takes about 15 ms
MAX_EDGES = 2_000           # answered, beside those that led to an entity
SLICE = MAX_LINKS // MAX_LINKS_OF_ONE   # entities in one statement: no more links than may be followed
ENTITIES_TEXT = MAX_ANSWER_TEXT * 3 // 4
EDGES_TEXT = MAX_ANSWER_TEXT - ENTITIES_TEXT

# of some entities the links that begin there, the first few of each: the other end and the link
FOLLOW_OUT = """
SELECT json_group_array(json((
    SELECT json_group_array(json_array(to_id, id)) FROM (
        SELECT to_id, id FROM relationships INDEXED BY relationships_by_source
        WHERE from_id = asked.value {labelled} ORDER BY label, to_id LIMIT :most))))
FROM json_each(:ids) asked"""

# the same of the links that end there
FOLLOW_IN = """
SELECT json_group_array(json((
    SELECT json_group_array(json_array(from_id, id)) FROM (
        SELECT from_id, id FROM relationships INDEXED BY relationships_by_target
        WHERE to_id = asked.value {labelled} ORDER BY label, from_id LIMIT :most))))
FROM json_each(:ids) asked"""

# the links among some entities; one look into the index for each pair of them, whatever else they are linked to
SELECT_AMONG = """
SELECT json_group_array(id) FROM (
    SELECT r.id FROM json_each(:ids) asked CROSS JOIN relationships r INDEXED BY sqlite_autoindex_relationships_1
    WHERE r.from_id = asked.value AND r.to_id IN (SELECT value FROM json_each(:ids)) {labelled}
    LIMIT :most)"""

# relationships by their ids
SELECT_RELATIONSHIPS = f"""
SELECT {RELATIONSHIP_COLUMNS} FROM relationships r WHERE r.id IN (SELECT value FROM json_each(?)) ORDER BY r.id"""

# only of these labels; the second does not look into the index for each label as well
LABELLED = "AND label IN (SELECT value FROM json_each(:labels))"
AMONG_LABELLED = "AND +r.label IN (SELECT value FROM json_each(:labels))"

_WAYS: dict[Direction, tuple[str, ...]] = {
    "out": (FOLLOW_OUT,),
    "in": (FOLLOW_IN,),
    "both": (FOLLOW_OUT, FOLLOW_IN),
}


def find_neighbours(db: Connection, params: FindNeighbours) -> Neighbourhood:
    """What can be reached from an entity, the nearest first, and the relationships among it.

    Raises:
        EntityNotFound: there is none of this id.
    """
    if not entity_exists(db, params.id):
        raise EntityNotFound
    walk = _Walk(db, params)
    frontier = [params.id]
    for depth in range(1, params.depth + 1):
        frontier = walk.step(frontier, depth)
    return walk.answer()


class _Walk:
    """One walk: what was reached, and what of its budget is left."""

    def __init__(self, db: Connection, params: FindNeighbours) -> None:
        self._db = db
        self._ways = _WAYS[params.direction]
        self._labels = None if params.labels is None else _json(params.labels)
        self._room = params.limit
        self._links = MAX_LINKS
        self._reached: dict[int, tuple[int, int | None]] = {params.id: (0, None)}    # depth and via, in order
        self._truncated = False

    def step(self, frontier: Sequence[int], depth: int) -> list[int]:
        """Go one link further from each of these; the entities that were not reached before, by id."""
        found: dict[int, int] = {}
        for way in self._ways:
            for start in range(0, len(frontier), SLICE):
                for other, link in self._follow(way, frontier[start : start + SLICE]):
                    if other not in self._reached:
                        found[other] = min(link, found.get(other, link))
        entities = sorted(found)
        self._truncated |= len(entities) > self._room
        del entities[self._room :]
        self._room -= len(entities)
        self._reached.update((entity, (depth, found[entity])) for entity in entities)
        return entities

    def _follow(self, way: str, entities: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The other end of each link, and the link; none that is past a bound."""
        if self._truncated and self._room == 0:
            return      # whatever there is, the answer would be the same
        # one more than may be followed tells that there are more
        of_each: list[list[tuple[int, int]]] = self._one(
            way, LABELLED, ids=_json(entities), most=MAX_LINKS_OF_ONE + 1
        )
        for links in of_each:
            most = min(self._links, MAX_LINKS_OF_ONE)
            self._truncated |= len(links) > most
            self._links -= min(len(links), most)
            yield from links[:most]

    def answer(self) -> Neighbourhood:
        """The rows of what was reached, as far as an answer may hold them."""
        budget = TextBudget(ENTITIES_TEXT)
        entities = select_entities(self._db, list(self._reached), budget)
        self._truncated |= budget.exhausted
        nodes = [
            Neighbour(entity=entity, depth=self._reached[id_][0], via=self._reached[id_][1])
            for id_, entity in entities.items()
        ]
        edges = self._edges(nodes)
        return Neighbourhood(nodes=nodes, edges=edges, truncated=self._truncated)

    def _edges(self, nodes: Sequence[Neighbour]) -> list[Relationship]:
        ids = _json([node.entity.id for node in nodes])
        among: list[int] = self._one(SELECT_AMONG, AMONG_LABELLED, ids=ids, most=MAX_EDGES + 1)
        self._truncated |= len(among) > MAX_EDGES
        wanted = {*among[:MAX_EDGES], *(node.via for node in nodes if node.via is not None)}
        budget, edges = TextBudget(EDGES_TEXT), list[Relationship]()
        for row in self._db.execute(SELECT_RELATIONSHIPS, (_json(sorted(wanted)),)):
            if not budget.take(row[4]):
                self._truncated = True
                break
            edges.append(relationship_from_row(row))
        return edges

    def _one(self, sql: str, labelled: str, **values: str | int) -> Any:
        """The one value of a statement over links, which is JSON; of these labels only, where some were given."""
        if self._labels is None:
            labelled = ""
        else:
            values["labels"] = self._labels
        return msgspec.json.decode(self._db.execute(sql.format(labelled=labelled), values).get)


def _json(values: Sequence[int] | Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()
