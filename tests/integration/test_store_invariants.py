"""Whatever is done in whatever order: the full-text index, the outbox and the vectors follow the rows.

A plain model in Python is kept beside the database and compared after every step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import CreateSession, DeleteSession, UpdateSession
from nexusd.store.connection import open_writer
from nexusd.store.embeddings import save_vectors
from nexusd.store.episodes import delete_episode, insert_episode, insert_episodes, update_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.outbox import bury, claim_batch, finish_batch, postpone, release_batch, reset_inflight
from nexusd.store.projects import delete_project, insert_project
from nexusd.store.sessions import delete_session, insert_session, update_session

WORDS = ("apple", "pear", "plum", "fig")
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)


class Store(RuleBasedStateMachine):
    """Random changes and deliveries."""

    sessions = Bundle("sessions")
    projects = Bundle("projects")
    episodes = Bundle("episodes")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.db = open_writer(Path(self.directory.name) / "x.db", "NORMAL")
        migrate(self.db, load_migrations())
        self.rows: dict[int, tuple[int, str, int]] = {}         # id -> session, text, version
        self.owed: dict[int, tuple[str, int]] = {}              # id -> op, version
        self.index: dict[int, int] = {}                         # what the index would hold: id -> version
        self.vectors: set[int] = set()
        self.project_of: dict[int, int | None] = {}
        self.ids: set[int] = set()
        self.names = 0

    def teardown(self) -> None:
        self.db.close()
        self.directory.cleanup()

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

    @rule(target=projects)
    def make_project(self) -> int:
        return insert_project(self.db, CreateProject(name="p"), 1).id

    @rule(project=consumes(projects))
    def drop_project(self, project: int) -> None:
        delete_project(self.db, project)
        for session, of in self.project_of.items():
            if of == project:
                self.project_of[session] = None
                self.moved(session)

    @rule(target=sessions)
    def make_session(self) -> int:
        self.names += 1
        session = insert_session(self.db, CreateSession(external_id=f"s{self.names}"), 1).id
        self.project_of[session] = None
        return session

    @rule(session=sessions, project=projects)
    def move_session(self, session: int, project: int) -> None:
        if session in self.project_of:
            update_session(self.db, UpdateSession(id=session, project_id=project, metadata={"n": self.names}), 2)
            if self.project_of[session] != project:
                self.project_of[session] = project
                self.moved(session)

    @rule(session=consumes(sessions))
    def drop_session(self, session: int) -> None:
        mine = [row_id for row_id, row in self.rows.items() if row[0] == session]
        receipt = delete_session(self.db, DeleteSession(id=session))
        assert receipt.points_queued == len(mine)
        del self.project_of[session]
        for row_id in mine:
            self.gone(row_id)

    @rule(session=sessions, texts=st.lists(words, min_size=1, max_size=5), together=st.sampled_from(["one", "many"]))
    def add(self, session: int, texts: list[str], together: str) -> None:
        if session not in self.project_of:
            return
        items = [NewEpisode(session_id=session, user_message=text, ai_response="ok") for text in texts]
        if together == "many":
            made = insert_episodes(self.db, items, 1)
        else:
            made = [insert_episode(self.db, item, 1) for item in items]
        for row in made:
            assert row.id not in self.ids       # never used twice
            self.ids.add(row.id)
            self.changed(row.id, session, row.user_message, 1)

    @rule(data=st.data(), text=words)
    def change(self, data: st.DataObject, text: str) -> None:
        if self.rows:
            row_id = data.draw(st.sampled_from(sorted(self.rows)))
            session, old, version = self.rows[row_id]
            row = update_episode(self.db, UpdateEpisode(id=row_id, user_message=text), 3)
            assert row.version == version + (text != old)
            if text != old:
                self.changed(row_id, session, text, version + 1)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.rows:
            row_id = data.draw(st.sampled_from(sorted(self.rows)))
            delete_episode(self.db, row_id)
            self.gone(row_id)

    @rule(data=st.data())
    def embed(self, data: st.DataObject) -> None:
        if self.ids:
            row_id = data.draw(st.sampled_from(sorted(self.ids)))
            save_vectors(self.db, "episodes", "m", 1, [(row_id, b"h" * 16, b"\0\0\0\0")])
            if row_id in self.rows:
                self.vectors.add(row_id)

    @rule(data=st.data(), limit=st.integers(1, 4), end=st.sampled_from(["finish", "release", "postpone", "bury", "crash"]))
    def deliver(self, data: st.DataObject, limit: int, end: str) -> None:
        entries = claim_batch(self.db, limit, 10**15, 0)
        if entries and self.rows and data.draw(st.booleans()):
            self.change(data, "meanwhile fig")      # while they are under way
        if end == "finish":
            for entry in entries:
                if entry.op == "delete":
                    self.index.pop(entry.row_id, None)
                else:
                    self.index[entry.row_id] = entry.version
            same = [entry for entry in entries if self.owed[entry.row_id] == (entry.op, entry.version)]
            assert finish_batch(self.db, entries) == len(same)
            for entry in same:
                del self.owed[entry.row_id]
        elif end == "release":
            release_batch(self.db, entries)
        elif end == "postpone":
            postpone(self.db, entries, 5, "busy", "later")
        elif end == "bury":
            for entry in entries:
                bury(self.db, entry, "bad_content", "never")
        else:
            reset_inflight(self.db)

    @invariant()
    def rows_are_as_expected(self) -> None:
        rows = self.db.execute("SELECT id, session_id, user_message, version FROM episodes")
        assert {row[0]: tuple(row[1:]) for row in rows} == self.rows

    @invariant()
    def outbox_owes_exactly_what_changed(self) -> None:
        rows = self.db.execute("SELECT row_id, op, version FROM outbox")
        assert {row[0]: (row[1], row[2]) for row in rows} == self.owed

    @invariant()
    def index_is_behind_only_where_the_outbox_says_so(self) -> None:
        expected = {row_id: row[2] for row_id, row in self.rows.items()}
        for row_id in self.index.keys() | expected.keys():
            assert row_id in self.owed or self.index.get(row_id) == expected.get(row_id)

    @invariant()
    def words_find_exactly_their_rows(self) -> None:
        for word in WORDS:
            found = {i for (i,) in self.db.execute("SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH ?", (word,))}
            assert found == {row_id for row_id, row in self.rows.items() if word in row[1].split()}

    @invariant()
    def vectors_belong_to_rows(self) -> None:
        assert {i for (i,) in self.db.execute("SELECT row_id FROM embeddings")} == self.vectors

    @invariant()
    def database_is_sound(self) -> None:
        assert check_integrity(self.db) == []


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=25)
