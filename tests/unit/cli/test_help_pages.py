from __future__ import annotations

import io
from typing import Any

import msgspec
from rich.console import Console, RenderableType

from nexusd.cli.help_pages import command_list, help_page

METHOD: dict[str, Any] = {
    "name": "memory.search", "summary": "Find.", "result": "MemoryHits",
    "params": [
        {"name": "query", "type": "string", "required": True, "description": "What.", "schema": {"type": "string"}},
        {"name": "limit", "type": "integer", "required": False, "default": 10, "schema": {"type": "integer"}},
    ],
    "errors": [{"kind": "invalid_params"}], "example": {"query": "it's", "limit": 5},
}  # fmt: skip


def drawn(what: RenderableType, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=False, highlight=False).print(what)
    return output.getvalue()


def page(answer: dict[str, Any], *own: str) -> str:
    return drawn(help_page(msgspec.json.encode(answer), own))


def test_methods_are_listed_with_what_they_do() -> None:
    assert "health  How it is." in page({"methods": [{"name": "health", "summary": "How it is."}]})


def test_commands_of_a_resource_are_listed_as_they_are_typed() -> None:
    text = drawn(command_list("toolLogs", [{"name": "toolLogs.createMany", "summary": "Store many."}]))
    assert "nexusctl tool-logs COMMAND" in text
    assert "create-many  Store many." in text


def test_method_is_explained_as_a_command_that_a_shell_understands() -> None:
    text = page(METHOD)
    assert "nexusctl memory search query=TEXT [limit=NUMBER]" in text
    assert "query  string  required" in text
    assert "limit  integer  default 10" in text
    assert """nexusctl memory search 'query=it'"'"'s' limit=5""" in text


def test_method_behind_a_command_of_nexusctls_own_is_explained_by_call() -> None:
    assert "nexusctl call memory.search query=TEXT" in page(METHOD, "memory")


def test_help_of_an_older_daemon_without_schemas_is_shown() -> None:
    params = [{key: value for key, value in one.items() if key != "schema"} for one in METHOD["params"]]
    assert "nexusctl memory search query=VALUE [limit=VALUE]" in page({**METHOD, "params": params})


def test_help_of_another_shape_is_shown_as_it_is() -> None:
    assert '"surprise": 1' in page({"surprise": 1})


def test_control_characters_of_a_strange_daemon_do_not_reach_the_terminal() -> None:
    strange = {**METHOD, "summary": "\x1b[31m", "result": "\x1b]0;", "params": [], "example": {"a": "\x07"}}
    assert not set("\x1b\x07") & set(page(strange))
