from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.files import yaml_content
from nexusd.files.yaml_content import MAX_DEPTH, ContentError, read_yaml, write_yaml

LIMIT = 1024 * 1024


def read(text: str | bytes, limit: int = LIMIT) -> dict[str, Any]:
    return read_yaml(text if isinstance(text, bytes) else text.encode(), max_bytes=limit)


def test_a_preset_as_people_write_it() -> None:
    text = "\ufeff# how the cook speaks\nprompt: |\n  You cook.\n  Briefly.\ntemperature: 0.7\ntools: [timer, scales]\n"
    text += "limits: {tokens: 500, strict: yes, until: ~}\nnote: 'yes'\n"
    assert read(text) == {
        "prompt": "You cook.\nBriefly.\n",
        "temperature": 0.7,
        "tools": ["timer", "scales"],
        "limits": {"tokens": 500, "strict": True, "until": None},
        "note": "yes",
    }


def test_aliases_and_merges_say_what_they_say_in_yaml() -> None:
    text = "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\n"
    text += "same: *base\nmore:\n  <<: [*base, *other]\n  a: 9\n"
    assert read(text)["same"] == {"a": 1, "b": 2}
    assert read(text)["more"] == {"a": 9, "b": 2, "c": 4}


REFUSED = [
    ("", None, "empty"),
    ("# nothing\n", None, "empty"),
    ("- 1\n- 2\n", 1, "mapping"),
    ("just words", 1, "mapping"),
    ("a: 1\n---\nb: 2\n", 2, "one document"),
    ("a: 1\nb: 2\na: 3\n", 3, "again"),
    ("a:\n  b: 1\n  b: 1\n", 3, "again"),
    ("a: 1\n'a': 2\n", 2, "again"),
    ("a: !!python/object/apply:os.system [id]\n", 1, "tags"),
    ("a: !!str 5\n", 1, "tags"),
    ("a: 1\nb: !!binary aGVsbG8=\n", 2, "tags"),
    ("a: !secret x\n", 1, "tags"),
    ("a: !!set {x}\n", 1, "tags"),
    ("!!str a: 1\n", 1, "key"),
    ("a: 2024-01-01\n", 1, "date"),
    ("a: 2001-12-14t21:59:43.10-05:00\n", 1, "date"),
    ("a: 1\nb: .nan\n", 2, "JSON"),
    ("a: -.inf\n", 1, "JSON"),
    ("a: 1.0e+999\n", 1, "JSON"),
    ("a: 9223372036854775808\n", 1, "64 bits"),
    ("a: -9223372036854775809\n", 1, "64 bits"),
    ("a: " + "9" * 100_000 + "\n", 1, "64 bits"),
    ("a: 0x" + "f" * 90 + "\n", 1, "64 bits"),
    ("1: x\n", 1, "put it in quotes"),
    ("no: x\n", 1, "put it in quotes"),
    ("~: x\n", 1, "put it in quotes"),
    ("2024-01-01: x\n", 1, "put it in quotes"),
    ("? [a]\n: 1\n", 1, "key"),
    ("? {a: 1}\n: 1\n", 1, "key"),
    ("a: &x [*x]\n", 1, "no complete value"),
    ("a: &x {b: *x}\n", 1, "no complete value"),
    ("a: *nothing\n", 1, "no complete value"),
    ("<<: 5\n", 1, "merge"),
    ("<<: [{a: 1}, 5]\n", 1, "merge"),
    ("a: b: c\n", 1, "not valid YAML"),
    ("a:\n\t- b\n", 2, "not valid YAML"),
    ("a: [1\n", 1, "not valid YAML"),
    ("a: 'open\n", 1, "not valid YAML"),
    ("ok: 1\na: \x01\n", 2, "not valid YAML"),
    ("a: @x\n", 1, "not valid YAML"),
    (b"ok: 1\nname: K\xfcche\n", 2, "UTF-8"),
    (b"\xff\xfea\x00:\x00", 1, "UTF-8"),
    (b"a: \xed\xa0\x80\n", 1, "UTF-8"),
    (b"\x00\x01\x02", 1, "not valid YAML"),
]


@pytest.mark.parametrize(("text", "line", "words"), REFUSED)
def test_what_is_no_preset_is_refused_with_its_line(text: str | bytes, line: int | None, words: str) -> None:
    with pytest.raises(ContentError) as refused:
        read(text)
    assert words in str(refused.value)
    assert refused.value.line == line
    if line is not None:
        assert str(refused.value).startswith(f"line {line}: ")


def lists_of_aliases(levels: int) -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges_of_aliases(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "a billion laughs": lists_of_aliases(30),
    "a billion merges": merges_of_aliases(30),
    "one long text many times": f"a: &a {'x' * 10_000}\nb: [{','.join(['*a'] * 10_000)}]",
    "long keys many times": f"a: &a {{{'x' * 1000}: 1}}\nb: [{','.join(['*a'] * 10_000)}]",
    "deep lists": "a: " + "[" * 500_000,
    "deep mappings": "{a: " * 200_000,
    "deep blocks": "\n".join(" " * n + "a:" for n in range(1000)),
    "deep by aliases": "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)),
    "a sexagesimal number": "a: " + ":".join(["1"] * 300_000),
    "a number": "a: " + "9" * 900_000,
    "an octal number": "a: 0" + "7" * 900_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_no_time(name: str) -> None:
    began = time.process_time()
    with pytest.raises(ContentError):
        read(BOMBS[name])
    assert time.process_time() - began < 3      # without the bounds: never, or the interpreter is gone


def test_aliases_may_not_make_more_of_a_file_than_a_file_may_be() -> None:
    text = f"a: &a {'x' * 100}\nb: [{','.join(['*a'] * 50)}]"
    assert len(read(text)["b"]) == 50
    with pytest.raises(ContentError, match="aliases"):
        read(text, limit=3000)


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_nesting_is_taken_up_to_the_bound(opening: str) -> None:
    def nested(levels: int) -> str:
        return "a: " + opening * levels + "1" + ("]" if opening == "[" else "}") * levels

    assert read(nested(MAX_DEPTH - 2))
    with pytest.raises(ContentError, match="deeper"):
        read(nested(MAX_DEPTH))


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | texts | st.sampled_from(["yes", "010", "1:30", "2024-01-01", "<<", "=", "~", "- a", "a: b", "\x85", "\u2028",
                               " a\n b\n", "\n", "\ta", "#", "&a", "*a", "!x", "1e3", "0x1f", ".inf"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(texts, json_values, max_size=5), st.booleans())
def test_what_is_written_reads_back_as_it_was(content: dict[str, Any], pretty: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_content, "PRETTY_BYTES", 64 * 1024 if pretty else 0)
        written = write_yaml(content, max_bytes=LIMIT)
    assert msgspec.json.encode(read(written)) == msgspec.json.encode(content)
    # the bound that spares the dumper is one
    assert yaml_content._least(msgspec.json.encode(content)) <= len(written)


def test_what_is_far_too_large_is_refused_before_it_is_dumped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_content.yaml, "dump", None)    # it takes a hundred times the room
    for content in ({"a": list(range(10, 99)) * 10_000}, {f"k{n}": {"a": {"b": [1]}} for n in range(100_000)}):
        with pytest.raises(ContentError, match="more than 1,048,576 bytes"):
            write_yaml(content, max_bytes=LIMIT)


@given(st.binary(max_size=200) | st.text(st.sampled_from("a1:-[]{}&*!<> \n#|'\"?,%~.\t"), max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    try:
        content = read(data)
    except ContentError:
        return
    assert isinstance(content, dict)
    assert msgspec.json.decode(msgspec.json.encode(content)) == content


def test_people_can_read_what_is_written() -> None:
    written = write_yaml({"name": "Küche \U0001f373", "prompt": "One.\nTwo.\n", "l": [{"a": 1}]}, max_bytes=LIMIT)
    assert written.decode() == "name: Küche \U0001f373\nprompt: |\n  One.\n  Two.\nl:\n- a: 1\n"


def test_what_cannot_be_read_again_is_not_written() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(ContentError, match="deeper"):
        write_yaml({"a": deep}, max_bytes=LIMIT)
    with pytest.raises(ContentError, match="bytes"):
        write_yaml({"a": "x" * 2000}, max_bytes=1024)
    with pytest.raises(ContentError, match="bytes"):
        write_yaml({"a": ["\x01" * 300]}, max_bytes=1024)   # a sixth of what it takes in YAML
