from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nexusd.files.mcp_content import kind_of, read_mcp, write_mcp
from nexusd.files.yaml_content import ContentError

FILES = {"command": "mcp-files", "args": ["--root", "/srv"], "env": {"TOKEN": "s3cret"}, "cwd": "/srv"}
WEB = {"url": "https://mcp.lan/", "headers": {"Authorization": "Bearer s3cret"}, "type": "http"}


def test_both_forms_of_the_file_are_read() -> None:
    for text in ({"mcpServers": {"files": FILES, "web": WEB}}, {"files": FILES, "web": WEB}):
        document = read_mcp(json.dumps(text).encode())
        assert document.servers == {"files": FILES, "web": WEB}
        assert json.loads(write_mcp(document)) == text
    assert read_mcp(b"\xef\xbb\xbf{}").servers == {}


def test_what_is_not_known_stays_and_keeps_its_order() -> None:
    server = {"disabled": True, "command": "x", "autoApprove": ["a"], "type": "stdio"}
    text = {"$schema": "x", "mcpServers": {"z": server, "a": WEB}, "inputs": [1, {"b": 1, "a": 2}]}
    data = write_mcp(read_mcp(json.dumps(text).encode()))
    assert data == json.dumps(text, indent=2).encode() + b"\n"
    document = read_mcp(data)
    changed = document.with_servers({**document.servers, "new": WEB})
    assert list(json.loads(write_mcp(changed))) == ["$schema", "mcpServers", "inputs"]
    assert list(changed.servers) == ["z", "a", "new"]


def test_an_empty_file_becomes_the_usual_form() -> None:
    assert write_mcp(read_mcp(b"{}").with_servers({"w": {"url": "u"}})) == (
        b'{\n  "mcpServers": {\n    "w": {\n      "url": "u"\n    }\n  }\n}\n'
    )
    assert read_mcp(b'{"w": {"url": "u"}}').with_servers({}).top == {}


BROKEN: list[Any] = [
    b"", b"[]", b"5", b"null", b"{", b"{'a': 1}", b'{"a": 1,}', b"// no\n{}", b'{"mcpServers": []}',
    b'{"mcpServers": {"a": {"url": "u"}, "a": {"url": "v"}}}', b'{"mcpServers": {"a": null}}',
    b'{"mcpServers": {"a": {}}}', b'{"a": "text"}', b'{"$schema": "x"}', b'{"x": NaN}', b"\xff\xfe{}",
    b'{"mcpServers": {}, "n": 1e999}', b"[" * 100_000, b'{"mcpServers": ' + b'{"a":' * 100_000,
    {"mcpServers": {"a": {**FILES, **WEB}}}, {"mcpServers": {"a": {"command": ""}}},
    {"mcpServers": {"a": {"command": 5}}}, {"mcpServers": {"a": {"command": "x", "args": "-v"}}},
    {"mcpServers": {"a": {"command": "x", "args": [1]}}}, {"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}},
    {"mcpServers": {"a": {"url": "u", "headers": ["x"]}}},
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_list_of_servers_is_refused(text: Any) -> None:
    with pytest.raises(ContentError):
        read_mcp(text if isinstance(text, bytes) else json.dumps(text).encode())


def test_what_is_refused_shows_no_secret() -> None:
    for text in (
        {"mcpServers": {"a": {"command": "x", "env": {"TOKEN": ["s3cret"]}}}},
        {"mcpServers": {"a": {"command": "x", "env": {"s3cret": 5}}}},
        {"mcpServers": {"a": {"url": ["s3cret"]}}},
        {"mcpServers": {"a": "s3cret"}},
    ):
        with pytest.raises(ContentError) as refused:
            read_mcp(json.dumps(text).encode())
        assert "s3cret" not in str(refused.value)
        assert "'a'" in str(refused.value)


def test_a_server_is_started_or_called() -> None:
    assert kind_of(FILES) == "command"
    assert kind_of(WEB) == "url"
    assert kind_of(msgspec.json.decode(b'{"url": "u", "disabled": true}')) == "url"
