"""Users in SQLite."""

from __future__ import annotations

from typing import Any

import msgspec

from nexusd.errors import TooLarge, UserNotFound
from nexusd.model.fields import Deletion, Key, Listing
from nexusd.model.users import MAX_SETTINGS, ListUsers, SetUser, User
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.paging import take_page
from nexusd.store.same_json import same_json

_COLUMNS = "seq, id, settings, created_at, updated_at"
_TEXTS = (2,)
_LISTING = "users"
_LAST_SEQ = 2**63 - 1

# a user's settings, also where there are some
PUT_SETTINGS = f"""
INSERT INTO users (id, settings, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, updated_at = excluded.updated_at
RETURNING {_COLUMNS}"""

# one user
SELECT_USER = f"SELECT {_COLUMNS} FROM users WHERE id = ?"

# the newest users before a place
LIST_USERS = f"SELECT {_COLUMNS} FROM users WHERE seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?"

# one user; conversations keep the id, which is the caller's
DELETE_USER = "DELETE FROM users WHERE id = ?"


def _user(row: tuple[Any, ...]) -> User:
    return User(id=row[1], settings=msgspec.json.decode(row[2]), created_at=row[3], updated_at=row[4])


def merged(target: Any, patch: Any) -> Any:
    """The target with the patch, by RFC 7396: objects merge, null takes away, all else replaces.

    In Python: SQLite's json_patch takes the keys "" and "\\u0000" for one. As deep as a message may be.
    """
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def set_user(db: Connection, given: SetUser, now_ms: int) -> User:
    """Keep a user's settings, or merge into them. What changes nothing leaves `updated_at` as it is.

    Raises:
        TooLarge: the settings would be longer than may be kept.
    """
    row = db.execute(SELECT_USER, (given.id,)).fetchone()
    old = None if row is None else _user(row)
    settings = merged(old.settings if old is not None else {}, given.settings) if given.merge else given.settings
    if old is not None and same_json(settings, old.settings):
        return old
    text = msgspec.json.encode(settings).decode()
    if len(text) > MAX_SETTINGS:
        raise TooLarge(f"The settings would be longer than {MAX_SETTINGS:,} characters of JSON.")
    return _user(db.execute(PUT_SETTINGS, (given.id, text, now_ms)).fetchall()[0])


def select_user(db: Connection, user_id: Key) -> User:
    """One user.

    Raises:
        UserNotFound: there is none of this id.
    """
    row = db.execute(SELECT_USER, (user_id,)).fetchone()
    if row is None:
        raise UserNotFound
    return _user(row)


def list_users(db: Connection, page: ListUsers) -> Listing[User]:
    """A page of users, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_SEQ,)
    rows = db.execute(LIST_USERS, (before, page.limit + 1, page.offset or 0))
    placed, more = take_page(rows, page.limit, lambda row: (row[0], _user(row)), _TEXTS)
    next_cursor = encode_cursor(_LISTING, placed[-1][0]) if more else None
    return Listing(items=[user for _, user in placed], next_cursor=next_cursor)


def delete_user(db: Connection, user_id: Key) -> Deletion:
    """Forget a user's settings.

    Raises:
        UserNotFound: there is none of this id.
    """
    db.execute(DELETE_USER, (user_id,))
    if db.changes() == 0:
        raise UserNotFound
    return Deletion(deleted={"users": 1}, points_queued=0)
