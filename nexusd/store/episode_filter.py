"""The filter of a search as SQL over `episodes e`: one meaning for every query that filters."""

from __future__ import annotations

from nexusd.model.memory import MemoryFilter

# only in this session
IN_SESSION = "e.session_id = ?"
# only in sessions of this project
IN_PROJECT = "e.session_id IN (SELECT id FROM sessions WHERE project_id = ?)"
# created at or after
SINCE = "e.created_at >= ?"
# created before
UNTIL = "e.created_at < ?"
# a top-level entry of the metadata equals a text, a number, true or false; the key needs no quoting here
METADATA_TEXT = """EXISTS (
    SELECT 1 FROM json_each(e.metadata) m WHERE m.key = ? AND m.type = 'text' AND m.value = ?)"""
METADATA_NUMBER = """EXISTS (
    SELECT 1 FROM json_each(e.metadata) m WHERE m.key = ? AND m.type IN ('integer', 'real')
        AND m.value = ?)"""
METADATA_BOOLEAN = "EXISTS (SELECT 1 FROM json_each(e.metadata) m WHERE m.key = ? AND m.type = ?)"


def filter_conditions(where: MemoryFilter) -> tuple[str, list[str | int]]:
    """A condition over the table `episodes e`, and the values of its question marks."""
    conditions: list[str] = []
    values: list[str | int] = []
    bounds = (
        (IN_SESSION, where.session_id),
        (IN_PROJECT, where.project_id),
        (SINCE, where.since),
        (UNTIL, where.until),
    )
    for condition, bound in bounds:
        if bound is not None:
            conditions.append(condition)
            values.append(bound)
    for key, value in where.metadata.items():
        if isinstance(value, bool):     # before int: a bool is one in Python, not in JSON
            conditions.append(METADATA_BOOLEAN)
            values += (key, "true" if value else "false")
        else:
            conditions.append(METADATA_TEXT if isinstance(value, str) else METADATA_NUMBER)
            values += (key, value)
    return " AND ".join(conditions) or "TRUE", values
