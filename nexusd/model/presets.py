"""Presets: named settings for a model or an assistant, each a YAML file that people edit too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from nexusd.model.fields import Id, Mutation, Name, Page, Params, Record, TimeMs

FileState = Literal["ok", "broken"]
FileName = Annotated[
    Name,
    Meta(description="1 to 64 letters and digits of any script, spaces and `-_.`; the file is named for it."),
]
PresetContent = Annotated[
    dict[str, Any], Meta(description="Any JSON object; it takes the place of what is there. Comments in the file go.")
]


class Preset(Record, frozen=True, kw_only=True):
    """A preset as it was last read. A broken file serves the last content that was good, or null if none was."""

    id: Id | None
    name: str
    content: dict[str, Any] | None
    state: FileState
    problem: str | None
    created_at: TimeMs | None
    updated_at: TimeMs | None


class CreatePreset(Mutation, frozen=True, kw_only=True):
    """Parameters of presets.create."""

    name: FileName
    content: PresetContent


class PutPreset(Mutation, frozen=True, kw_only=True):
    """Parameters of presets.put."""

    name: FileName
    content: PresetContent


class UpdatePreset(Mutation, frozen=True, kw_only=True):
    """Parameters of presets.update."""

    name: FileName
    content: PresetContent


class GetPreset(Params, frozen=True, kw_only=True):
    """Parameters of presets.get."""

    name: FileName | None = None
    id: Id | None = None

    def __post_init__(self) -> None:
        """Something to find it by."""
        if (self.name is None) == (self.id is None):
            raise ValueError("expected exactly one of `name` and `id`")


class ListPresets(Page, frozen=True, kw_only=True):
    """Parameters of presets.list: by name."""


class DeletePreset(Mutation, frozen=True, kw_only=True):
    """Parameters of presets.delete."""

    name: FileName
