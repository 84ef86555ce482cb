"""Presets in SQLite: the last good content of each file.

Knows no file: what mirrors the files brings names and contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from nexusd.errors import PresetNotFound
from nexusd.model.presets import Preset
from nexusd.store.connection import Connection

_COLUMNS = "id, name, content, created_at, updated_at"

# a preset's content as it is now; the same content leaves the row as it is, and answers nothing
UPSERT_PRESET = f"""
INSERT INTO presets (name, content, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
ON CONFLICT (name) DO UPDATE SET content = excluded.content, updated_at = excluded.updated_at
    WHERE content IS NOT excluded.content
RETURNING {_COLUMNS}"""

# one preset by its name
SELECT_PRESET = f"SELECT {_COLUMNS} FROM presets WHERE name = ?"

# one preset by its id
SELECT_PRESET_BY_ID = f"SELECT {_COLUMNS} FROM presets WHERE id = ?"

# what presets there are
SELECT_PRESET_NAMES = "SELECT name FROM presets ORDER BY name"

# one preset
DELETE_PRESET = "DELETE FROM presets WHERE name = ?"


def _preset(row: tuple[Any, ...]) -> Preset:
    return Preset(
        id=row[0],
        name=row[1],
        content=msgspec.json.decode(row[2]),
        state="ok",
        problem=None,
        created_at=row[3],
        updated_at=row[4],
    )


def upsert_preset(db: Connection, name: str, content: str, now_ms: int) -> Preset:
    """Keep the content (JSON) under this name. The id stays; what changes nothing leaves the row as it is."""
    rows = db.execute(UPSERT_PRESET, (name, content, now_ms)).fetchall()
    return _preset(rows[0]) if rows else select_preset(db, name)


def mirror_presets(
    db: Connection, good: Sequence[tuple[str, str]], gone: Iterable[str], now_ms: int
) -> list[str]:
    """Take over what was read from files, and what files are gone; answer the names of which something changed."""
    changed = [name for name, content in good
               if db.execute(UPSERT_PRESET, (name, content, now_ms)).fetchall()]
    return changed + [name for name in gone if delete_preset(db, name)]


def select_preset(db: Connection, name: str) -> Preset:
    """One preset by its name.

    Raises:
        PresetNotFound: there is none.
    """
    row = db.execute(SELECT_PRESET, (name,)).fetchone()
    if row is None:
        raise PresetNotFound
    return _preset(row)


def select_preset_by_id(db: Connection, preset_id: int) -> Preset:
    """One preset by its id.

    Raises:
        PresetNotFound: there is none.
    """
    row = db.execute(SELECT_PRESET_BY_ID, (preset_id,)).fetchone()
    if row is None:
        raise PresetNotFound
    return _preset(row)


def select_preset_names(db: Connection) -> list[str]:
    """The names of all presets, in their order."""
    return [name for (name,) in db.execute(SELECT_PRESET_NAMES)]


def delete_preset(db: Connection, name: str) -> bool:
    """Remove a preset; whether it was there."""
    db.execute(DELETE_PRESET, (name,))
    return db.changes() > 0
