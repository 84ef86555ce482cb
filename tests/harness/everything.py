"""A store in which every table holds something, written through the daemon's own methods; and all that it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.household import Household, select

Call = Callable[..., Any]

SEARCHES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("memory.search", {"query": "violin in the greenhouse", "mode": mode, "limit": 50})
      for mode in ("keyword", "semantic", "hybrid")),
    ("episodes.search", {"query": "kettle", "limit": 50}),
    ("entities.search", {"query": "piano", "limit": 50}),
    ("messages.search", {"query": "letter", "limit": 50}),
    ("vectors.search", {"query": "stairs and a lamp", "limit": 50}),
    ("memory.context", {"query": "bicycle", "tokenBudget": 500}),
    ("presets.list", {}), ("tools.list", {}), ("mcpServers.list", {}), ("users.list", {}), ("groups.list", {}),
    ("toolLogs.list", {}), ("relationships.listFrom", {"fromId": 1}), ("projects.list", {}),
)  # fmt: skip
# Of the daemon's own life, and of an index that is filled anew; and what a restore forgets of it.
LIVELY = {"outbox", "outbox_next", "meta", "models", "idempotency"}


def fill(call: Call, writes: int = 150, *, seed: int = 1) -> Household:
    """Something in every table and every directory; who lives there may go on."""
    project = call("projects.create", name="house")["id"]
    session = call("sessions.create", externalId="first", projectId=project, idempotencyKey="kept")["id"]
    ids = [call("entities.upsert", name=name, type="person", notes="plays the piano")["id"] for name in ("Ada", "Bo")]
    call("relationships.upsert", fromId=ids[0], toId=ids[1], label="knows")
    group = call("groups.create", name="family")["id"]
    call("users.set", id="bo", settings={"language": "de"})
    conversation = call("conversations.create", title="tea", userId="bo", groupId=group)["id"]
    call("tokens.create", name="kitchen", role="read")
    call("toolLogs.append", tool="clock", conversationId=conversation)
    call("presets.put", name="kind", content={"prompt": "hello"})
    call("tools.put", name="dice", source="return 4")
    call("mcpServers.put", name="files", config={"command": "serve"})
    alone = call("episodes.create", sessionId=session, userMessage="kept out of the index", aiResponse="")["id"]
    household = Household(call, seed=seed)
    household.live(writes)
    call("outbox.wait", timeoutMs=60_000)
    call("semantic.delete", collection="episodes", id=alone)
    assert call("outbox.wait", timeoutMs=60_000)["done"]
    return household


def answers(call: Call, *, large: bool = False) -> list[Any]:
    """What every kind of search and list finds; but when a file was written, which is the restore's own time.

    Of a large store not what searches by meaning find: among thousands that are equally near, a search graph that was
    built anew meets others first. That the index holds the same is index.verify's to say.
    """
    assert call("outbox.wait", timeoutMs=60_000)["done"]
    asked = [(method, params) for method, params in SEARCHES if not large or not _by_meaning(method, params)]
    found = [call(method, **params) for method, params in asked]
    for item in (item for answer in found if isinstance(answer, dict) for item in answer.get("items", ())):
        item.pop("modifiedAt", None)
    return found


def _by_meaning(method: str, params: dict[str, Any]) -> bool:
    return method == "memory.context" or params.get("mode") in {"semantic", "hybrid"}


def rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that is nobody's own business, of a database that another process may have open."""
    tables = select(
        database, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
    )
    names = [name for (name,) in tables if name not in LIVELY and not name.startswith("sqlite_")]
    return {name: select(database, f'SELECT * FROM "{name}" ORDER BY 1, 2') for name in names}
