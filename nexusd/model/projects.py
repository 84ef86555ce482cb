"""Projects: named groupings of sessions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.fields import UNSET, Id, Mutation, Name, Page, Params, Record, TimeMs, UnsetType

# Bounded inside the union: a limit on a union of text and null binds to neither.
Description = Annotated[str, Meta(max_length=65_536, description="What the project is about.")]
Colour = Annotated[str, Meta(max_length=64, description="A colour for display, such as #3d3a79.")]
Icon = Annotated[str, Meta(max_length=4_096, description="An icon for display: a sign, a name or an address.")]


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
    """Parameters of projects.create. Names need not be unique."""

    name: Annotated[Name, Meta(description="Name for people.")]
    description: Description | None = None
    colour: Colour | None = None
    icon: Icon | None = None


class GetProject(Params, frozen=True, kw_only=True):
    """Parameters of projects.get."""

    id: Id


class ListProjects(Page, frozen=True, kw_only=True):
    """Parameters of projects.list: newest first."""


class UpdateProject(Mutation, frozen=True, kw_only=True):
    """Parameters of projects.update: what is not given stays as it is, null takes it away."""

    id: Id
    name: Annotated[Name | UnsetType, Meta(description="New name for people; not empty.")] = UNSET
    description: Description | UnsetType | None = UNSET
    colour: Colour | UnsetType | None = UNSET
    icon: Icon | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        """Something to change."""
        super().__post_init__()
        if all(change is UNSET for change in (self.name, self.description, self.colour, self.icon)):
            raise ValueError("expected at least one of `name`, `description`, `colour` and `icon`")


class DeleteProject(Mutation, frozen=True, kw_only=True):
    """Parameters of projects.delete."""

    id: Id
    with_contents: Annotated[
        bool, Meta(description="Its sessions go too, with their episodes and summaries; else they stay.")
    ] = False
