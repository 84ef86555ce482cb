"""The method reference: made from what runs, and the file in the tree is what is made.

`pytest tests/unit/wire/test_reference.py --update-readme` writes the file anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from harness.methods import real_table
from msgspec import Meta, Struct

from nexusd.errors import EpisodeNotFound, InvalidParams
from nexusd.model.fields import Mutation, NoParams, Params
from nexusd.wire import reference as module
from nexusd.wire.methods import Call, Method, MethodTable
from nexusd.wire.reference import reference

METHODS = Path(module.__file__).with_name("METHODS.md")


class Where(Params, frozen=True, kw_only=True):
    room: Annotated[str, Meta(min_length=1, description="Which room.")]
    floor: Annotated[int | None, Meta(description="Which floor.")] = None


class Change(Mutation, frozen=True, kw_only=True):
    mode: Annotated[str, Meta(description="One | two.")]
    where: Annotated[Where | None, Meta(description="Where.")] = None
    parts: Annotated[list[Where], Meta(max_length=3, description="Parts.")] = []


class Changed(Struct):
    """What came of it."""

    count: int


async def handler(_call: Call, _params: Any) -> None:
    return None


def sample() -> str:
    table = MethodTable()
    table.register([
        Method("rooms.change", "Change a room.", Change, Changed, handler, "write", mutates=True,
               errors=(EpisodeNotFound, InvalidParams), example={"mode": "x"}),
        Method("alive", "Say so.", NoParams, None, handler, "read"),
    ])
    return reference(table)


def test_a_method_is_told_with_all_that_a_caller_must_know() -> None:
    page = sample()
    assert "## rooms\n\n### rooms.change\n\nChange a room. Role write; takes `idempotencyKey`." in page
    assert '| `mode` | string | *required* | One \\| two. |' in page
    assert '| `idempotencyKey` | string or null | `null` |' in page
    assert "Answers `Changed`." in page
    assert "`not_found` (No episode has this id)" in page
    assert 'Example: `{"mode":"x"}`' in page
    assert "### Changed\n\nWhat came of it.\n\n| field | type | description |" in page


def test_the_fields_of_an_object_have_rows_of_their_own() -> None:
    page = sample()
    assert "| `where.room` | string (at least 1 character) | *required* | Which room. |" in page
    assert "| `parts[].floor` | integer or null | `null` | Which floor. |" in page


def test_a_method_without_parameters_says_so() -> None:
    assert "## alive\n\nSay so. Role read.\n\nNo parameters." in sample()


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    page = reference(real_table())
    wrong = []
    for block in page.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
            wrong += [lines[0]] if len(cells) > 1 else []
    assert wrong == []


def test_the_file_is_what_is_made_from_the_methods(request: pytest.FixtureRequest) -> None:
    page = reference(real_table())
    if request.config.getoption("--update-readme"):
        METHODS.write_text(page)
    # not ==: pytest would spend minutes on the difference of two long texts
    known = METHODS.read_text().split("\n\n")
    differing = [block for block in page.split("\n\n") if block not in known]
    assert differing == [], f"write it anew: {module.COMMAND}"
    assert METHODS.read_text() == page, f"write it anew: {module.COMMAND}"
