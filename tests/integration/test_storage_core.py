"""Whatever is done in whatever order to conversations, messages, users, groups and tool logs: they hold together.

A plain model in Python is kept beside the database and compared after every step. The seed is the test's
parameter: every failure repeats.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nexusd.errors import NotFound
from nexusd.model.conversations import CreateConversation, ListConversations, UpdateConversation
from nexusd.model.fields import Key
from nexusd.model.groups import CreateGroup, ListGroups, UpdateGroup
from nexusd.model.messages import ListMessages, NewMessage
from nexusd.model.tool_logs import AppendToolLog, ListToolLogs, PruneToolLogs
from nexusd.model.users import ListUsers, SetUser
from nexusd.store.connection import Connection, open_writer
from nexusd.store.conversations import (
    delete_conversation,
    insert_conversation,
    list_conversations,
    update_conversation,
)
from nexusd.store.groups import delete_group, insert_group, list_groups, update_group
from nexusd.store.integrity import check_integrity
from nexusd.store.messages import delete_message, insert_message, insert_messages, list_messages
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.outbox import claim_batch, finish_batch
from nexusd.store.tool_logs import insert_tool_log, list_tool_logs, prune_bound, prune_rest
from nexusd.store.users import delete_user, list_users, set_user

WORDS = ("apple", "pear", "plum", "")
USERS: tuple[Key, ...] = (5, "5", "anna", -1)
NOBODY = 10**9
STEPS = 80


class Model:
    """The database, what it should hold, and random steps that change both."""

    def __init__(self, db: Connection, chance: random.Random) -> None:
        self.db = db
        self.chance = chance
        self.now_ms = 100
        self.chats: dict[int, dict[str, Any]] = {}
        self.messages: dict[int, dict[str, Any]] = {}
        self.users: dict[tuple[type, Key], dict[str, Any]] = {}     # in the order in which they came
        self.groups: dict[int, str] = {}
        self.logs: dict[int, dict[str, Any]] = {}
        self.owed: dict[int, str] = {}
        self.ids: set[int] = set()
        self.steps = (
            *(self.say,) * 6, *(self.say_much,) * 2, *(self.unsay,) * 3, *(self.begin,) * 3, *(self.change,) * 3,
            self.end, *(self.make_group,) * 2, self.rename_group, self.drop_group, *(self.set_user,) * 3,
            self.drop_user, *(self.log,) * 5, self.prune, *(self.deliver,) * 2,
        )

    def pick(self, things: Iterable[int], *, also: int | None = None) -> int:
        """One of them; now and then, and where there is none, an id that nothing has."""
        choices = sorted(things)
        return self.chance.choice(choices) if choices and self.chance.random() < 0.9 else (also or NOBODY)

    def maybe(self, things: Iterable[int]) -> int | None:
        return self.pick(things) if self.chance.random() < 0.6 else None

    def time(self) -> int | None:
        """When the caller says it was: then, now, or by a clock that runs ahead."""
        return self.chance.choice((None, None, self.chance.randrange(1, self.now_ms), self.now_ms + 1000))

    def dated(self, created_at: int | None) -> tuple[int, int]:
        """When it was, and when that made something active."""
        at = self.now_ms if created_at is None else created_at
        return at, min(at, self.now_ms)

    # ---- the steps

    def make_group(self) -> None:
        name = self.chance.choice("abc")
        self.groups[insert_group(self.db, CreateGroup(name=name), self.now_ms).id] = name

    def rename_group(self) -> None:
        group, name = self.pick(self.groups), self.chance.choice("abc")
        if group not in self.groups:
            with pytest.raises(NotFound):
                update_group(self.db, UpdateGroup(id=group, name=name), self.now_ms)
            return
        update_group(self.db, UpdateGroup(id=group, name=name), self.now_ms)
        self.groups[group] = name

    def drop_group(self) -> None:
        group = self.pick(self.groups)
        if group not in self.groups:
            with pytest.raises(NotFound):
                delete_group(self.db, group)
            return
        assert delete_group(self.db, group).deleted == {"groups": 1}
        del self.groups[group]
        for chat in self.chats.values():
            if chat["group_id"] == group:
                chat["group_id"] = None     # and it was not active by that

    def begin(self) -> None:
        group, user, created_at = self.maybe(self.groups), self.chance.choice((None, *USERS)), self.time()
        new = CreateConversation(title="t", user_id=user, group_id=group, created_at=created_at)
        if group is not None and group not in self.groups:
            with pytest.raises(NotFound):
                insert_conversation(self.db, new, self.now_ms)
            return
        at, active = self.dated(created_at)
        self.chats[insert_conversation(self.db, new, self.now_ms).id] = {
            "title": "t", "user_id": user, "group_id": group, "created_at": at, "updated_at": active,
        }

    def change(self) -> None:
        chat_id, group = self.pick(self.chats), self.maybe(self.groups)
        change = UpdateConversation(id=chat_id, title=self.chance.choice(("t", "u", None)), group_id=group)
        chat = self.chats.get(chat_id)
        after = {"title": change.title, "group_id": group}
        same = chat is not None and all(chat[name] == value for name, value in after.items())
        if chat is None or (group is not None and group not in self.groups):
            with pytest.raises(NotFound):
                update_conversation(self.db, change, self.now_ms)
            return
        update_conversation(self.db, change, self.now_ms)
        if not same:
            chat.update(after, updated_at=self.now_ms)

    def end(self) -> None:
        chat_id = self.pick(self.chats)
        if chat_id not in self.chats:
            with pytest.raises(NotFound):
                delete_conversation(self.db, chat_id)
            return
        mine = [row_id for row_id, row in self.messages.items() if row["conversation_id"] == chat_id]
        gone = delete_conversation(self.db, chat_id)
        assert gone.deleted == {"conversations": 1, "messages": len(mine)}
        assert gone.points_queued == len(mine)
        del self.chats[chat_id]
        for row_id in mine:
            self.lose(row_id)
        for log in self.logs.values():
            if log["conversation_id"] == chat_id:
                log["conversation_id"] = None

    def lose(self, row_id: int) -> None:
        del self.messages[row_id]
        self.owed[row_id] = "delete"

    def keep(self, row_id: int, new: NewMessage) -> None:
        assert row_id not in self.ids   # never used twice
        self.ids.add(row_id)
        at, active = self.dated(new.created_at)
        self.messages[row_id] = {"conversation_id": new.conversation_id, "content": new.content, "created_at": at}
        self.owed[row_id] = "upsert"
        chat = self.chats[new.conversation_id]
        chat["updated_at"] = max(chat["updated_at"], active)

    def message(self) -> NewMessage:
        content = " ".join(self.chance.choices(WORDS, k=2))
        return NewMessage(
            conversation_id=self.pick(self.chats), role="user", content=content, created_at=self.time()
        )

    def say(self) -> None:
        new = self.message()
        if new.conversation_id in self.chats:
            self.keep(insert_message(self.db, new, self.now_ms).id, new)
        else:
            with pytest.raises(NotFound):
                insert_message(self.db, new, self.now_ms)

    def say_much(self) -> None:
        items = [self.message() for _ in range(self.chance.randint(1, 9))]
        for new, row in zip(items, insert_messages(self.db, items, self.now_ms), strict=True):
            assert isinstance(row, NotFound) == (new.conversation_id not in self.chats)
            if not isinstance(row, Exception):
                self.keep(row.id, new)

    def unsay(self) -> None:
        row_id = self.pick(self.messages)
        if row_id not in self.messages:
            with pytest.raises(NotFound):
                delete_message(self.db, row_id)
            return
        delete_message(self.db, row_id)
        self.lose(row_id)

    def set_user(self) -> None:
        user, merge = self.chance.choice(USERS), self.chance.random() < 0.5
        given = {key: self.chance.choice((1, True, "x", None)) for key in self.chance.sample("abc", 2)}
        row = set_user(self.db, SetUser(id=user, settings=given, merge=merge), self.now_ms)
        old = self.users.get((type(user), user), {})
        both = {**old, **given} if merge else given
        self.users[type(user), user] = row.settings
        assert row.settings == ({k: v for k, v in both.items() if v is not None or k not in given} if merge else given)

    def drop_user(self) -> None:
        user = self.chance.choice(USERS)
        if (type(user), user) not in self.users:
            with pytest.raises(NotFound):
                delete_user(self.db, user)
            return
        delete_user(self.db, user)
        del self.users[type(user), user]

    def log(self) -> None:
        chat = self.maybe(self.chats)
        new = AppendToolLog(tool=self.chance.choice("ab"), conversation_id=chat, created_at=self.time())
        if chat is not None and chat not in self.chats:
            with pytest.raises(NotFound):
                insert_tool_log(self.db, new, self.now_ms)
            return
        row = insert_tool_log(self.db, new, self.now_ms)
        self.logs[row.id] = {"conversation_id": chat, "created_at": row.created_at}

    def prune(self) -> None:
        age = self.chance.choice((None, 0, 20, 50))
        keep = self.chance.choice((0, 3, 8)) if age is None or self.chance.random() < 0.5 else None
        which = PruneToolLogs(older_than_ms=age, keep=keep)
        newest_first = sorted(self.logs, key=lambda i: (self.logs[i]["created_at"], i), reverse=True)
        young = [i for i in newest_first if age is None or self.logs[i]["created_at"] >= self.now_ms - age]
        kept = young if keep is None else young[:keep]
        gone = prune_rest(self.db, prune_bound(self.db, which, self.now_ms), 0)
        assert gone.deleted == {"toolLogs": len(self.logs) - len(kept)}
        self.logs = {i: self.logs[i] for i in kept}

    def deliver(self) -> None:
        for entry in claim_batch(self.db, 5, 10**15, 0, ["messages"]):
            finish_batch(self.db, [entry])
            del self.owed[entry.row_id]

    # ---- what holds after each of them

    def check(self) -> None:
        db = self.db
        chats = list_conversations(db, ListConversations(limit=500, order="active")).items
        assert {c.id: self.same(c, self.chats.get(c.id, {})) for c in chats} == self.chats
        assert [c.id for c in chats] == self.latest(self.chats, "updated_at")
        newest = list_conversations(db, ListConversations(limit=500)).items
        assert [c.id for c in newest] == self.latest(self.chats, "created_at")
        for user in USERS:
            mine = list_conversations(db, ListConversations(user_id=user, limit=500)).items
            assert {c.id for c in mine} == {i for i, c in self.chats.items() if c["user_id"] == user}  # 5 is not "5"
        said = [m for c in chats for m in list_messages(db, ListMessages(conversation_id=c.id, limit=500)).items]
        assert {m.id: self.same(m, self.messages.get(m.id, {})) for m in said} == self.messages
        assert {m.id: m.vector for m in said} == {
            i: "pending" if i in self.owed else "indexed" for i in self.messages
        }
        assert dict(db.execute("SELECT row_id, op FROM outbox WHERE collection = 'messages'")) == self.owed
        for word in WORDS[:-1]:
            found = db.execute("SELECT rowid FROM messages_fts WHERE messages_fts MATCH ?", (word,))
            assert {i for (i,) in found} == {i for i, m in self.messages.items() if word in m["content"].split()}
        assert {g.id: g.name for g in list_groups(db, ListGroups(limit=500)).items} == self.groups
        users = list_users(db, ListUsers(limit=500)).items
        assert [(type(u.id), u.id) for u in users] == list(self.users)[::-1]
        assert [u.settings for u in users] == list(self.users.values())[::-1]
        logs = list_tool_logs(db, ListToolLogs(limit=500)).items
        assert {row.id: self.same(row, self.logs.get(row.id, {})) for row in logs} == self.logs
        assert [row.id for row in logs] == self.latest(self.logs, "created_at")

    @staticmethod
    def same(record: object, fields: Iterable[str]) -> dict[str, Any]:
        """Of the record what the model knows of it."""
        return {name: getattr(record, name) for name in fields}

    @staticmethod
    def latest(rows: dict[int, dict[str, Any]], time: str) -> list[int]:
        return sorted(rows, key=lambda i: (rows[i][time], i), reverse=True)


@pytest.mark.parametrize("seed", range(12))
def test_all_tables_hold_together(tmp_path: Path, seed: int) -> None:
    db = open_writer(tmp_path / "x.db", "NORMAL")
    migrate(db, load_migrations())
    chance = random.Random(seed)
    model = Model(db, chance)
    model.make_group()
    model.begin()
    for _ in range(STEPS):
        model.now_ms += chance.randrange(10)
        chance.choice(model.steps)()
        model.check()
    assert len(model.ids) > 10
    assert check_integrity(db) == []
    db.close()
