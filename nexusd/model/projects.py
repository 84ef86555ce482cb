"""Projects: named groupings of sessions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.fields import Id, Mutation, Name, Record, TimeMs


class Project(Record, frozen=True, kw_only=True):
    """A named grouping of sessions."""

    id: Id
    name: str
    description: str | None
    colour: str | None
    icon: str | None
    created_at: TimeMs
    updated_at: TimeMs


class CreateProject(Mutation, frozen=True, kw_only=True):
    """Parameters of projects.create."""

    name: Annotated[Name, Meta(description="Name for people.")]
    description: Annotated[str | None, Meta(description="What the project is about.")] = None
    colour: Annotated[str | None, Meta(description="A colour for display, such as #3d3a79.")] = None
    icon: Annotated[str | None, Meta(description="An icon for display.")] = None
