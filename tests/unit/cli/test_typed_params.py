from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.cli.params import ParameterError
from nexusd.cli.typed_params import Parameter, camel, choices, find, kebab, read_words, words_of

STRING, INTEGER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}
PARAMETERS = [
    Parameter("name", schema=STRING),
    Parameter("title", schema={"anyOf": [STRING, NULL]}),
    Parameter("tokenBudget", schema=INTEGER),
    Parameter("explain", schema={"type": "boolean"}),
    Parameter("mode", schema={"enum": ["hybrid", "keyword"]}),
    Parameter("key", schema={"anyOf": [STRING, INTEGER]}),
    Parameter("labels", schema={"anyOf": [{"type": "array", "items": STRING}, NULL]}),
    Parameter("vector", schema={"type": "array", "items": {"type": "number"}}),
    Parameter("filter", schema={"type": "object", "properties": {
        "sessionId": INTEGER, "metadata": {"type": "object", "additionalProperties": {"anyOf": [STRING, INTEGER]}},
        "room": STRING,
    }}),
    Parameter("metadata", schema={"type": "object"}),
    Parameter("value"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["name=5"], {"name": "5"}),
        (["name=null"], {"name": "null"}),
        (['name="x"'], {"name": '"x"'}),
        (["name=a=b"], {"name": "a=b"}),
        (['name:="x"'], {"name": "x"}),
        (["title=5"], {"title": "5"}),
        (["title=null"], {"title": "null"}),
        (["title:=null"], {"title": None}),
        (["tokenBudget=5"], {"tokenBudget": 5}),
        (["token-budget=5"], {"tokenBudget": 5}),
        (["tokenBudget=many"], {"tokenBudget": "many"}),  # the daemon says what it expected
        (["mode=hybrid"], {"mode": "hybrid"}),
        (["key=5"], {"key": 5}),
        (["key=true"], {"key": "true"}),
        (["key=five"], {"key": "five"}),
        (["labels=a"], {"labels": ["a"]}),
        (["labels=a", "labels=5"], {"labels": ["a", "5"]}),
        (['labels=["a","b"]'], {"labels": ["a", "b"]}),
        (["labels=null"], {"labels": None}),
        (["vector=[1,2.5]"], {"vector": [1, 2.5]}),
        (["vector=1", "vector=2"], {"vector": [1, 2]}),
        (["filter.sessionId=3", "filter.session-id=3"], None),
        (["filter.session-id=3", "filter.room=4"], {"filter": {"sessionId": 3, "room": "4"}}),
        (["filter.metadata.floor=2", "filter.metadata.x=y"], {"filter": {"metadata": {"floor": 2, "x": "y"}}}),
        (['metadata={"a":1}'], {"metadata": {"a": 1}}),
        (["metadata.a.b=1"], {"metadata": {"a": {"b": 1}}}),
        (["value=5"], {"value": 5}),
        (["value=five"], {"value": "five"}),
        (["unknown=5"], {"unknown": 5}),
        (["--name", "5"], {"name": "5"}),
        (["--name=5"], {"name": "5"}),
        (["--name", "--title"], {"name": "--title"}),
        (["--token-budget", "5"], {"tokenBudget": 5}),
        (["--tokenBudget:=5"], {"tokenBudget": 5}),
        (["--explain"], {"explain": True}),
        (["--explain=false"], {"explain": False}),
        (["--explain", "name=x"], {"explain": True, "name": "x"}),
        (["--labels", "a", "--labels", "b"], {"labels": ["a", "b"]}),
        (["--filter.session-id", "3"], {"filter": {"sessionId": 3}}),
        ([], {}),
    ],
)
def test_words_are_read_by_the_types_that_the_daemon_told(words: list[str], values: dict[str, Any] | None) -> None:
    if values is None:
        with pytest.raises(ParameterError, match=r"filter.sessionId is given twice"):
            read_words(words, PARAMETERS)
        return
    assert read_words(words, PARAMETERS) == values


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["5"], "expected key=value, got '5'"),
        (["--nmae", "x"], r"no parameter --nmae; did you mean --name\?"),
        (["--token-bugdet=5"], r"did you mean --token-budget\?"),
        (["--xyzzy"], "no parameter --xyzzy"),
        (["--name"], "expected a value after --name"),
        (["name=a", "--name", "b"], "name is given twice"),
        (["labels=[]", "labels=a"], "labels is given twice"),
        (["labels=a", "labels=[]"], "labels is given twice"),
        (["labels=a", "labels.b=1"], "goes into labels"),
        (["tokenBudget:=x"], "the value of tokenBudget is not JSON"),
    ],
)
def test_words_that_cannot_be_read_are_named(words: list[str], complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        read_words(words, PARAMETERS)


@given(st.text())
def test_a_text_parameter_takes_any_text_as_it_is(text: str) -> None:
    assert read_words([f"name={text}"], PARAMETERS) == {"name": text}
    assert read_words(["--name", text], PARAMETERS) == {"name": text}


@given(st.dictionaries(st.sampled_from([one.name for one in PARAMETERS]), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2), max_leaves=5,
)))  # fmt: skip
def test_any_values_can_be_typed(values: dict[str, Any]) -> None:
    assert read_words(words_of(values, PARAMETERS), PARAMETERS) == json.loads(json.dumps(values))


@given(st.lists(st.text(), max_size=4))
def test_any_words_are_parameters_or_an_error_of_ours(words: list[str]) -> None:
    try:
        json.dumps(read_words(words, PARAMETERS))
    except ParameterError:
        pass


@pytest.mark.parametrize(
    ("wire", "shell"),
    [
        ("createMany", "create-many"), ("get", "get"), ("mcpServers", "mcp-servers"),
        ("getByExternalId", "get-by-external-id"),
    ],
)
def test_names_have_a_form_for_the_wire_and_one_for_the_shell(wire: str, shell: str) -> None:
    assert kebab(wire) == shell
    assert camel(shell) == camel(wire) == wire


def test_the_values_that_can_be_told_beforehand_are_told() -> None:
    assert choices(find("mode", PARAMETERS)[1]) == ["hybrid", "keyword"]
    assert choices(find("explain", PARAMETERS)[1]) == ["true", "false"]
    assert choices(find("name", PARAMETERS)[1]) == []
    assert choices({"type": "array", "items": {"enum": ["episodes"]}}) == ["episodes"]
