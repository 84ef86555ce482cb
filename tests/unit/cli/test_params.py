from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.cli.params import ParameterError, parse_arguments, parse_document

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
trees = st.recursive(
    json_values.map(lambda value: ("value", value)),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3).map(lambda tree: ("object", tree)),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("argument", "params"),
    [
        ("a=1", {"a": 1}),
        ("a=-1.5e3", {"a": -1500.0}),
        ("a=true", {"a": True}),
        ("a=null", {"a": None}),
        ("a=[1,2]", {"a": [1, 2]}),
        ('a={"b":1}', {"a": {"b": 1}}),
        ('a="1"', {"a": "1"}),
        ("a=text", {"a": "text"}),
        ("a=two words", {"a": "two words"}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a==", {"a": "="}),
        ("a=NaN", {"a": "NaN"}),
        ("a=01", {"a": "01"}),
        ("a=[1,", {"a": "[1,"}),
        ("a=line\nline", {"a": "line\nline"}),
        ("a=:=1", {"a": ":=1"}),
        ("a:=1", {"a": 1}),
        ('a:="x"', {"a": "x"}),
        ("a.b.c=1", {"a": {"b": {"c": 1}}}),
        ("größe=1", {"größe": 1}),
        ('metadata:={"a.b":1}', {"metadata": {"a.b": 1}}),
    ],
)
def test_arguments_are_read(argument: str, params: dict[str, Any]) -> None:
    assert parse_arguments([argument]) == params


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["text"], "expected key=value"),
        ([""], "expected key=value"),
        (["=1"], "expected key=value"),
        ([":=1"], "expected key=value"),
        (["two words=1"], "expected key=value"),
        (["a:b=1"], "expected key=value"),
        (["a..b=1"], "between the dots"),
        ([".a=1"], "between the dots"),
        (["a.=1"], "between the dots"),
        (["a:=text"], "the value of a is not JSON"),
        (["a:="], "the value of a is not JSON"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1", "a.b=2"], "a.b goes into a, which already has a value"),
        (['a={"c":1}', "a.b=2"], "a.b goes into a, which already has a value"),
        (["a={}", "a.b=2"], "a.b goes into a, which already has a value"),
        (["a.b=2", "a=1"], "a is given twice"),
    ],
)
def test_what_cannot_be_read_is_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        parse_arguments(arguments)


@given(st.dictionaries(names, trees, max_size=4))
def test_any_object_can_be_typed_with_dotted_keys(tree: dict[str, Any]) -> None:
    def arguments(path: str, node: tuple[str, Any]) -> list[str]:
        kind, inner = node
        if kind == "value":
            return [f"{path}:={json.dumps(inner)}"]
        return [argument for name, below in inner.items() for argument in arguments(f"{path}.{name}", below)]

    def expected(node: tuple[str, Any]) -> Any:
        kind, inner = node
        return inner if kind == "value" else {name: expected(below) for name, below in inner.items()}

    typed = [argument for name, node in tree.items() for argument in arguments(name, node)]
    assert parse_arguments(typed) == {name: expected(node) for name, node in tree.items()}


@given(st.lists(st.text(), max_size=4))
def test_any_arguments_are_parameters_or_an_error_of_ours(arguments: list[str]) -> None:
    try:
        params = parse_arguments(arguments)
    except ParameterError:
        return
    json.dumps(params)


@given(names, st.text())
def test_text_that_is_no_json_arrives_as_it_was_typed(name: str, text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        assert parse_arguments([f"{name}={text}"]) == {name: text}


@pytest.mark.parametrize(("text", "params"), [("", {}), (" \n", {}), ('{"a":1}\n', {"a": 1})])
def test_document_is_read(text: str, params: dict[str, Any]) -> None:
    assert parse_document(text) == params


@pytest.mark.parametrize("text", [b"[1]", b"1", b"{", b"a=1", b'{"a":"\xff"}'])
def test_document_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ParameterError, match="standard input"):
        parse_document(text)
