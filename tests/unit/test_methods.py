"""Every method that the daemon really has is described, typed and guarded as all of them are."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness.methods import real_table
from rich.console import Console

from nexusd import errors
from nexusd.cli.help_pages import help_page
from nexusd.model.fields import Mutation, Params
from nexusd.wire.discovery import describe, discover
from nexusd.wire.methods import Method
from nexusd.wire.validation import validate

API = Path(inspect.getfile(errors)).parent / "api"
NAME = re.compile(r"(?:[a-z][A-Za-z]*\.)?[a-z][A-Za-z]*")
COLUMNS = 80
# Names what it wants by a key of the caller's, an id or a name: such a thing may not be there.
NAMES_ONE = ("get", "update", "delete")
FOR_STRANGERS = {"auth.login"}  # what may be called before it is known who calls
NEVER_MISSES: dict[str, str] = {
    "cache.get": "answers null for what is not there, as a cache does",
    "cache.delete": "says whether there was anything",
    "semantic.delete": "a point that is not there is as gone as one that was",
}


@pytest.fixture(scope="module", params=sorted(real_table(), key=lambda method: method.name), ids=lambda one: one.name)
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = request.param
    return found


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The OpenRPC document as a client reads it."""
    made: dict[str, Any] = json.loads(msgspec.json.encode(discover(real_table())))
    return made


def test_it_is_named_and_summed_up_in_one_sentence(method: Method) -> None:
    assert NAME.fullmatch(method.name)
    assert method.summary.endswith(".")
    assert method.summary[0].isupper()
    assert "\n" not in method.summary


def test_all_its_parameters_are_described(method: Method) -> None:
    told = describe(real_table(), method.name)["params"]
    assert [one["name"] for one in told if not one["description"].strip()] == []
    assert [one["description"] for one in told if not one["description"].endswith((".", ")"))] == []


def test_it_has_a_role_and_takes_a_key_exactly_when_it_changes_something(method: Method) -> None:
    assert method.role in ({"none"} if method.name in FOR_STRANGERS else {"read", "write", "admin"})
    assert issubclass(method.params, Params)
    assert method.mutates is issubclass(method.params, Mutation)
    assert not (method.mutates and method.role == "read")


def test_its_errors_are_of_its_own_and_named_once(method: Method) -> None:
    assert len(set(method.errors)) == len(method.errors)
    for error in method.errors:
        assert issubclass(error, errors.RpcError)
        assert error not in {errors.RpcError, errors.InternalError, errors.InvalidParams}
    verb = method.name.rpartition(".")[2]
    if verb in NAMES_ONE and method.name not in NEVER_MISSES:
        assert any(issubclass(error, errors.NotFound) for error in method.errors), "what if it is not there?"


def test_its_example_is_one(method: Method) -> None:
    if method.example is None:
        with pytest.raises(errors.InvalidParams):  # else {} were an example
            validate(method.params, {})
        return
    validate(method.params, method.example, positions=method.positions)
    json.dumps(method.example, allow_nan=False)


def test_its_help_fits_a_terminal(method: Method) -> None:
    drawn = io.StringIO()
    Console(file=drawn, width=COLUMNS).print(help_page(msgspec.json.encode(describe(real_table(), method.name))))
    page = drawn.getvalue()
    assert method.summary.split()[0] in page
    assert max(map(len, page.splitlines())) <= COLUMNS
    for one in describe(real_table(), method.name)["params"]:
        assert re.search(rf"^  {re.escape(one['name'])} ", page, re.MULTILINE), f"{one['name']} is cut off"


def test_every_method_is_registered_where_api_writes_its_name_out() -> None:
    written = []
    for path in sorted(API.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Method":
                named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
                assert named, f"{path}:{node.lineno}: Method(name=...) by keyword"
                assert isinstance(named[0], ast.Constant), f"{path}:{node.lineno}: a method's name is written out"
                written.append(str(named[0].value))
    assert sorted(written) == sorted(one.name for one in real_table())


# --- the OpenRPC document ---


def nodes(node: Any) -> list[Any]:
    """The node and all below it."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [node, *(found for part in inner for found in nodes(part))]


def test_every_reference_resolves_and_every_component_is_referred_to(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    found = {node["$ref"] for node in nodes(document) if isinstance(node, dict) and isinstance(node.get("$ref"), str)}
    assert {ref.removeprefix("#/components/schemas/") for ref in found} == set(components)


def test_no_two_components_describe_the_same_type(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    said = [json.dumps(schema, sort_keys=True) for schema in components.values()]
    assert [text for text in set(said) if said.count(text) > 1] == []


def test_every_parameter_and_method_of_the_document_is_described(document: dict[str, Any]) -> None:
    wrong = []
    for one in document["methods"]:
        names = [param["name"] for param in one["params"]]
        assert len(set(names)) == len(names)
        wrong += [f"{one['name']}.{param['name']}" for param in one["params"] if not param.get("description")]
        # by position what must be given comes before what may be left out
        needed = [param["required"] for param in one["params"]]
        wrong += [one["name"]] if needed != sorted(needed, reverse=True) else []
    assert wrong == []


def test_every_schema_is_one(document: dict[str, Any]) -> None:
    kinds = {"string", "integer", "number", "boolean", "array", "object", "null"}
    schemas = [param["schema"] for one in document["methods"] for param in one["params"]]
    schemas += [one["result"]["schema"] for one in document["methods"]]
    schemas += document["components"]["schemas"].values()
    for node in nodes(schemas):
        if isinstance(node, dict) and isinstance(node.get("type"), str):
            assert node["type"] in kinds
        if isinstance(node, dict) and isinstance(node.get("properties"), dict) and "required" in node:
            assert set(node["required"]) <= node["properties"].keys()
