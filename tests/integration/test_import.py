"""The databases of the older services, taken over by a real daemon."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.older_services import memory_service, storage_core

from nexusd.cli.import_report import ImportReport, describe_report
from nexusd.cli.older_files import OlderFile, OlderFileError
from nexusd.cli.older_import import import_older
from nexusd.cli.transfer_progress import Silent
from nexusd.client import Client


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data") as running:
        yield running


@pytest.fixture
def nexus(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.socket_path) as client:
        yield client


def counts(report: ImportReport) -> dict[str, tuple[int, int, int]]:
    return {table.table: (table.inserted, table.existing, table.refused) for table in report.tables}


def test_a_memory_services_file_comes_over_whole_with_its_ids(nexus: Client, tmp_path: Path) -> None:
    report = import_older(nexus, memory_service(tmp_path / "old.db"), Silent())
    assert counts(report) == {
        "projects": (1, 0, 0), "sessions": (3, 0, 0), "episodes": (12, 0, 0), "entities": (2, 0, 0),
        "relationships": (1, 0, 0), "summaries": (1, 0, 0),
    }
    assert not any(table.new_ids for table in report.tables)
    session = nexus.call("sessions.getByExternalId", externalId="old-2")
    assert (session["id"], session["name"], session["projectId"], session["createdAt"]) == (
        2, "Session 2", 1, 1_700_000_000_002
    )
    episode = nexus.call("episodes.get", id=5)
    assert episode["userMessage"] == "question 0 of session 2"
    assert (episode["aiResponse"], episode["tokenCount"], episode["metadata"]) == ("answer 0", 10, {"n": 0})
    assert episode["createdAt"] == 1_700_000_102_000
    [link] = nexus.call("relationships.listFrom", fromId=1)["items"]
    assert (link["toId"], link["label"]) == (2, "uses")
    summary = nexus.call("summaries.get", id=1)
    assert (summary["firstEpisodeId"], summary["lastEpisodeId"]) == (1, 2)


def test_each_row_counts_once_in_the_progress_refused_or_not(nexus: Client, tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.done: dict[str, list[int]] = {}

        def table(self, name: str, rows: int) -> None:
            self._now = self.done[name] = [rows, 0]

        def advance(self, rows: int) -> None:
            self._now[1] += rows

    progress = Counting()
    path = memory_service(tmp_path / "old.db")
    with sqlite3.connect(path) as db:   # one that the daemon refuses, one that is never sent
        db.execute("UPDATE episodes SET user_message = '' WHERE id = 2")
        db.execute("UPDATE episodes SET user_message = X'ff' WHERE id = 3")
    db.close()
    assert counts(import_older(nexus, path, progress))["episodes"] == (10, 0, 2)
    assert progress.done["episodes"] == [12, 12]


def test_what_was_imported_is_found_by_words_at_once_and_queued_for_the_index(nexus: Client, tmp_path: Path) -> None:
    import_older(nexus, memory_service(tmp_path / "old.db"), Silent())
    found = nexus.call("episodes.search", query='"session 3"', syntax="fts5")["items"]
    assert {hit["episode"]["sessionId"] for hit in found} == {3}
    assert nexus.call("outbox.wait", timeoutMs=60_000)["done"]
    assert nexus.call("episodes.get", id=1)["vector"] == "indexed"


def test_what_was_imported_waits_for_the_index_since_now_however_old_it_is(nexus: Client, tmp_path: Path) -> None:
    import_older(nexus, memory_service(tmp_path / "old.db", sessions=100), Silent())
    import_older(nexus, storage_core(tmp_path / "chatai.db"), Silent())
    waiting = nexus.call("outbox.list", limit=500)["items"]
    assert {"episodes", "messages", "vectors"} <= {row["collection"] for row in waiting}
    assert all(time.time() * 1000 - row["createdAt"] < 60_000 for row in waiting)


def test_a_second_run_takes_nothing_twice_even_of_a_moved_file(nexus: Client, tmp_path: Path) -> None:
    first = memory_service(tmp_path / "old.db")
    import_older(nexus, first, Silent())
    moved = first.rename(tmp_path / "elsewhere.db")
    db = sqlite3.connect(moved)
    db.execute("INSERT INTO episodes (session_id, user_message, ai_response, created_at) VALUES (1, 'new', '', 9)")
    db.commit()
    db.close()
    report = import_older(nexus, moved, Silent())
    assert counts(report)["episodes"] == (1, 12, 0)
    assert counts(report)["sessions"] == (0, 3, 0)
    assert counts(report)["summaries"] == (0, 1, 0)


def test_equal_rows_of_the_file_stay_as_many_as_they_are(nexus: Client, tmp_path: Path) -> None:
    path = memory_service(tmp_path / "old.db", sessions=1, episodes=0)
    db = sqlite3.connect(path)
    db.executemany("INSERT INTO episodes (session_id, user_message, ai_response, created_at) VALUES (1, 'yes', '', 5)",
                   [()] * 3)
    db.commit()
    db.close()
    assert counts(import_older(nexus, path, Silent()))["episodes"] == (3, 0, 0)
    assert counts(import_older(nexus, path, Silent()))["episodes"] == (0, 3, 0)
    assert len(nexus.call("episodes.list", sessionId=1)["items"]) == 3


def test_ids_that_are_taken_are_mapped_and_what_refers_to_them_follows(nexus: Client, tmp_path: Path) -> None:
    mine = nexus.call("sessions.create", externalId="mine")
    nexus.call("episodes.create", sessionId=mine["id"], userMessage="mine", aiResponse="")
    report = import_older(nexus, memory_service(tmp_path / "old.db"), Silent())
    new_ids = {table.table: table.new_ids for table in report.tables}
    assert (new_ids["sessions"], new_ids["episodes"], new_ids["projects"]) == (1, 1, 0)
    moved = nexus.call("sessions.getByExternalId", externalId="old-1")
    assert moved["id"] > 3
    texts = [row["userMessage"] for row in nexus.call("episodes.list", sessionId=moved["id"], order="asc")["items"]]
    assert texts == [f"question {n} of session 1" for n in range(4)]
    summary = nexus.call("summaries.list", sessionId=moved["id"])["items"][0]
    assert nexus.call("episodes.get", id=summary["firstEpisodeId"])["userMessage"] == texts[0]
    assert nexus.call("episodes.get", id=1)["userMessage"] == "mine"
    assert counts(import_older(nexus, tmp_path / "old.db", Silent()))["episodes"] == (0, 12, 0)


def test_a_file_from_before_the_later_columns_is_taken(nexus: Client, tmp_path: Path) -> None:
    report = import_older(nexus, memory_service(tmp_path / "old.db", later=False), Silent())
    assert "projects" not in counts(report)
    assert nexus.call("sessions.get", id=1)["name"] is None
    assert counts(report)["episodes"] == (12, 0, 0)


def test_a_storage_cores_file_comes_over_and_says_what_could_not(nexus: Client, tmp_path: Path) -> None:
    report = import_older(nexus, storage_core(tmp_path / "chatai.db"), Silent())
    assert counts(report) == {
        "users": (1, 0, 0), "groups": (1, 0, 0), "conversations": (1, 0, 0), "messages": (4, 0, 0),
        "presets": (1, 0, 0), "toolLogs": (1, 0, 0), "vectors": (1, 0, 0),
    }
    assert nexus.call("users.get", id=7)["settings"] == {"language": "de", "theme": "dark"}
    assert nexus.call("groups.get", id=1)["config"] == {"members": '["Ada", "Bo"]'}
    conversation = nexus.call("conversations.get", id=1)
    assert (conversation["title"], conversation["userId"], conversation["metadata"]) == ("Tea", 7, {"model": "llama"})
    assert conversation["createdAt"] == 1_714_564_800_000
    messages = nexus.call("messages.list", conversationId=1)["items"]
    assert [message["content"] for message in messages] == ["How hot for green tea?", "Seventy degrees."]
    assert nexus.call("messages.get", id=4)["conversationId"] != 1
    log = nexus.call("toolLogs.list")["items"][0]
    assert (log["tool"], log["arguments"], log["result"], log["status"]) == ("clock", {"zone": "UTC"}, "12:00", "ok")
    assert nexus.call("presets.get", name="Careful")["content"] == {"temperature": 0.2}
    assert nexus.call("vectors.get", id="note-1")["text"] == "The cellar is damp."
    assert report.embeddings_left_out == 1
    again = import_older(nexus, tmp_path / "chatai.db", Silent())
    assert all(table.inserted == 0 for table in again.tables), describe_report(again)


def test_a_row_that_cannot_be_taken_is_told_with_its_reason_and_spoils_no_other(nexus: Client, tmp_path: Path) -> None:
    path = memory_service(tmp_path / "old.db", sessions=1, episodes=2)
    db = sqlite3.connect(path)
    db.execute("INSERT INTO episodes VALUES (50, 77, 'an orphan', '', NULL, NULL, 5)")
    db.execute("INSERT INTO episodes VALUES (51, 1, '', 'no question', NULL, NULL, 5)")
    db.execute("INSERT INTO episodes VALUES (52, 1, 'when?', '', NULL, NULL, 'yesterday')")
    db.execute("INSERT INTO episodes VALUES (53, 1, 'metadata as it comes', '', NULL, 'no json', 6)")
    db.commit()
    db.close()
    report = import_older(nexus, path, Silent())
    assert counts(report)["episodes"] == (3, 0, 3)
    reasons = {refusal.id: refusal.reason for refusal in report.refusals}
    assert reasons.keys() == {50, 51, 52}
    assert "77" in reasons[50]
    assert "userMessage" in reasons[51]
    assert "created_at" in reasons[52]
    assert nexus.call("episodes.get", id=53)["metadata"] == {"metadata": "no json"}
    assert "not taken: episodes 50" in describe_report(report)


def test_an_import_that_was_cut_off_goes_on_where_it_was(
    nexus: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.cli.import_rows.MAX_ROWS", 5)
    path = memory_service(tmp_path / "old.db", sessions=4, episodes=5)

    class Stopped(Exception):
        pass

    class StopsAfter(Client):
        calls = 0

        def execute(self, request: Any, **options: Any) -> Any:
            StopsAfter.calls += 1
            if StopsAfter.calls == 8:
                raise Stopped
            return super().execute(request, **options)

    with StopsAfter(nexus.address) as cut, pytest.raises(Stopped):
        import_older(cut, path, Silent())
    report = import_older(nexus, path, Silent())
    inserted, existing, refused = counts(report)["episodes"]
    assert (inserted + existing, refused) == (20, 0)
    assert existing > 0
    assert not any(table.new_ids for table in report.tables)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"not a database at all, but long enough to look at" * 30), "not a"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close(), "its tables: t"),
        (lambda path: None, "there is no file"),
    ],
)
def test_what_is_no_older_database_is_refused_in_words(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "some.db"
    make(path)
    with pytest.raises(OlderFileError, match=words):
        OlderFile(path)


def test_the_file_is_never_written_to(nexus: Client, tmp_path: Path) -> None:
    path = memory_service(tmp_path / "old.db")
    before = path.read_bytes()
    import_older(nexus, path, Silent())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob("old.db*")] == ["old.db"]


@pytest.mark.parametrize(("embedding", "kind"), [
    ([1.0], "dimension_mismatch"), ([0.0] * 384, "invalid_params"), ([1e39] * 384, "invalid_params"),
])
def test_a_vector_that_the_index_would_refuse_is_refused_at_once(
    nexus: Client, embedding: list[float], kind: str
) -> None:
    rows = [{"id": "a", "text": "good", "createdAt": 1},
            {"id": "b", "text": "bad", "embedding": embedding, "createdAt": 1}]
    good, bad = nexus.call("imports.store", table="vectors", items=rows)["items"]
    assert (good["outcome"], bad["error"]["data"]["kind"]) == ("inserted", kind)
    assert "items[1].embedding" in bad["error"]["message"]
