"""Tokens on a terminal."""

from __future__ import annotations

import io
import time
from typing import Any

import msgspec
import pytest
from rich.console import Console

from nexusd.cli.drawings import drawing

TOKEN = f"nx1_446ac19c093f_{'aB1' * 14}x"   # as long as all are
KEPT: dict[str, Any] = {
    "id": "446ac19c093f", "name": "tablet", "role": "write", "methods": [], "networks": [], "expiresAt": None,
    "rate": None, "createdAt": 1, "createdBy": "uid:0", "usedAt": None,
}


def drawn(method: str, result: object, width: int = 80) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(drawing(method, msgspec.json.encode(result)))
    return page.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_new_token_stands_in_one_line_of_its_own_to_be_copied(width: int) -> None:
    page = drawn("tokens.create", {**KEPT, "token": TOKEN, "note": "This is the only time."}, width)
    assert TOKEN in [line.strip() for line in page.splitlines()]
    assert "This is the only time." in page


def test_a_list_says_what_each_token_is_limited_to() -> None:
    soon = time.time_ns() // 1_000_000 + 2 * 86_400_000 + 60_000
    limited = {
        **KEPT, "methods": ["memory.*"], "networks": ["10.0.0.0/8"], "rate": 5.0, "expiresAt": soon,
        "usedAt": soon - 3 * 86_400_000,
    }
    page = drawn("tokens.list", {"items": [KEPT, limited, {**KEPT, "expiresAt": 1}], "nextCursor": "abc"}, 120)
    assert "memory.*, from 10.0.0.0/8, 5 a second, for 2 d" in page
    assert "in the past" in page
    assert "not lately" in page
    assert "cursor=abc" in page
    assert "No tokens" in drawn("tokens.list", {"items": [], "nextCursor": None})
