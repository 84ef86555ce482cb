"""Whatever is done in whatever order: the full-text index, the outbox and the vectors follow the rows.

A plain model in Python is kept beside the database and compared after every step. The seed is the test's
parameter: every failure repeats.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import CreateSession, DeleteSession, UpdateSession
from nexusd.store.connection import Connection, open_writer
from nexusd.store.embeddings import save_vectors
from nexusd.store.episodes import delete_episode, insert_episode, insert_episodes, update_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.outbox import (
    OutboxEntry,
    bury,
    claim_batch,
    finish_batch,
    postpone,
    release_batch,
    requeue_collection,
    reset_inflight,
    retry_dead,
)
from nexusd.store.projects import delete_project, insert_project
from nexusd.store.sessions import delete_session, insert_session, update_session

WORDS = ("apple", "pear", "plum", "fig", "quince")
STEPS = 60


class Model:
    """The database, what it should hold, and random steps that change both."""

    def __init__(self, db: Connection, chance: random.Random) -> None:
        self.db = db
        self.chance = chance
        self.rows: dict[int, tuple[int, str, int]] = {}     # id -> session, text, version
        self.owed: dict[int, tuple[str, int]] = {}          # id -> op, version
        self.index: dict[int, int] = {}                     # what an index would hold: id -> version
        self.vectors: set[int] = set()
        self.project_of: dict[int, int | None] = {}
        self.projects: set[int] = set()
        self.ids: set[int] = set()
        self.names = 0
        self.steps = (
            *(self.add,) * 5, *(self.change,) * 4, *(self.drop,) * 2, *(self.embed,) * 3,
            *(self.deliver,) * 6,
            self.make_session, self.make_session, self.drop_session, self.make_project, self.drop_project,
            self.move_session, self.move_session, self.requeue, self.retry,
        )

    def changed(self, row_id: int, session: int, text: str, version: int) -> None:
        self.rows[row_id] = (session, text, version)
        self.owed[row_id] = ("upsert", version)

    def gone(self, row_id: int) -> None:
        version = self.rows.pop(row_id)[2]
        self.owed[row_id] = ("delete", version + 1)
        self.vectors.discard(row_id)

    def moved(self, session: int) -> None:
        for row_id, (of, text, version) in list(self.rows.items()):
            if of == session:
                self.changed(row_id, of, text, version + 1)

    def text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(1, 3)))

    def pick(self, things: object) -> int | None:
        return self.chance.choice(sorted(things)) if things else None  # type: ignore[call-overload,no-any-return]

    # ---- the steps

    def make_project(self) -> None:
        self.projects.add(insert_project(self.db, CreateProject(name="p"), 1).id)

    def drop_project(self) -> None:
        if (project := self.pick(self.projects)) is not None:
            self.projects.discard(project)
            delete_project(self.db, project)
            for session, of in self.project_of.items():
                if of == project:
                    self.project_of[session] = None
                    self.moved(session)

    def make_session(self) -> None:
        self.names += 1
        project = self.pick(self.projects)
        new = CreateSession(external_id=f"s{self.names}", project_id=project)
        self.project_of[insert_session(self.db, new, 1).id] = project

    def move_session(self) -> None:
        session, project = self.pick(self.project_of), self.pick(self.projects)
        if session is not None:
            change = UpdateSession(id=session, project_id=project, metadata={"n": self.chance.random()})
            update_session(self.db, change, 2)
            if self.project_of[session] != project:
                self.project_of[session] = project
                self.moved(session)

    def drop_session(self) -> None:
        if (session := self.pick(self.project_of)) is not None and self.chance.random() < 0.5:
            mine = [row_id for row_id, row in self.rows.items() if row[0] == session]
            assert delete_session(self.db, DeleteSession(id=session)).points_queued == len(mine)
            del self.project_of[session]
            for row_id in mine:
                self.gone(row_id)

    def add(self) -> None:
        if (session := self.pick(self.project_of)) is None:
            return
        texts = [self.text() for _ in range(self.chance.randint(1, 5))]
        items = [NewEpisode(session_id=session, user_message=text, ai_response="ok") for text in texts]
        if self.chance.random() < 0.5:
            made = insert_episodes(self.db, items, 1)
        else:
            made = [insert_episode(self.db, item, 1) for item in items]
        for row in made:
            assert row.id not in self.ids   # never used twice
            self.ids.add(row.id)
            self.changed(row.id, session, row.user_message, 1)

    def change(self) -> None:
        if (row_id := self.pick(self.rows)) is not None:
            text = self.text()
            session, old, version = self.rows[row_id]
            row = update_episode(self.db, UpdateEpisode(id=row_id, user_message=text), 3)
            assert row.version == version + (text != old)
            if text != old:
                self.changed(row_id, session, text, version + 1)

    def drop(self) -> None:
        if (row_id := self.pick(self.rows)) is not None:
            delete_episode(self.db, row_id)
            self.gone(row_id)

    def embed(self) -> None:
        if (row_id := self.pick(self.ids)) is not None:     # also of a row that is gone
            version = self.rows[row_id][2] if row_id in self.rows else 1
            save_vectors(self.db, "episodes", "m", 1, [(row_id, version, b"h" * 16, b"\0\0\0\0")])
            if row_id in self.rows:
                self.vectors.add(row_id)

    def requeue(self) -> None:
        if self.chance.random() < 0.2:      # the index was found wiped
            self.index.clear()
            requeue_collection(self.db, "episodes", 1)
            for row_id, row in self.rows.items():
                self.owed[row_id] = ("upsert", row[2])

    def retry(self) -> None:
        retry_dead(self.db, [], 1)

    def deliver(self) -> None:
        entries = claim_batch(self.db, self.chance.randint(1, 8), 10**15, 0, ["episodes"])
        for _ in range(self.chance.randint(0, 2)):      # while they are under way
            self.chance.choice((self.change, self.drop, self.move_session))()
        self.chance.choice((self.finish, self.finish, self.finish, self.give_up))(entries)

    def finish(self, entries: list[OutboxEntry]) -> None:
        for entry in entries:
            if entry.op == "delete":
                self.index.pop(entry.row_id, None)
            else:
                self.index[entry.row_id] = entry.version
        same = [entry for entry in entries if self.owed[entry.row_id] == (entry.op, entry.version)]
        assert finish_batch(self.db, entries) == len(same)
        for entry in same:
            del self.owed[entry.row_id]

    def give_up(self, entries: list[OutboxEntry]) -> None:
        kind = self.chance.choice(("release", "postpone", "bury", "crash"))
        if kind == "release":
            release_batch(self.db, entries)
        elif kind == "postpone":
            postpone(self.db, entries, 5, "busy", "later")
        elif kind == "bury":
            for entry in entries:
                bury(self.db, entry, "bad_content", "never")
        else:
            reset_inflight(self.db)

    # ---- what holds after each of them

    def check(self) -> None:
        db = self.db
        rows = db.execute("SELECT id, session_id, user_message, version FROM episodes")
        assert {row[0]: tuple(row[1:]) for row in rows} == self.rows
        owed = db.execute("SELECT row_id, op, version FROM outbox")
        assert {row[0]: (row[1], row[2]) for row in owed} == self.owed
        held = {row_id: row[2] for row_id, row in self.rows.items()}
        for row_id in self.index.keys() | held.keys():  # the index is behind only where the outbox says so
            assert row_id in self.owed or self.index.get(row_id) == held.get(row_id)
        for word in WORDS:
            found = db.execute("SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH ?", (word,))
            assert {i for (i,) in found} == {i for i, row in self.rows.items() if word in row[1].split()}
        assert {i for (i,) in db.execute("SELECT row_id FROM embeddings")} == self.vectors
        assert check_integrity(db) == []


@pytest.mark.parametrize("seed", range(12))
def test_index_outbox_and_vectors_follow_the_rows(tmp_path: Path, seed: int) -> None:
    db = open_writer(tmp_path / "x.db", "NORMAL")
    migrate(db, load_migrations())
    chance = random.Random(seed)
    model = Model(db, chance)
    model.make_project()
    model.make_session()
    for _ in range(STEPS):
        chance.choice(model.steps)()
        model.check()
    assert len(model.ids) > 10
    db.close()
