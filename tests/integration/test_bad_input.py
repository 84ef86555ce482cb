"""Whatever is wrong with a parameter of any method: it is named, nothing is changed, and the connection goes on.

The cases are made from the structs that validate, so that a new method is covered when it is registered. Real
dispatcher, real store, one real connection; the index and the embedding model are not started, as when both are down.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.methods import real_table
from harness.parameters import Case, allowed, refused, sample

from nexusd.config import load_settings
from nexusd.errors import InvalidParams
from nexusd.log import LogControl
from nexusd.parts import Parts
from nexusd.store.connection import Connection
from nexusd.wire.discovery import describe
from nexusd.wire.methods import Method
from nexusd.wire.validation import validate

pytestmark = pytest.mark.anyio

METHODS = sorted(real_table(), key=lambda method: method.name)
INTERNAL_ERROR, INVALID_PARAMS = -32603, -32602
ANSWER_S = 30
MAX_LINE = 64 * 1024 * 1024


class Peer:
    """One connection for all requests."""

    def __init__(self, app: Parts, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.store = app.store
        self._reader = reader
        self._writer = writer
        self._id = 0

    async def ask(self, method: str, params: Any) -> dict[str, Any]:
        """The reply; what comes unasked in between is passed over."""
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        self._writer.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(ANSWER_S):
            while True:
                line = await self._reader.readline()
                assert line, "the connection was closed"
                reply: dict[str, Any] = json.loads(line)
                if "method" not in reply:
                    assert reply["id"] == self._id
                    return reply

    async def rows(self) -> dict[str, int]:
        """How many rows each table holds."""

        def count(db: Connection) -> dict[str, int]:
            tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%_fts%'")
            return {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables.fetchall()}

        counted: dict[str, int] = await self.store.read(count)
        return counted


@pytest.fixture(scope="module")
async def peer() -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: a socket's path is short
        environ = {"NEXUSD_SERVER__TCP__ENABLED": "false"}
        settings = load_settings(config=None, data=Path(directory), environ=environ)
        app = Parts(settings, lambda: settings, LogControl())
        async with contextlib.AsyncExitStack() as parts:
            await app.store.open()
            parts.push_async_callback(app.store.close)
            await app.open_models()
            parts.push_async_callback(app.server.close)
            await app.server.start()
            app.gate.open()
            reader, writer = await asyncio.open_unix_connection(Path(directory) / "nexusd.sock", limit=MAX_LINE)
            parts.callback(writer.close)
            yield Peer(app, reader, writer)


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = request.param
    return found


def parameters(method: Method) -> dict[str, dict[str, Any]]:
    """What `help` says of each parameter."""
    return {one["name"]: one for one in describe(real_table(), method.name)["params"]}


def valid(method: Method) -> dict[str, Any]:
    """Parameters that the method takes: its example, or what is required, with more where a rule wants some of them."""
    told = parameters(method)
    given = {name: sample(one["schema"]) for name, one in told.items() if one["required"]} | (method.example or {})
    for more in (more for count in range(3) for more in itertools.combinations(told, count)):
        candidate = given | {name: sample(told[name]["schema"]) for name in more}
        try:
            validate(method.params, candidate)
        except InvalidParams:
            continue
        return candidate | ({"timeoutMs": 1} if "timeoutMs" in told else {})
    raise AssertionError(f"no parameters found that {method.name} takes; give it an example")


def bad_parameters(method: Method) -> Iterator[tuple[str, dict[str, Any] | list[Any], str]]:
    """What is wrong, the parameters, and the path of the field that must be named."""
    good = valid(method)
    yield "unknown", {**good, "noSuchParameter": 1}, "noSuchParameter"
    yield "one too many", [None] * (len(method.positions) + 1), f"[{len(method.positions)}]"
    for name, one in parameters(method).items():
        if one["required"]:
            yield "missing", {key: value for key, value in good.items() if key != name}, name
        for case in refused(one["schema"], name):
            yield case.how, {**good, name: case.value}, case.path
        if name == "idempotencyKey":  # its length is held by a rule, not by its type
            yield "too short", {**good, name: ""}, name
            yield "too long", {**good, name: "x" * 201}, name


def names(field: dict[str, str], path: str) -> bool:
    """Whether a bad field of the reply is the one meant, or a part of it; a rule over several names them in words."""
    found = field["path"]
    if not found:
        return path in field["expected"].split()
    return found == path or found.startswith((f"{path}.", f"{path}["))


def codes(reply: dict[str, Any]) -> set[int]:
    """The codes of the reply's error and of those in place of its items."""
    result = reply.get("result")
    items = result.get("items", ()) if isinstance(result, dict) else ()
    told = [one.get("error") for one in (reply, *items) if isinstance(one, dict)]
    return {error["code"] for error in told if isinstance(error, dict) and "code" in error}


async def test_a_bad_parameter_is_named_and_nothing_is_changed(peer: Peer, method: Method) -> None:
    before = await peer.rows()
    wrong = []
    for how, params, path in bad_parameters(method):
        reply = await peer.ask(method.name, params)
        error = reply.get("error", {})
        if error.get("code") != INVALID_PARAMS or not any(names(one, path) for one in error["data"].get("fields", ())):
            wrong.append(f"{path} {how}: {json.dumps(reply)[:300]}")
    assert wrong == []
    assert await peer.rows() == before
    assert (await peer.ask("health", {}))["result"]["status"] in {"ok", "degraded"}


async def test_a_value_at_the_edge_of_what_is_allowed_is_no_internal_error(peer: Peer, method: Method) -> None:
    good = valid(method)
    cases = [Case("as it is", None, "")]
    cases += [case for name, one in parameters(method).items() for case in allowed(one["schema"], name)]
    wrong = []
    for case in cases:
        given = {**good, case.path: case.value} if case.path else good
        if case.path != "timeoutMs" and "timeoutMs" in good:
            given["timeoutMs"] = 1  # nobody brings the index up to date
        elif case.path == "timeoutMs" and case.value != 1:
            continue
        reply = await peer.ask(method.name, given)
        if INTERNAL_ERROR in codes(reply):
            wrong.append(f"{case.path} {case.how}: {json.dumps(reply)[:300]}")
    assert wrong == []


def test_the_cases_hold_what_people_get_wrong() -> None:
    """Of the oracle itself: were it empty, all would pass."""
    create = next(method for method in METHODS if method.name == "episodes.create")
    found = {(path, how) for how, _, path in bad_parameters(create)}
    assert {
        ("sessionId", "missing"), ("sessionId", "null given"), ("sessionId", "string given"),
        ("sessionId", "too small"), ("userMessage", "too short"), ("userMessage", "too long"),
        ("waitFor", "no such choice"), ("timeoutMs", "too large"), ("metadata", "array given"),
        ("noSuchParameter", "unknown"),
    } <= found  # fmt: skip
    search = next(method for method in METHODS if method.name == "memory.search")
    found = {(path, how) for how, _, path in bad_parameters(search)}
    assert {
        ("filter.sessionId", "string given"), ("filter.noSuchField", "unknown field"), ("collections", "too few"),
        ("collections[0]", "no such choice"),
    } <= found  # fmt: skip
