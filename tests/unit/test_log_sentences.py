"""Every entry is a constant sentence, and the main ones are explained in the catalog."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nexusd.journal import ENTRIES_LOST, message_id

PROJECT = Path(__file__).parents[2]
CATALOG = PROJECT / "systemd" / "nexusd.catalog"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
ADDED = {"NEXUS_LOGGER", "NEXUS_ERROR_KIND"}
RENAMED = {"kind": "NEXUS_ERROR_KIND", "duration_ms": "NEXUS_DURATION_US"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in the daemon, with its place."""
    for path in sorted((PROJECT / "nexusd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
                and ast.unparse(node.func.value).rpartition(".")[2] in {"_log", "log"}
            ):
                yield f"{path}:{node.lineno}", node


@cache
def sentences() -> dict[str, set[str]]:
    """What is logged, with the fields that it comes with."""
    found: dict[str, set[str]] = {ENTRIES_LOST: {"NEXUS_LOST"}}
    for _, call in log_calls():
        if isinstance(call.args[0], ast.Constant):
            fields = {RENAMED.get(k.arg, f"NEXUS_{k.arg.upper()}") for k in call.keywords if k.arg is not None}
            known = found.setdefault(str(call.args[0].value), fields)
            known &= fields     # logged at two places: only what both have can be relied on
    return found


@cache
def catalog() -> dict[str, tuple[str, str]]:
    """Id and text by the sentence that stands above them."""
    blocks = re.findall(
        r"^# (.+)\n-- ([0-9a-f]{32})\n((?:.*\n)*?)(?=\n# |\Z)", CATALOG.read_text(), re.MULTILINE
    )
    return {sentence: (id_, text) for sentence, id_, text in blocks}


def test_what_is_logged_is_a_constant_sentence_so_that_entries_of_a_kind_are_found_together() -> None:
    wrong = [
        place for place, call in log_calls()
        if len(call.args) != 1 or not isinstance(call.args[0], ast.Constant) or not isinstance(call.args[0].value, str)
    ]
    assert wrong == []


def test_the_catalog_explains_only_what_is_logged_under_the_id_that_it_is_logged_with() -> None:
    wrong = {sentence: message_id(sentence) for sentence, (id_, _) in catalog().items() if id_ != message_id(sentence)}
    assert wrong == {}, "these ids belong to these sentences"
    assert catalog().keys() - sentences().keys() == set(), "nobody logs this"
    assert CATALOG.read_text().count("\n-- ") == len(catalog())


def test_the_catalog_explains_the_main_entries() -> None:
    main = {
        "ready", "stopping", "slow request", "unforeseen error", "settings reloaded",
        "settings refused; the old ones hold", "disk full: no writes until there is room", "index unavailable",
        "embedder unavailable", "row cannot be indexed", "task failed; stopping", ENTRIES_LOST,
    }
    assert main - catalog().keys() == set()


@pytest.mark.parametrize("sentence", sorted(catalog()))
def test_an_explanation_has_a_subject_and_asks_only_for_fields_that_the_entry_has(sentence: str) -> None:
    _, text = catalog()[sentence]
    head, blank, body = text.partition("\n\n")
    assert re.fullmatch(r"Subject: \S.+\nDefined-By: nexusd", head)
    assert blank
    assert body.strip()
    assert max(map(len, text.splitlines())) <= 100
    assert set(re.findall(r"@(\w+)@", text)) - sentences()[sentence] - ADDED == set()
