"""Files of the older services that are not quite as their specifications say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.older_services import memory_service

from nexusd.cli.older_import import import_older
from nexusd.cli.transfer_progress import Silent
from nexusd.client import Client


@pytest.fixture
def nexus(tmp_path: Path) -> Iterator[Client]:
    with Daemon(tmp_path / "data") as daemon, Client(daemon.socket_path) as client:
        yield client


def made(path: Path, script: str, *rows: tuple[str, tuple[Any, ...]]) -> Path:
    """A database of this script and these statements."""
    db = sqlite3.connect(path)
    db.executescript(script)
    for sql, values in rows:
        db.execute(sql, values)
    db.commit()
    db.close()
    return path


def test_json_that_no_message_can_hold_is_taken_as_text(nexus: Client, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ('{"n": %s}' % ("9" * 40), {"n": "9" * 40}),
        ('{"n": -9223372036854775809}', {"n": "-9223372036854775809"}),
        ('{"n": -9223372036854775808}', {"n": -(2**63)}),
        ('{"n": %s}' % ("9" * 5000), {"n": "9" * 5000}),
        (r'{"half": "a\ud800b"}', {"half": "a?b"}),
        (r'{"half\udfff": 1}', {"half?": 1}),
        (r'{"whole": "\ud83d\ude00"}', {"whole": "\N{GRINNING FACE}"}),
    ]
    path = memory_service(tmp_path / "old.db", sessions=1, episodes=len(cases))
    rows = [("UPDATE episodes SET metadata = ? WHERE id = ?", (case[0], at)) for at, case in enumerate(cases, 1)]
    made(path, "", *rows)
    assert not import_older(nexus, path, Silent()).refusals
    taken = [nexus.call("episodes.get", id=at)["metadata"] for at in range(1, len(cases) + 1)]
    assert taken == [case[1] for case in cases]


def test_rows_with_texts_for_ids_are_taken_under_new_ones(nexus: Client, tmp_path: Path) -> None:
    path = made(tmp_path / "chatai.db", """
        CREATE TABLE conversations (id TEXT PRIMARY KEY, title TEXT, created_at TEXT);
        CREATE TABLE messages (id TEXT PRIMARY KEY, conversation_id TEXT, role TEXT, content TEXT, created_at TEXT);
        INSERT INTO conversations VALUES ('c-b', 'Tea', '2024-05-01'), ('c-a', 'Bread', '2024-05-02');
        INSERT INTO messages VALUES ('m-1', 'c-b', 'user', 'How hot?', '2024-05-01');
    """)
    report = import_older(nexus, path, Silent())
    assert [(table.inserted, table.refused) for table in report.tables] == [(2, 0), (1, 0)]
    [tea] = [one for one in nexus.call("conversations.list")["items"] if one["title"] == "Tea"]
    [message] = nexus.call("messages.list", conversationId=tea["id"])["items"]
    assert message["content"] == "How hot?"
    assert not any(table.inserted for table in import_older(nexus, path, Silent()).tables)


def test_rows_with_ids_that_cannot_be_kept_are_taken_under_new_ones(nexus: Client, tmp_path: Path) -> None:
    path = memory_service(tmp_path / "old.db", sessions=0, episodes=0)
    ids = (-5, 0, 2**48 + 1, 2**53, 2**63 - 1)
    for id_ in ids:
        made(path, "",
             ("INSERT INTO sessions (id, external_id, created_at) VALUES (?, ?, 5)", (id_, f"s{id_}")),
             ("INSERT INTO episodes (session_id, user_message, ai_response, created_at) VALUES (?, 'hi', '', 5)",
              (id_,)))
    report = import_older(nexus, path, Silent())
    assert not report.refusals
    for id_ in ids:
        session = nexus.call("sessions.getByExternalId", externalId=f"s{id_}")
        assert len(nexus.call("episodes.list", sessionId=session["id"])["items"]) == 1


def test_a_users_id_that_is_no_exact_number_becomes_a_text(nexus: Client, tmp_path: Path) -> None:
    path = made(tmp_path / "chatai.db", f"""
        CREATE TABLE users (id INTEGER PRIMARY KEY, settings TEXT);
        CREATE TABLE conversations (id INTEGER PRIMARY KEY, title TEXT, user_id, created_at TEXT);
        CREATE TABLE messages (id INTEGER PRIMARY KEY, conversation_id INTEGER, role TEXT, content TEXT);
        INSERT INTO users VALUES ({2**60}, '{{}}');
        INSERT INTO conversations VALUES (1, 'Tea', {2**60}, '2024-05-01'), (2, 'Bread', '', '2024-05-01');
    """)
    assert not import_older(nexus, path, Silent()).refusals
    assert nexus.call("users.get", id=str(2**60))["settings"] == {}
    assert [nexus.call("conversations.get", id=n)["userId"] for n in (1, 2)] == [str(2**60), None]


TIMELESS = "CREATE TABLE messages (id INTEGER PRIMARY KEY, content TEXT, role TEXT)"


def test_rows_without_a_time_have_each_its_own(nexus: Client, tmp_path: Path) -> None:
    # at one moment each row would be looked for among all the others: 20,000 took over a minute
    path = made(tmp_path / "chatai.db", TIMELESS, *(
        ("INSERT INTO messages (content, role) VALUES (?, 'user')", (f"message {n}",)) for n in range(3)
    ))
    import_older(nexus, path, Silent())
    [conversation] = nexus.call("conversations.list")["items"]
    messages = nexus.call("messages.list", conversationId=conversation["id"])["items"]
    assert [(one["content"], one["createdAt"]) for one in messages] == [
        ("message 0", 1), ("message 1", 2), ("message 2", 3)
    ]
    assert not any(table.inserted for table in import_older(nexus, path, Silent()).tables)


def test_a_row_without_a_time_has_the_same_one_in_every_run(nexus: Client, tmp_path: Path) -> None:
    path = memory_service(tmp_path / "old.db", sessions=1, episodes=0)
    made(path, """
        DROP TABLE episodes;
        CREATE TABLE episodes (id INTEGER PRIMARY KEY, session_id INTEGER, user_message TEXT, ai_response TEXT,
            created_at INTEGER);
        INSERT INTO episodes VALUES (1, 1, 'first', '', NULL), (2, 1, 'second', '', 1700000000000),
            (3, 1, 'third', '', NULL);
    """)
    import_older(nexus, path, Silent())
    made(path, "INSERT INTO episodes VALUES (4, 1, 'fourth', '', NULL), (5, 1, 'fifth', '', 1700000009000)")
    import_older(nexus, path, Silent())
    episodes = nexus.call("episodes.list", sessionId=1, order="asc")["items"]
    assert [(one["userMessage"], one["createdAt"]) for one in episodes] == [
        ("first", 1), ("second", 1_700_000_000_000), ("third", 1_700_000_000_000), ("fourth", 1_700_000_000_000),
        ("fifth", 1_700_000_009_000),
    ]


def test_a_table_without_ids_or_rowids_is_taken(nexus: Client, tmp_path: Path) -> None:
    path = made(tmp_path / "chatai.db", """
        CREATE TABLE messages (n INTEGER, role TEXT, content TEXT, PRIMARY KEY (n, role)) WITHOUT ROWID;
        INSERT INTO messages VALUES (2, 'user', 'b'), (1, 'user', 'a');
    """)
    [messages] = import_older(nexus, path, Silent()).tables
    assert (messages.inserted, messages.refused) == (2, 0)
    assert not any(table.inserted for table in import_older(nexus, path, Silent()).tables)


def test_messages_of_no_conversation_are_neither_doubled_nor_taken_for_each_other(
    nexus: Client, tmp_path: Path
) -> None:
    path = made(tmp_path / "chatai.db", """
        CREATE TABLE messages (id INTEGER PRIMARY KEY, conversation_id INTEGER, role TEXT, content TEXT,
            created_at TEXT);
        INSERT INTO messages VALUES (1, 77, 'user', 'yes', '2024-05-01'), (2, 78, 'user', 'yes', '2024-05-01'),
            (3, NULL, 'user', 'yes', '2024-05-01');
    """)
    assert [table.inserted for table in import_older(nexus, path, Silent()).tables] == [3]
    renamed = path.rename(tmp_path / "chatai-old.db")
    assert [table.inserted for table in import_older(nexus, renamed, Silent()).tables] == [0]


def test_a_reference_by_text_finds_the_row_with_that_number(nexus: Client, tmp_path: Path) -> None:
    path = made(tmp_path / "chatai.db", """
        CREATE TABLE conversations (id INTEGER PRIMARY KEY, title TEXT);
        CREATE TABLE messages (id INTEGER PRIMARY KEY, conversation_id TEXT, role TEXT, content TEXT);
        INSERT INTO conversations VALUES (5, 'Tea');
        INSERT INTO messages VALUES (1, 5, 'user', 'How hot?');
    """)
    import_older(nexus, path, Silent())
    assert [one["content"] for one in nexus.call("messages.list", conversationId=5)["items"]] == ["How hot?"]


def test_ids_are_kept_though_others_write_while_an_import_runs(nexus: Client, tmp_path: Path) -> None:
    session = nexus.call("sessions.create", externalId="mine")["id"]

    class Busy(Client):
        def execute(self, request: Any, **options: Any) -> Any:
            if request.params.get("table") == "sessions":
                nexus.call("episodes.create", sessionId=session, userMessage="live", aiResponse="")
            return super().execute(request, **options)

    with Busy(nexus.address) as busy:
        report = import_older(busy, memory_service(tmp_path / "old.db"), Silent())
    assert {table.table: table.new_ids for table in report.tables}["episodes"] == 1


def test_a_vector_that_can_be_no_point_is_left_out_and_its_text_embedded_anew(nexus: Client, tmp_path: Path) -> None:
    dimension, numbers = nexus.status().embedder.dimension, ("0.0", "1e39", "1e-60", "true")
    path = made(tmp_path / "chatai.db", "CREATE TABLE vectors (id TEXT PRIMARY KEY, text TEXT, embedding TEXT)", *(
        ("INSERT INTO vectors VALUES (?, 'The cellar is damp.', ?)",
         (number, f"[{', '.join([number] * dimension)}]")) for number in numbers
    ))
    assert import_older(nexus, path, Silent()).embeddings_left_out == len(numbers)
    assert [nexus.call("vectors.get", id=number)["embedding"] for number in numbers] == [None] * len(numbers)
