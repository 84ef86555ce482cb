"""Whether two values are the same JSON, which decides whether a change changes anything. Knows no table."""

from __future__ import annotations

from typing import Any

import msgspec


def same_json(one: Any, other: Any) -> bool:
    """Compared as JSON, since to Python 1 and true are equal; the order of keys means nothing."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")
