"""presets.*: named settings, each a YAML file."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.errors import BadContent, BadName, Conflict, PresetNotFound
from nexusd.files.presets import PresetFiles
from nexusd.model.fields import Deletion, Listing
from nexusd.model.presets import (
    CreatePreset,
    DeletePreset,
    GetPreset,
    ListPresets,
    Preset,
    PutPreset,
    UpdatePreset,
)
from nexusd.wire.methods import Call, Method


class PresetsApi:
    """The methods on presets."""

    def __init__(self, presets: PresetFiles) -> None:
        self._presets = presets

    async def create(self, call: Call, params: CreatePreset) -> Preset | msgspec.Raw:
        """Make a preset."""
        receipt = receipt_for(call, "presets.create", params)
        return await self._presets.put(params.name, params.content, receipt, "create")

    async def page(self, _call: Call, params: ListPresets) -> Listing[Preset]:
        """A page of presets."""
        return await self._presets.page(params)

    def get(self, _call: Call, params: GetPreset) -> Preset:
        """One preset."""
        return self._presets.get(name=params.name, preset_id=params.id)

    async def update(self, call: Call, params: UpdatePreset) -> Preset | msgspec.Raw:
        """Replace the content of a preset."""
        receipt = receipt_for(call, "presets.update", params)
        return await self._presets.put(params.name, params.content, receipt, "update")

    async def put(self, call: Call, params: PutPreset) -> Preset | msgspec.Raw:
        """Make a preset, or replace its content."""
        receipt = receipt_for(call, "presets.put", params)
        return await self._presets.put(params.name, params.content, receipt, "put")

    async def delete(self, call: Call, params: DeletePreset) -> Deletion | msgspec.Raw:
        """Remove a preset and its file."""
        receipt = receipt_for(call, "presets.delete", params)
        return await self._presets.delete(params.name, receipt)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="presets.create",
                summary="Make a preset and its file presets/NAME.yaml.",
                params=CreatePreset,
                result=Preset,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(Conflict, BadName, BadContent),
                example={"name": "Chef", "content": {"temperature": 0.7, "prompt": "You cook."}},
                subject=_subject,
            ),
            Method(
                name="presets.list",
                summary="List presets by name, those among them whose file is broken, and why.",
                params=ListPresets,
                result=Listing[Preset],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="presets.get",
                summary="Get a preset by its name or id.",
                params=GetPreset,
                result=Preset,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(PresetNotFound, BadName, BadContent),
            ),
            Method(
                name="presets.update",
                summary="Replace the content of a preset that is there.",
                params=UpdatePreset,
                result=Preset,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(PresetNotFound, BadName, BadContent),
                subject=_subject,
            ),
            Method(
                name="presets.put",
                summary="Make a preset, or replace the content of the one that is there.",
                params=PutPreset,
                result=Preset,
                handler=self.put,
                role="write",
                mutates=True,
                errors=(BadName, BadContent),
                example={"name": "Chef", "content": {"temperature": 0.7}},
                subject=_subject,
            ),
            Method(
                name="presets.delete",
                summary="Remove a preset and its file.",
                params=DeletePreset,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(PresetNotFound, BadName, BadContent),
                subject=_subject,
            ),
        ]


def _subject(params: CreatePreset | UpdatePreset | PutPreset | DeletePreset, _result: object) -> Mapping[str, str]:
    return {"name": params.name}
