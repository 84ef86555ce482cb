"""The named fail points of the daemon, found in its sources, and what brings it to each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import nexusd

Asked = Generator[tuple[str, dict[str, Any]], Any, None]  # calls; each is sent what was answered

_TOLD = re.compile(r"reached\(\"([^\"]+)\"\)")


def fail_points() -> list[str]:
    """MODULE:STEP of every step that a part tells."""
    root = Path(nexusd.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(("nexusd", *path.relative_to(root).with_suffix("").parts))
        found += [f"{module}:{step}" for step in dict.fromkeys(_TOLD.findall(path.read_text()))]
    return found


def deliver() -> Asked:
    """The load alone; some of it cannot be embedded."""
    yield "messages.create", {"conversationId": 1, "role": "user", "content": " "}
    yield "outbox.wait", {"timeoutMs": 2000}


def change_model() -> Asked:
    """All is embedded again, into other collections."""
    yield "index.reembed", {"force": True}
    while (yield "index.reembed", {})["next"] is not None:
        pass


def forget_model() -> Asked:
    """The same, and then what was kept of the one before is removed."""
    before = (yield "index.reembed", {})["serving"]["key"]
    yield from change_model()
    yield "index.forget", {"key": before}


def back_up() -> Asked:
    """Two backups of which one is kept."""
    yield "backup.create", {}
    yield "messages.create", {"conversationId": 1, "role": "user", "content": " "}
    yield "backup.create", {}


TRIGGERS: dict[str, Callable[[], Asked]] = {
    "nexusd.sync.worker": deliver, "nexusd.sync.preparing": deliver, "nexusd.sync.sending": deliver,
    "nexusd.sync.setbacks": deliver, "nexusd.backup.making": back_up, "nexusd.backup.packing": back_up,
    "nexusd.backup.shelf": back_up, "nexusd.sync.reembed": change_model, "nexusd.sync.kept": forget_model,
}  # fmt: skip


def reachable() -> list[str]:
    """The points that the campaign brings the daemon to, what is quick to reach first."""
    order = list(TRIGGERS)
    points = [point for point in fail_points() if trigger_of(point) is not None]
    return sorted(points, key=lambda point: order.index(point.partition(":")[0]))


def trigger_of(point: str) -> Callable[[], Asked] | None:
    """What brings the daemon to this point; None where the campaign knows nothing."""
    return TRIGGERS.get(point.partition(":")[0])
