"""The graph that entities and relationships make."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexusd.model.entities import Entity
from nexusd.model.fields import MAX_PAGE, Id, Params
from nexusd.model.relationships import Label, Relationship

MAX_DEPTH = 6   # half a dozen steps reach nearly everything that hangs together
Direction = Literal["out", "in", "both"]


class FindNeighbours(Params, frozen=True, kw_only=True):
    """Parameters of graph.neighbours: what can be reached from an entity, the nearest first."""

    id: Id
    depth: Annotated[int, Meta(ge=1, le=MAX_DEPTH, description="How many links away at most.")] = 1
    labels: Annotated[
        list[Label] | None, Meta(description="Follow and answer only relationships of these labels; at most 64.")
    ] = None
    direction: Annotated[
        Direction, Meta(description="Which way links are followed: from their beginning, from their end, or both.")
    ] = "both"
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="How many entities at most, beside the first.")] = 100

    def __post_init__(self) -> None:
        """Hold the list's length here: a constraint on a union of list and None binds to neither."""
        if self.labels is not None and not 1 <= len(self.labels) <= 64:
            raise ValueError("expected `labels` of 1 to 64 items")


class Neighbour(Struct, frozen=True, kw_only=True, rename="camel"):
    """An entity of the neighbourhood.

    `depth` is how many links away it is; `via` is the relationship that leads to it from an entity one link nearer,
    null for the entity asked for.
    """

    entity: Entity
    depth: int
    via: Id | None


class Neighbourhood(Struct, frozen=True, kw_only=True, rename="camel"):
    """What graph.neighbours answers: the entity asked for and those reached, by depth and then by id.

    `edges` are the relationships among them, by id. `truncated`: there is more than was looked at or fits.
    """

    nodes: list[Neighbour]
    edges: list[Relationship]
    truncated: bool
