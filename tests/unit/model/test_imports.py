"""Whatever a method lets into the store an import takes: an export that comes back with less would be no export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from nexusd.model.conversations import CreateConversation, UpdateConversation
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.groups import CreateGroup, UpdateGroup
from nexusd.model.messages import NewMessage
from nexusd.model.projects import CreateProject, UpdateProject
from nexusd.model.relationships import NewRelationship
from nexusd.model.sessions import CreateSession, UpdateSession
from nexusd.model.summaries import CreateSummary
from nexusd.model.tool_logs import AppendToolLog
from nexusd.model.vectors import NewVector, StoreVector
from nexusd.store.import_targets import TARGETS

STORED: dict[str, list[type[Any]]] = {
    "projects": [CreateProject, UpdateProject], "sessions": [CreateSession, UpdateSession],
    "episodes": [NewEpisode, UpdateEpisode], "entities": [NewEntity], "relationships": [NewRelationship],
    "summaries": [CreateSummary], "groups": [CreateGroup, UpdateGroup],
    "conversations": [CreateConversation, UpdateConversation], "messages": [NewMessage], "toolLogs": [AppendToolLog],
    "vectors": [NewVector, StoreVector],
}  # fmt: skip
FLOORS, CEILINGS = ("min_length", "ge", "gt"), ("max_length", "le", "lt")


def kinds(given: Any) -> Iterator[Any]:
    """What a field may be, without its descriptions."""
    if isinstance(given, inspect.Metadata):
        yield from kinds(given.type)
    elif isinstance(given, inspect.UnionType):
        for one in given.types:
            yield from kinds(one)
    else:
        yield given


def narrower(taken: Any, stored: Any) -> list[str]:
    """The bounds by which less is taken than is stored."""
    found = []
    for names, is_less in ((FLOORS, lambda a, b: a > b), (CEILINGS, lambda a, b: a < b)):
        for name in names:
            bound, theirs = getattr(taken, name, None), getattr(stored, name, None)
            if bound is not None and (theirs is None or is_less(bound, theirs)):
                found.append(f"{name} {bound}, not {theirs}")
    return found


@pytest.mark.parametrize("table", STORED)
def test_no_import_is_narrower_than_what_stores_the_same(table: str) -> None:
    taken = {one.name: one for one in msgspec.inspect.type_info(TARGETS[table].row).fields}  # type: ignore[index, attr-defined]  # a name of a table; a struct's
    compared, problems = 0, []
    for struct in STORED[table]:
        for one in msgspec.inspect.type_info(struct).fields:    # type: ignore[attr-defined]  # as above
            if one.name not in taken:
                continue
            ours = {type(kind): kind for kind in kinds(taken[one.name].type)}
            for kind in kinds(one.type):
                if type(kind) in ours:
                    compared += 1
                    problems += [f"{struct.__name__}.{one.name}: {said}" for said in narrower(ours[type(kind)], kind)]
    assert not problems
    assert compared
