"""Tokens in SQLite: all of each but its secret."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from nexusd.errors import ReplyErased, TokenNotFound, TooLarge
from nexusd.model.fields import Listing
from nexusd.model.tokens import ListTokens, RevokedToken, Token, TokenRole
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.idempotency import Receipt, keep_no_reply, kept_reply
from nexusd.store.paging import take_page

MAX_TOKENS = 1000   # all of them are kept in memory

_COLUMNS = "seq, id, name, role, methods, networks, expires_at, rate, created_at, created_by"
_TEXTS = (2, 4, 5)
_LISTING = "tokens"
_LAST_SEQ = 2**63 - 1

# a new token
INSERT_TOKEN = f"""
INSERT INTO tokens (id, hash, name, role, methods, networks, expires_at, rate, created_at, created_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING {_COLUMNS}"""

# how many there are
COUNT_TOKENS = "SELECT count(*) FROM tokens"

# the newest tokens before a place
LIST_TOKENS = f"SELECT {_COLUMNS} FROM tokens WHERE seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?"

# all of them with their hashes, for who recognises them
ALL_TOKENS = f"SELECT {_COLUMNS}, hash FROM tokens ORDER BY seq"

# one is worth nothing any more
DELETE_TOKEN = "DELETE FROM tokens WHERE id = ? RETURNING id, name"  # noqa: S105  no secret, but SQL


class NewToken(Struct, frozen=True, kw_only=True):
    """A token to be kept."""

    id: str
    hash: bytes
    name: str
    role: TokenRole
    methods: list[str]
    networks: list[str]
    expires_at: int | None
    rate: float | None
    created_by: str


def _token(row: tuple[Any, ...]) -> Token:
    return Token(
        id=row[1], name=row[2], role=row[3], methods=msgspec.json.decode(row[4]),
        networks=msgspec.json.decode(row[5]), expires_at=row[6], rate=row[7], created_at=row[8], created_by=row[9],
    )


def insert_token(db: Connection, receipt: Receipt | None, new: NewToken, now_ms: int) -> Token:
    """Keep a token. The receipt of the call holds no reply: the secret is told once, and kept nowhere.

    Raises:
        ReplyErased: the call was done before.
        TooLarge: there are as many tokens as may be.
    """
    if receipt is not None and kept_reply(db, receipt, now_ms) is not None:
        raise ReplyErased
    count: Any = db.execute(COUNT_TOKENS).fetchone()
    if count[0] >= MAX_TOKENS:
        raise TooLarge(f"There are {MAX_TOKENS} tokens, the most that are kept; tokens.revoke makes room.")
    row = db.execute(INSERT_TOKEN, (
        new.id, new.hash, new.name, new.role, msgspec.json.encode(new.methods).decode(),
        msgspec.json.encode(new.networks).decode(), new.expires_at, new.rate, now_ms, new.created_by,
    )).fetchall()[0]  # fmt: skip
    if receipt is not None:
        keep_no_reply(db, receipt, now_ms)
    return _token(row)


def list_tokens(db: Connection, page: ListTokens) -> Listing[Token]:
    """A page of tokens, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_SEQ,)
    rows = db.execute(LIST_TOKENS, (before, page.limit + 1, page.offset or 0))
    placed, more = take_page(rows, page.limit, lambda row: (row[0], _token(row)), _TEXTS)
    next_cursor = encode_cursor(_LISTING, placed[-1][0]) if more else None
    return Listing(items=[token for _, token in placed], next_cursor=next_cursor)


def all_tokens(db: Connection) -> list[tuple[Token, bytes]]:
    """Every token, with the SHA-256 by which it is recognised."""
    return [(_token(row), row[-1]) for row in db.execute(ALL_TOKENS)]


def delete_token(db: Connection, id_: str) -> RevokedToken:
    """One is worth nothing any more.

    Raises:
        TokenNotFound: there is none of this id.
    """
    rows: list[Any] = db.execute(DELETE_TOKEN, (id_,)).fetchall()
    if not rows:
        raise TokenNotFound
    return RevokedToken(id=rows[0][0], name=rows[0][1])
