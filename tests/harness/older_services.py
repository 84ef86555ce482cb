"""Databases as the two older services left them, by the SQL of their own."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

MEMORY_SERVICE = """
CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, external_id TEXT UNIQUE NOT NULL, metadata TEXT,
    created_at INTEGER NOT NULL, updated_at INTEGER);
CREATE TABLE episodes (id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, user_message TEXT NOT NULL,
    ai_response TEXT NOT NULL, token_count INTEGER, metadata TEXT, created_at INTEGER NOT NULL);
CREATE TABLE entities (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, type TEXT NOT NULL, notes TEXT,
    metadata TEXT, created_at INTEGER NOT NULL, updated_at INTEGER, UNIQUE(name, type));
CREATE TABLE relationships (id INTEGER PRIMARY KEY AUTOINCREMENT,
    from_id INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    to_id INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE, label TEXT NOT NULL, metadata TEXT,
    created_at INTEGER, UNIQUE(from_id, to_id, label));
CREATE TABLE summaries (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id INTEGER NOT NULL, content TEXT NOT NULL,
    start_episode_id INTEGER, end_episode_id INTEGER, created_at INTEGER);
CREATE VIRTUAL TABLE episodes_fts USING fts5(user_message, ai_response, content='episodes', content_rowid='id');
"""
LATER_COLUMNS = """
CREATE TABLE projects (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, description TEXT, colour TEXT,
    icon TEXT, created_at INTEGER);
ALTER TABLE sessions ADD COLUMN name TEXT;
ALTER TABLE sessions ADD COLUMN project_id INTEGER REFERENCES projects(id);
"""
STORAGE_CORE = """
CREATE TABLE conversations (id INTEGER PRIMARY KEY, title TEXT, user_id INTEGER, model TEXT, created_at TEXT);
CREATE TABLE messages (id INTEGER PRIMARY KEY, conversation_id INTEGER, content TEXT, role TEXT, created_at TEXT);
CREATE TABLE users (id INTEGER PRIMARY KEY, settings TEXT, theme TEXT);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT, members TEXT);
CREATE TABLE presets (id INTEGER PRIMARY KEY, name TEXT, config TEXT);
CREATE TABLE tool_logs (id INTEGER PRIMARY KEY, tool_name TEXT, args TEXT, result TEXT, conversation_id INTEGER,
    created_at TEXT);
CREATE TABLE vectors (id TEXT PRIMARY KEY, text TEXT, embedding TEXT);
"""


def memory_service(path: Path, *, sessions: int = 3, episodes: int = 4, later: bool = True) -> Path:
    """So many sessions of so many exchanges; `later` false: the schema before its migrations."""
    db = sqlite3.connect(path)
    db.executescript(MEMORY_SERVICE + (LATER_COLUMNS if later else ""))
    if later:
        db.execute("INSERT INTO projects VALUES (1, 'Garden', 'What grows', '#3d3a79', NULL, 1700000000000)")
    for session in range(1, sessions + 1):
        db.execute("INSERT INTO sessions (id, external_id, metadata, created_at) VALUES (?, ?, ?, ?)",
                   (session, f"old-{session}", '{"room": "kitchen"}', 1_700_000_000_000 + session))
        if later:
            db.execute("UPDATE sessions SET name = ?, project_id = 1 WHERE id = ?", (f"Session {session}", session))
        db.executemany(
            "INSERT INTO episodes (session_id, user_message, ai_response, token_count, metadata, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (session, f"question {n} of session {session}", f"answer {n}", 10, json.dumps({"n": n}),
                 1_700_000_100_000 + session * 1000 + n)
                for n in range(episodes)
            ],
        )
    db.executescript("""
        INSERT INTO entities VALUES (1, 'Ada', 'person', 'likes tea', '{}', 1700000000000, NULL);
        INSERT INTO entities VALUES (2, 'SQLite', 'software', NULL, NULL, 1700000000000, NULL);
        INSERT INTO relationships VALUES (1, 1, 2, 'uses', '{}', 1700000000000);
    """)
    if sessions:
        db.execute("INSERT INTO summaries VALUES (1, 1, 'They spoke of questions.', 1, 2, 1700000000000)")
    db.commit()
    db.close()
    return path


def storage_core(path: Path, *, dimension: int = 3) -> Path:
    """A little of everything; times as SQLite writes them."""
    db = sqlite3.connect(path)
    db.executescript(STORAGE_CORE)
    db.executescript("""
        INSERT INTO users VALUES (7, '{"language": "de"}', 'dark');
        INSERT INTO groups VALUES (1, 'Family', '["Ada", "Bo"]');
        INSERT INTO conversations VALUES (1, 'Tea', 7, 'llama', '2024-05-01 12:00:00');
        INSERT INTO messages VALUES (1, 1, 'How hot for green tea?', 'user', '2024-05-01 12:00:01');
        INSERT INTO messages VALUES (2, 1, 'Seventy degrees.', 'assistant', '2024-05-01 12:00:02');
        INSERT INTO messages VALUES (3, 99, 'Nobody knows whose.', 'user', '2024-05-01 12:00:03');
        INSERT INTO messages VALUES (4, NULL, 'Said to nobody.', 'user', '2024-05-01 12:00:04');
        INSERT INTO presets VALUES (1, 'Careful', '{"temperature": 0.2}');
        INSERT INTO tool_logs VALUES (1, 'clock', '{"zone": "UTC"}', '"12:00"', 1, '2024-05-01T12:00:05Z');
    """)
    db.execute("INSERT INTO vectors VALUES ('note-1', 'The cellar is damp.', ?)", (json.dumps([0.1] * dimension),))
    db.commit()
    db.close()
    return path
