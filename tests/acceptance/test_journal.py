"""A daemon whose standard error is the journal: what stands in its entries, and what never does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from fakes.journal import Entry, FakeJournal, ReadJournal
from harness.daemon import Daemon

from nexusd.client import Client
from nexusd.errors import RpcError
from nexusd.journal import message_id

SAID = "flowerpot"      # in every text that is stored or asked for
KEY = "sk-7rAbBiT"


@contextlib.contextmanager
def logging_to(journal: FakeJournal, data: Path, **settings: str) -> Iterator[Daemon]:
    """A daemon as systemd starts it: its standard error is what $JOURNAL_STREAM names."""
    daemon = Daemon(data, settings={"NEXUSD_LOG__JOURNAL_SOCKET": str(journal.path), **settings})
    daemon.log_path.touch()
    found = daemon.log_path.stat()
    daemon._settings["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
    with daemon.start():
        yield daemon


def of(entries: list[Entry], sentence: str) -> list[Entry]:
    return [entry for entry in entries if entry.get("MESSAGE_ID") == message_id(sentence)]


def test_a_request_is_found_by_its_method_by_its_id_and_by_the_kind_of_its_error(tmp_path: Path) -> None:
    debug = {"NEXUSD_LOG__LEVEL": "debug", "NEXUSD_LOG__SLOW_REQUEST_MS": "1"}
    with ReadJournal(tmp_path / "journal") as journal, logging_to(journal, tmp_path / "data", **debug) as daemon:
        with Client(daemon.socket_path) as client, pytest.raises(RpcError) as refused:
            client.call("episodes.get", id=99)
        with Client(daemon.socket_path) as client:
            client.call("system.status")
        assert daemon.terminate() == 0
        entries = journal.entries()
        assert daemon.log_tail() == ""
    asked = refused.value.request_id
    [failed] = [  # it may have been slow as well
        entry for entry in entries if entry.get("NEXUS_REQUEST_ID") == asked and "NEXUS_ERROR_KIND" in entry
    ]
    assert {name: failed[name] for name in ("NEXUS_METHOD", "NEXUS_ERROR_KIND", "NEXUS_PEER", "PRIORITY")} == {
        "NEXUS_METHOD": "episodes.get", "NEXUS_ERROR_KIND": "not_found", "NEXUS_PEER": f"uid:{os.getuid()}",
        "PRIORITY": "7",
    }  # fmt: skip
    slow = of(entries, "slow request")
    assert "system.status" in {entry["NEXUS_METHOD"] for entry in slow}
    assert all(int(entry["NEXUS_DURATION_US"]) >= 1000 for entry in slow)
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"nexusd"}
    assert len(of(entries, "ready")) == len(of(entries, "stopped")) == 1


def test_a_changed_level_holds_for_the_journal_and_a_refusal_is_an_error_there(tmp_path: Path) -> None:
    (config := tmp_path / "config.yaml").write_text("log: {level: error}\n")
    with FakeJournal(tmp_path / "journal") as journal, logging_to(journal, tmp_path / "data") as daemon:
        assert journal.entries() == []
        config.write_text("log: {level: debug}\n")
        with Client(daemon.socket_path) as client:
            assert client.call("system.reload")["changed"] == ["log.level"]
            [reloaded] = of(journal.entries(), "settings reloaded")
            assert reloaded["NEXUS_CHANGED"] == "log.level"
            config.write_text("nonsense: 1\n")
            with pytest.raises(RpcError):
                client.call("system.reload")
        [refused] = of(journal.entries(), "settings refused; the old ones hold")
        assert (refused["PRIORITY"], refused["NEXUS_PROBLEMS"]) == ("3", f"{config}:1: nonsense: no such setting")


def test_a_journal_that_goes_away_costs_entries_and_nothing_else(tmp_path: Path) -> None:
    debug = {"NEXUSD_LOG__LEVEL": "debug"}
    journal = FakeJournal(tmp_path / "journal")
    with logging_to(journal, tmp_path / "data", **debug) as daemon, Client(daemon.socket_path) as client:
        journal.close()
        for _ in range(20):
            with pytest.raises(RpcError):
                client.call("episodes.get", id=99)
        log = client.call("system.status")["log"]
        assert log["output"] == "journal"
        assert log["dropped"] >= 20
        with FakeJournal(tmp_path / "journal") as again:
            with pytest.raises(RpcError):
                client.call("episodes.get", id=99)
            [told] = of(again.entries(), "log entries were lost")
            assert int(told["NEXUS_LOST"]) >= 20
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(daemon.socket_path))
            raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            figures = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    [dropped] = [line for line in figures.splitlines() if line.startswith("nexusd_log_entries_dropped_total ")]
    assert float(dropped.split()[1]) >= 20


# What is said in every place where a caller can say something.
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("sessions.create", {"externalId": SAID, "metadata": {SAID: SAID}}),
    ("episodes.create", {"sessionId": 1, "userMessage": SAID, "aiResponse": SAID, "metadata": {"note": SAID}}),
    ("episodes.create", {"sessionId": 1, "userMessage": f"poison {SAID}", "aiResponse": SAID}),
    ("episodes.createMany", {"items": [{"sessionId": 1, "userMessage": SAID, "aiResponse": SAID}]}),
    ("episodes.update", {"id": 1, "aiResponse": SAID, "idempotencyKey": SAID}),
    ("summaries.create", {"sessionId": 1, "content": SAID, "firstEpisodeId": 1, "lastEpisodeId": 1}),
    ("entities.upsert", {"name": SAID, "type": SAID, "notes": SAID}),
    ("conversations.create", {"title": SAID}),
    ("messages.create", {"conversationId": 1, "role": SAID, "content": SAID}),
    ("users.set", {"id": SAID, "settings": {SAID: SAID}}),
    ("vectors.store", {"id": SAID, "text": SAID}),
    ("toolLogs.append", {"tool": SAID, "arguments": {SAID: SAID}}),
    ("cache.set", {"key": SAID, "value": SAID}),
    ("outbox.wait", {"timeoutMs": 30_000}),
    ("memory.search", {"query": SAID}),
    ("memory.context", {"query": SAID, "tokenBudget": 100}),
    ("vectors.search", {"query": SAID, "filter": {"must": [{"key": "metadata.x", "match": {"value": SAID}}]}}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("episodes.create", {"sessionId": 99, "userMessage": SAID, "aiResponse": SAID}),
    ("episodes.create", {"sessionId": SAID, "userMessage": [SAID], SAID: SAID}),
    ("episodes.update", {"id": 2, "aiResponse": f"another {SAID}", "idempotencyKey": SAID}),
    ("episodes.search", {"query": f'"{SAID}', "syntax": "fts5"}),
    ("episodes.search", {"query": f"{SAID}: AND NEAR(", "syntax": "fts5"}),
    ("memory.search", {"query": SAID, "filter": {"metadata": {SAID: {SAID: SAID}}}}),
    ("vectors.store", {"id": 1, "text": SAID, "embedding": [SAID]}),
    ("vectors.search", {"query": SAID, "filter": {SAID: SAID}}),
    ("presets.create", {"name": f"../{SAID}", "content": {SAID: SAID}}),
    (SAID, {SAID: SAID}),
]
FRAMES = [
    f'{{"{SAID}": "{SAID}'.encode(),
    f'{{"jsonrpc":"2.0","id":1,"id":2,"method":"{SAID}"}}'.encode(),
    json.dumps({"jsonrpc": "2.0", "id": SAID, "method": "health", "params": SAID}).encode(),
    json.dumps([{"jsonrpc": "2.0", "method": "health", "params": {"x": SAID}}] * 101).encode(),
    SAID.encode(),
    f"POST /rpc HTTP/1.1\r\nHost: {SAID}\r\nX: {SAID}\r\nContent-Length: 3\r\n\r\n{SAID}".encode(),
]


@pytest.mark.parametrize("output", ["journal", "logfmt"])
def test_no_text_of_a_memory_and_no_token_is_ever_in_an_entry(tmp_path: Path, output: str) -> None:
    service = EmbeddingServer("openai")
    service.key = KEY
    service.poison = {"poison"}
    with ReadJournal(tmp_path / "journal") as journal, InThread(service) as server:
        settings = {
            "NEXUSD_LOG__LEVEL": "debug", "NEXUSD_LOG__FORMAT": output, "NEXUSD_LOG__SLOW_REQUEST_MS": "1",
            "NEXUSD_EMBEDDING__PROVIDER": "openai", "NEXUSD_EMBEDDING__URL": f"{server.url}/v1",
            "NEXUSD_EMBEDDING__API_KEY": KEY, "NEXUSD_EMBEDDING__MODEL": "fake",
            "NEXUSD_EMBEDDING__DIMENSION": str(server.dimension),
        }  # fmt: skip
        with logging_to(journal, tmp_path / "data", **settings) as daemon:
            with Client(daemon.socket_path) as client:
                for method, params in TAKEN:
                    client.call(method, **params)
                for method, params in REFUSED:
                    with pytest.raises(RpcError):
                        client.call(method, **params)
                (daemon.data / "presets" / "note.yaml").write_text(f"{SAID}: [{SAID}\n")
                (daemon.data / "mcp-servers.json").write_text(f'{{"{SAID}": {SAID}}}')
                client.call("system.reload")
                waited = client.call("outbox.wait", timeoutMs=30_000)
                assert (waited["pending"], waited["dead"]) == (0, 1)
                server.key = "another"
                os.kill(daemon.children()["shard_process"], signal.SIGKILL)
                with contextlib.suppress(RpcError):
                    client.call("memory.search", query=f"{SAID} again")
                client.call("episodes.create", sessionId=1, userMessage=SAID, aiResponse=SAID)
                client.call("outbox.wait", timeoutMs=1000)
            for frame in FRAMES:
                with socket.socket(socket.AF_UNIX) as raw:
                    raw.connect(str(daemon.socket_path))
                    raw.sendall(frame + b"\n")
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(65536):
                        pass
            assert daemon.terminate() == 0
            entries = journal.entries()
            written = daemon.log_path.read_text()
    everything = written + "".join(str(entry) for entry in entries)
    assert SAID not in everything.lower(), [line for line in everything.splitlines() if SAID in line.lower()]
    assert KEY not in everything
    # and not because nothing was logged
    for sentence in ("request failed", "slow request", "row cannot be indexed", "file cannot be taken", "child ended"):
        assert sentence in everything
    assert (len(entries) > 30, "level=debug" in written) == (output == "journal", output == "logfmt")


def test_where_the_journal_is_not_there_it_starts_all_the_same(tmp_path: Path) -> None:
    settings = {"NEXUSD_LOG__FORMAT": "journal", "NEXUSD_LOG__JOURNAL_SOCKET": str(tmp_path / "nothing")}
    with Daemon(tmp_path / "data", settings=settings).start() as daemon:
        assert 'event="no journal to log to"' in daemon.log_tail()
