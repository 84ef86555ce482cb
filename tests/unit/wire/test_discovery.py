"""Discovery: what is told is what validates."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from nexusd.errors import EpisodeNotFound, MethodNotFound
from nexusd.model.episodes import CreateEpisode, Episode, ListEpisodes
from nexusd.model.fields import Listing, NoParams, Params
from nexusd.model.memory import SearchMemory
from nexusd.wire.discovery import describe, discover
from nexusd.wire.methods import MAX_NAME_SHOWN, Call, Method, MethodTable


class Odd(msgspec.Struct):
    """Holds one of two."""

    items: list[Episode | SearchMemory]


class Small(Params, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=1, le=9, description="How many.")]
    word: Annotated[str | None, Meta(description="Which.")] = None


async def handler(_call: Call, _params: Any) -> None:
    return None


def sample_table() -> MethodTable:
    table = MethodTable()
    table.register([
        Method("small", "Do it.", Small, dict[str, int], handler, "write", mutates=True,
               errors=(EpisodeNotFound,), example={"count": 3}),
        Method("nothing", "Nothing.", NoParams, None, handler, "read"),
        Method("episodes.create", "Store.", CreateEpisode, Episode, handler, "write", mutates=True),
        Method("episodes.list", "List.", ListEpisodes, Listing[Episode], handler, "read"),
        Method("memory.search", "Search.", SearchMemory, Listing[Episode], handler, "read"),
        Method("odd", "Odd.", NoParams, Odd, handler, "read"),
    ])
    return table


def test_help_without_a_name_lists_every_method() -> None:
    assert describe(sample_table())["methods"][0] == {"name": "episodes.create", "summary": "Store."}
    assert len(describe(sample_table())["methods"]) == 6


def test_help_explains_a_method() -> None:
    told = describe(sample_table(), "small")
    assert told["params"] == [
        {"name": "count", "type": "integer (1 to 9)", "required": True, "description": "How many.",
         "schema": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."}},
        {"name": "word", "type": "string or null", "required": False, "description": "Which.", "default": None,
         "schema": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Which.", "default": None}},
    ]
    assert [error["kind"] for error in told["errors"]] == ["invalid_params", "internal_error", "not_found"]
    assert told["result"] == "object"
    assert told["example"] == {"count": 3}


def test_help_gives_parameters_in_positional_order() -> None:
    names = [parameter["name"] for parameter in describe(sample_table(), "episodes.create")["params"]]
    own = ["sessionId", "userMessage", "aiResponse", "tokenCount", "metadata", "createdAt"]
    assert names == [*own, "idempotencyKey", "waitFor", "timeoutMs"]


def test_help_says_what_an_object_holds() -> None:
    told = describe(sample_table(), "memory.search")
    filters = next(parameter for parameter in told["params"] if parameter["name"] == "filter")
    assert filters["type"] == "MemoryFilter {sessionId, projectId, since, until, metadata}"
    assert told["result"].endswith("{items, nextCursor}")


def test_help_on_what_is_no_method_says_so() -> None:
    with pytest.raises(MethodNotFound):
        describe(sample_table(), "episodes.crate")


def test_help_on_a_very_long_name_shows_its_beginning() -> None:
    with pytest.raises(MethodNotFound) as caught:
        describe(sample_table(), "x" * 1_000_000)
    assert caught.value.message == f"There is no method {'x' * MAX_NAME_SHOWN}...; `help` lists those there are."


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (Annotated[str, Meta(min_length=1)], "string (at least 1 character)"),
        (Annotated[str, Meta(min_length=2)], "string (at least 2 characters)"),
        (Annotated[str, Meta(max_length=1)], "string (at most 1 character)"),
        (Annotated[str, Meta(min_length=1, max_length=200)], "string (1 to 200 characters)"),
        (Annotated[list[int], Meta(min_length=1)], "array of integer (at least 1 item)"),
        (Annotated[list[int], Meta(min_length=1, max_length=500)], "array of integer (1 to 500 items)"),
        (Annotated[int, Meta(ge=1)], "integer (at least 1)"),
    ],
)
def test_limits_are_told_in_words(type_: Any, words: str) -> None:
    params = msgspec.defstruct("Limited", [("it", type_)], bases=(Params,), frozen=True, kw_only=True)
    table = MethodTable()
    table.register([Method("limited", "Limited.", params, None, handler, "read")])
    assert describe(table, "limited")["params"][0]["type"] == words


def test_the_document_describes_every_method_and_every_reference_resolves() -> None:
    document = json.loads(msgspec.json.encode(discover(sample_table())))
    methods = {method["name"]: method for method in document["methods"]}

    assert set(methods) == {method.name for method in sample_table()}
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    create = methods["episodes.create"]
    assert create["paramStructure"] == "either"
    required = [parameter["name"] for parameter in create["params"] if parameter["required"]]
    assert required == ["sessionId", "userMessage", "aiResponse"]
    assert create["params"][1]["description"] == "What the user said; not empty."
    assert create["result"]["schema"] == {"$ref": "#/components/schemas/Episode"}
    assert methods["small"]["examples"][0]["params"] == [{"name": "count", "value": 3}]
    assert methods["small"]["errors"][2]["data"] == {"kind": "not_found", "retryable": False}


def test_help_gives_programs_a_schema_without_references() -> None:
    told = {one["name"]: one for one in describe(sample_table(), "memory.search")["params"]}
    assert references(told["filter"]["schema"]) == []
    assert told["filter"]["schema"]["properties"]["since"]["anyOf"][1] == {"type": "null"}


def test_a_union_of_records_has_a_schema_too() -> None:
    document = discover(sample_table())
    methods = {method["name"]: method for method in document["methods"]}
    assert methods["odd"]["result"]["schema"] == {"$ref": "#/components/schemas/Odd"}
    assert document["components"]["schemas"]["Odd"] == {
        "title": "Odd", "description": "Holds one of two.", "type": "object", "required": ["items"],
        "properties": {"items": {"type": "array", "items": {"anyOf": [
            {"$ref": "#/components/schemas/Episode"}, {"$ref": "#/components/schemas/SearchMemory"},
        ]}}},
    }  # fmt: skip


def test_two_types_of_one_name_are_two_components() -> None:
    table = MethodTable()
    for name, field in (("one", "first"), ("two", "second")):
        result = msgspec.defstruct("Twin", [(field, int)], module=f"made.{name}")
        table.register([Method(name, "Answer.", NoParams, result, handler, "read")])
    components = discover(table)["components"]["schemas"]
    assert sorted(list(schema["properties"]) for schema in components.values()) == [["first"], ["second"]]


def test_the_same_table_gives_the_same_document() -> None:
    assert msgspec.json.encode(discover(sample_table())) == msgspec.json.encode(discover(sample_table()))


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + references(list(node.values()))
    return [found for value in node for found in references(value)] if isinstance(node, list) else []
