"""Groups in SQLite."""

from __future__ import annotations

from typing import Any

import msgspec

from nexusd.errors import GroupNotFound
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.model.groups import CreateGroup, Group, ListGroups, UpdateGroup
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.paging import take_page
from nexusd.store.same_json import same_json

_COLUMNS = "id, name, config, created_at, updated_at"
_TEXTS = (1, 2)
_LISTING = "groups"
_LAST_ID = 2**63 - 1

# a new group; the table's name is a keyword of SQL
INSERT_GROUP = f"""
INSERT INTO "groups" (name, config, created_at, updated_at) VALUES (?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one group
SELECT_GROUP = f'SELECT {_COLUMNS} FROM "groups" WHERE id = ?'

# the newest groups before an id
LIST_GROUPS = f'SELECT {_COLUMNS} FROM "groups" WHERE id < ? ORDER BY id DESC LIMIT ? OFFSET ?'

# change what may change
UPDATE_GROUP = f'UPDATE "groups" SET name = ?, config = ?, updated_at = ? WHERE id = ? RETURNING {_COLUMNS}'

# the group; its conversations stay, without one
DELETE_GROUP = 'DELETE FROM "groups" WHERE id = ?'


def _group(row: tuple[Any, ...]) -> Group:
    return Group(
        id=row[0], name=row[1], config=msgspec.json.decode(row[2]), created_at=row[3], updated_at=row[4]
    )


def insert_group(db: Connection, new: CreateGroup, now_ms: int) -> Group:
    """Make a group. Names need not be unique."""
    values = (new.name, msgspec.json.encode(new.config).decode(), now_ms, now_ms)
    return _group(db.execute(INSERT_GROUP, values).fetchall()[0])


def select_group(db: Connection, group_id: int) -> Group:
    """One group.

    Raises:
        GroupNotFound: there is none of this id.
    """
    row = db.execute(SELECT_GROUP, (group_id,)).fetchone()
    if row is None:
        raise GroupNotFound
    return _group(row)


def list_groups(db: Connection, page: ListGroups) -> Listing[Group]:
    """A page of groups, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_ID,)
    rows = db.execute(LIST_GROUPS, (before, page.limit + 1, page.offset or 0))
    items, more = take_page(rows, page.limit, _group, _TEXTS)
    return Listing(items=items, next_cursor=encode_cursor(_LISTING, items[-1].id) if more else None)


def update_group(db: Connection, change: UpdateGroup, now_ms: int) -> Group:
    """Change what is given. A change that changes nothing leaves `updated_at` as it is.

    Raises:
        GroupNotFound: there is none of this id.
    """
    old = select_group(db, change.id)
    name = old.name if change.name is UNSET else change.name
    config = old.config if change.config is UNSET else change.config
    if name == old.name and same_json(config, old.config):
        return old
    return _group(db.execute(UPDATE_GROUP, (name, msgspec.json.encode(config).decode(), now_ms, old.id)).fetchall()[0])


def delete_group(db: Connection, group_id: int) -> Deletion:
    """Delete a group. Its conversations stay, without one.

    Raises:
        GroupNotFound: there is none of this id.
    """
    db.execute(DELETE_GROUP, (group_id,))
    if db.changes() == 0:
        raise GroupNotFound
    return Deletion(deleted={"groups": 1}, points_queued=0)
