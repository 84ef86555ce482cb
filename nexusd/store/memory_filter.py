"""The filter of a search as SQL over any table that holds memories: one meaning for every query that filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nexusd.model.memory import Collection, MemoryFilter, MessageFilter
from nexusd.store.full_text import ENTITIES, EPISODES, MESSAGES, SUMMARIES, Condition, TextTable

# The table behind each collection.
TEXT_TABLES: dict[Collection, TextTable] = {
    "episodes": EPISODES,
    "entities": ENTITIES,
    "summaries": SUMMARIES,
    "messages": MESSAGES,
}

# only in this session
IN_SESSION = "{row}.session_id = ?"
# only in sessions of this project
IN_PROJECT = "{row}.session_id IN (SELECT id FROM sessions WHERE project_id = ?)"
# only in this conversation
IN_CONVERSATION = "{row}.conversation_id = ?"
# created at or after
SINCE = "{row}.created_at >= ?"
# created before
UNTIL = "{row}.created_at < ?"
# a top-level entry of the metadata equals a text, a number, true or false; the key needs no quoting here
METADATA_TEXT = """EXISTS (
    SELECT 1 FROM json_each({row}.metadata) entry
    WHERE entry.key = ? AND entry.type = 'text' AND entry.value = ?)"""
METADATA_NUMBER = """EXISTS (
    SELECT 1 FROM json_each({row}.metadata) entry
    WHERE entry.key = ? AND entry.type IN ('integer', 'real') AND entry.value = ?)"""
METADATA_BOOLEAN = """EXISTS (
    SELECT 1 FROM json_each({row}.metadata) entry WHERE entry.key = ? AND entry.type = ?)"""


class Interval(Protocol):
    """From a moment to another; the end is not in it."""

    @property
    def start_ms(self) -> int:
        """Milliseconds since 1970."""

    @property
    def end_ms(self) -> int:
        """Likewise."""


def filter_condition(where: MemoryFilter, table: TextTable) -> Condition | None:
    """What a row of the table must be; None if every row passes.

    A filter by session has no meaning for a table without sessions: ask `filterable` first.
    """
    conditions: list[str] = []
    values: list[str | int] = []
    bounds = (
        (IN_SESSION, where.session_id),
        (IN_PROJECT, where.project_id),
        (IN_CONVERSATION, where.conversation_id if isinstance(where, MessageFilter) else None),
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
    if not conditions:
        return None
    return Condition(" AND ".join(conditions).format(row=table.alias), values)


def within_spans(condition: Condition | None, table: TextTable, spans: Sequence[Interval]) -> Condition:
    """The condition, and created within any of the spans."""
    bounds = " OR ".join([f"({SINCE} AND {UNTIL})".format(row=table.alias)] * len(spans))
    values = [bound for span in spans for bound in (span.start_ms, span.end_ms)]
    if condition is None:
        return Condition(f"({bounds})", values)
    return Condition(f"{condition.sql} AND ({bounds})", (*condition.values, *values))
