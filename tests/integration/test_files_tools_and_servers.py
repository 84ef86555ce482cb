"""Tools and mcp-servers.json: stored and handed out, edited by hand, never run and never logged."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.clock import ManualClock
from harness.database import open_database
from harness.files import Desk, desk
from structlog.testing import capture_logs

from nexusd.api.mcp_servers import McpServersApi
from nexusd.api.presets import PresetsApi
from nexusd.api.tools import ToolsApi
from nexusd.config_sections import FilesConfig
from nexusd.errors import BadContent, BadName, IdempotencyMismatch, McpServerNotFound, TooLarge, ToolNotFound
from nexusd.files.storage import FileStorage
from nexusd.model.mcp_servers import ListMcpServers, McpServer
from nexusd.model.tools import ListTools
from nexusd.store.idempotency import Receipt
from nexusd.store.presets import select_preset

pytestmark = pytest.mark.anyio

SOURCE = "export default () => 'é'\n"
FILES = {"command": "mcp-files", "env": {"TOKEN": "s3cret"}}
WEB = {"url": "https://mcp.lan/", "headers": {"Authorization": "s3cret"}}
FILE = "mcp-servers.json"


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as made:
        yield made


def receipt(key: str, method: str = "tools.put", parameters: bytes = b"x") -> Receipt:
    return Receipt(key=key, principal="test", method=method, parameters_hash=parameters)


def listed(at: Desk) -> dict[str, str]:
    return {tool.name: tool.state for tool in at.tools.page(ListTools()).items}


def servers(at: Desk) -> list[McpServer]:
    return at.servers.page(ListMcpServers()).items


# ---- tools


async def test_a_tool_is_a_file_that_nobody_may_execute(at: Desk) -> None:
    stored = await at.tools.put("dice", SOURCE, None)
    tool = await at.tools.get("dice")
    assert not isinstance(stored, msgspec.Raw)
    assert (at.text("tools/dice.js"), tool.source) == (SOURCE, SOURCE)
    assert stored.sha256 == tool.sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert stored.bytes == tool.bytes == len(SOURCE.encode())
    assert at.tools.page(ListTools()).items == [stored]
    assert stat.S_IMODE((at.root / "tools/dice.js").stat().st_mode) == 0o640


async def test_a_tool_is_replaced_and_deleted(at: Desk) -> None:
    await at.tools.put("dice", SOURCE, None)
    await at.tools.put("dice", "2", None)
    assert at.text("tools/dice.js") == "2"
    gone = await at.tools.delete("dice", None)
    assert not isinstance(gone, msgspec.Raw)
    assert gone.deleted == {"files": 1}
    assert at.there("tools") == set()
    with pytest.raises(ToolNotFound):
        await at.tools.get("dice")
    with pytest.raises(ToolNotFound):
        await at.tools.delete("dice", None)


async def test_a_source_that_is_there_already_is_not_written_again(at: Desk) -> None:
    await at.tools.put("dice", SOURCE, None)
    before = (at.root / "tools/dice.js").stat().st_ino
    await at.tools.put("dice", SOURCE, None)
    assert (at.root / "tools/dice.js").stat().st_ino == before


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "a\0", "x" * 65])
async def test_a_name_that_is_none_reaches_no_file(at: Desk, name: str) -> None:
    for call in (at.tools.put(name, "1", None), at.tools.get(name), at.tools.delete(name, None)):
        with pytest.raises(BadName):
            await call
    assert at.there("tools") == set()


async def test_a_source_that_is_too_long_is_refused(at: Desk) -> None:
    with pytest.raises(TooLarge):
        await at.tools.put("a", "é" * 2**19 + "x", None)
    await at.tools.put("a", "é" * 2**19, None)


async def test_a_put_sent_again_is_not_done_again(at: Desk) -> None:
    first = await at.tools.put("a", "1", receipt("k"))
    await at.tools.put("a", "2", None)
    again = await at.tools.put("a", "1", receipt("k"))
    assert isinstance(again, msgspec.Raw)
    assert msgspec.json.encode(again) == msgspec.json.encode(first)
    assert at.text("tools/a.js") == "2"
    with pytest.raises(IdempotencyMismatch):
        await at.tools.put("b", "1", receipt("k", parameters=b"y"))


async def test_tools_edited_by_hand_are_found(at: Desk, tmp_path: Path) -> None:
    at.edit("tools/a.js", "1")
    at.edit("tools/b.js", b"\xff")
    at.edit("tools/c.txt", "1")
    (tmp_path / "secret").write_text("x")
    (at.root / "tools/d.js").symlink_to(tmp_path / "secret")
    at.edit("tools/e.js", "x" * 2**21)
    await at.files.scan()
    assert listed(at) == {"a": "ok", "b": "broken", "d": "broken", "e": "broken"}
    assert at.news() == [("tool", "a", "changed"), ("tool", "b", "broken"), ("tool", "d", "broken"),
                         ("tool", "e", "broken")]
    large = at.tools.page(ListTools(offset=3)).items[0]
    assert (large.bytes, large.sha256) == (2**21, None)
    for name in "bde":
        with pytest.raises(BadContent):
            await at.tools.get(name)
    (at.root / "tools/b.js").unlink()
    at.edit("tools/a.js", "22")
    await at.files.scan()
    assert at.news() == [("tool", "a", "changed"), ("tool", "b", "removed")]


async def test_pages_of_tools(at: Desk) -> None:
    for name in "abcde":
        await at.tools.put(name, name, None)
    first = at.tools.page(ListTools(limit=2))
    second = at.tools.page(ListTools(limit=2, cursor=first.next_cursor))
    third = at.tools.page(ListTools(limit=2, cursor=second.next_cursor))
    assert [tool.name for page in (first, second, third) for tool in page.items] == list("abcde")
    assert third.next_cursor is None


async def test_a_directory_of_tools_that_is_gone_is_made_anew(at: Desk) -> None:
    await at.tools.put("a", "1", None)
    (at.root / "tools/a.js").unlink()
    (at.root / "tools").rmdir()
    await at.files.scan()
    assert (at.there("tools"), listed(at)) == (set(), {})
    await at.tools.put("a", "1", None)


# ---- MCP servers


async def test_a_server_is_written_shown_without_secrets_and_read_with_them(at: Desk) -> None:
    stored = await at.servers.put("files", FILES, None)
    await at.servers.put("web", WEB, None)
    assert stored == McpServer(name="files", kind="command")
    assert servers(at) == [stored, McpServer(name="web", kind="url")]
    assert b"s3cret" not in msgspec.json.encode([stored, servers(at)])
    assert at.servers.get("files").config == FILES
    assert json.loads(at.text(FILE)) == {"mcpServers": {"files": FILES, "web": WEB}}
    assert stat.S_IMODE((at.root / FILE).stat().st_mode) == 0o600


async def test_the_rest_of_the_file_stays_as_it_is(at: Desk) -> None:
    at.edit(FILE, json.dumps({"$schema": "x", "mcpServers": {"z": WEB, "a": {**FILES, "x": [1]}}, "inputs": []}))
    await at.servers.put("m", {"url": "u"}, None)   # not looked at since: the file is read before it is written
    await at.servers.put("z", {"url": "v"}, None)
    await at.servers.delete("m", None)
    expected = {"$schema": "x", "mcpServers": {"z": {"url": "v"}, "a": {**FILES, "x": [1]}}, "inputs": []}
    assert at.text(FILE) == json.dumps(expected, indent=2) + "\n"


async def test_a_file_that_says_it_already_is_left_as_its_owner_wrote_it(at: Desk) -> None:
    text = '{"mcpServers": {"a": {"command": "x", "n": 1}}}'
    at.edit(FILE, text)
    await at.servers.put("a", {"command": "x", "n": 1}, None)
    assert at.text(FILE) == text
    await at.servers.put("a", {"command": "x", "n": True}, None)    # to Python the same, to JSON not
    assert json.loads(at.text(FILE))["mcpServers"]["a"]["n"] is True


async def test_an_older_file_keeps_its_form(at: Desk) -> None:
    at.edit(FILE, json.dumps({"a": FILES}))
    await at.servers.put("b", WEB, None)
    assert json.loads(at.text(FILE)) == {"a": FILES, "b": WEB}
    with pytest.raises(BadName):
        await at.servers.put("mcpServers", WEB, None)
    with pytest.raises(McpServerNotFound):
        await at.servers.delete("c", None)


@pytest.mark.parametrize("config", [{}, {"command": "x", "url": "u"}, {"command": 5}, {"url": "u", "headers": []}])
async def test_a_configuration_that_is_none_is_refused(at: Desk, config: dict[str, Any]) -> None:
    with pytest.raises(BadContent):
        await at.servers.put("a", config, None)
    assert not (at.root / FILE).exists()


async def test_a_name_with_control_characters_is_refused(at: Desk) -> None:
    for name in ("a\n", "a\0", "a\u202e"):
        with pytest.raises(BadName):
            await at.servers.put(name, WEB, None)


async def test_a_broken_file_is_told_left_alone_and_its_last_content_stays(at: Desk) -> None:
    await at.servers.put("files", FILES, None)
    text = at.text(FILE)[:-20] + "s3cret"
    at.edit(FILE, text)
    with capture_logs() as logs:
        await at.files.scan()
        await at.files.scan()
    assert [log["file"] for log in logs] == [FILE]
    assert "s3cret" not in str(logs)
    assert at.news() == [("mcpServer", "files", "changed"), ("mcpServer", None, "broken")]
    page = at.servers.page(ListMcpServers())
    assert ([server.name for server in page.items], (page.problem or "")[:14]) == (["files"], "not valid JSON")
    assert at.servers.get("files").config == FILES
    for call in (at.servers.put("b", WEB, None), at.servers.delete("files", None)):
        with pytest.raises(BadContent, match="broken"):
            await call
    assert at.text(FILE) == text
    assert FILE in at.files.broken()
    at.edit(FILE, json.dumps({"mcpServers": {"web": WEB}}))
    await at.files.scan()
    assert (servers(at), at.files.broken()) == ([McpServer(name="web", kind="url")], {})
    assert at.news() == [("mcpServer", "web", "changed"), ("mcpServer", "files", "removed")]


async def test_servers_edited_by_hand_are_found_and_each_change_is_told(at: Desk) -> None:
    at.edit(FILE, json.dumps({"mcpServers": {"a": FILES, "b": WEB}}))
    await at.files.scan()
    at.news()
    at.replace(FILE, json.dumps({"mcpServers": {"a": FILES, "b": {**WEB, "disabled": True}, "c": WEB}}))
    await at.files.scan()
    assert at.news() == [("mcpServer", "b", "changed"), ("mcpServer", "c", "changed")]
    (at.root / FILE).unlink()
    await at.files.scan()
    assert servers(at) == []
    assert sorted(at.news()) == [("mcpServer", name, "removed") for name in "abc"]


async def test_a_link_or_a_large_file_is_not_read(at: Desk, tmp_path: Path) -> None:
    await at.servers.put("a", WEB, None)
    (tmp_path / "elsewhere").write_text(json.dumps({"evil": FILES}))
    (at.root / FILE).unlink()
    (at.root / FILE).symlink_to(tmp_path / "elsewhere")
    await at.files.scan()
    assert ([server.name for server in servers(at)], at.files.broken()[FILE]) == (
        ["a"], "is a link, which is not followed"
    )
    with pytest.raises(BadContent):
        await at.servers.put("b", WEB, None)
    (at.root / FILE).unlink()
    at.edit(FILE, " " * 2**21)
    await at.files.scan()
    assert "2,097,152 bytes" in at.files.broken()[FILE]


async def test_a_file_that_would_be_too_large_is_not_written(at: Desk) -> None:
    with pytest.raises(TooLarge):
        await at.servers.put("a", {"command": "x" * 2**20}, None)
    assert not (at.root / FILE).exists()


async def test_calls_on_servers_sent_again_are_not_done_again(at: Desk) -> None:
    put, delete = receipt("k1", "mcpServers.put"), receipt("k2", "mcpServers.delete")
    first = await at.servers.put("a", WEB, put)
    await at.servers.delete("a", delete)
    again = [await at.servers.put("a", WEB, put), await at.servers.delete("a", delete)]
    assert all(isinstance(one, msgspec.Raw) for one in again)
    assert msgspec.json.encode(again[0]) == msgspec.json.encode(first)
    assert json.loads(at.text(FILE)) == {"mcpServers": {}}


async def test_no_secret_reaches_the_database(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.servers.put("files", FILES, receipt("k1", "mcpServers.put"))
        await at.servers.put("web", WEB, receipt("k2", "mcpServers.put"))
    stored = (tmp_path / "nexus.db").read_bytes()
    assert b'"kind":"command"' in stored    # the receipts are there
    assert b"s3cret" not in stored


async def test_what_holds_secrets_or_runs_elsewhere_takes_an_admin(at: Desk) -> None:
    methods = [*McpServersApi(at.servers).methods(), *ToolsApi(at.tools).methods(), *PresetsApi(at.presets).methods()]
    assert {method.name for method in methods if method.role == "admin"} == {
        "mcpServers.get", "mcpServers.put", "mcpServers.delete", "tools.put", "tools.delete",
    }
    assert {method.name for method in methods if method.role == "read"} == {
        "mcpServers.list", "tools.list", "tools.get", "presets.list", "presets.get",
    }


# ---- all of them


async def test_the_watch_looks_at_the_interval_that_is_set_also_anew(tmp_path: Path) -> None:
    naps: list[float] = []
    looked = asyncio.Event()

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            files.set_interval(7.0)
            (tmp_path / "files/presets/a.yaml").write_text("x: 1")
            return
        looked.set()
        await asyncio.Event().wait()

    async with open_database(tmp_path / "nexus.db") as store:
        files = FileStorage(tmp_path / "files", FilesConfig(poll_interval_s=0.5), store, ManualClock(), sleep=sleep)
        await files.open()
        watch = asyncio.create_task(files.run())
        await looked.wait()
        assert store.peek(select_preset, "a").content == {"x": 1}
        assert naps == [0.5, 7.0]
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch
        await files.close()


async def test_a_disk_that_does_not_answer_holds_no_one_but_the_files(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    real = at.presets.shelf.directory.entries

    def slow() -> Any:
        assert answered.wait(30)
        return real()

    monkeypatch.setattr(at.presets.shelf.directory, "entries", slow)
    scan = asyncio.create_task(at.files.scan())
    await asyncio.sleep(0)
    with pytest.raises(McpServerNotFound):
        at.servers.get("a")             # what is known is answered meanwhile
    await at.store.write(lambda db: None)
    assert not scan.done()
    answered.set()
    await scan
