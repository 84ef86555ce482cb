"""Replies kept by key, so that a call that is sent again is not done again.

Owns the table `idempotency`. A receipt, the write that it is for and the reply are one transaction. Knows
no method: a reply is whatever msgspec encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from nexusd.errors import IdempotencyMismatch, ReplyErased
from nexusd.store.batch import Groupable
from nexusd.store.connection import Connection
from nexusd.store.values import in_powers_of_two, placeholders

KEPT_MS = 24 * 60 * 60 * 1000
PRUNE_EVERY = 64        # so many new receipts pay for one look at the oldest ones
PRUNE_AT_MOST = 128     # twice of what came in: the table shrinks, and no write waits long for it

# the receipt of a key, if it was used
SELECT_RECEIPT = """
SELECT method, parameters_hash, reply, created_ms, unfinished FROM idempotency WHERE principal = ? AND key = ?"""

# whether any of the keys was used, expired or not
SELECT_USED = "SELECT 1 FROM idempotency WHERE (principal, key) IN (VALUES {rows}) LIMIT 1"

# keep replies; an expired receipt of the same key gives way
INSERT_RECEIPTS = """
INSERT OR REPLACE INTO idempotency (principal, key, method, parameters_hash, reply, created_ms)
VALUES {rows}"""

# keep how far a call has come; a later count, and in the end the reply, takes its place
INSERT_UNFINISHED = """
INSERT OR REPLACE INTO idempotency (principal, key, method, parameters_hash, reply, created_ms, unfinished)
VALUES (?, ?, ?, ?, x'', ?, ?)"""

# the oldest receipts are the first rows; what lies in the future was kept before the clock was set back
PRUNE_RECEIPTS = """
DELETE FROM idempotency
WHERE id IN (SELECT id FROM idempotency ORDER BY id LIMIT ?1) AND (created_ms < ?2 - ?3 OR created_ms > ?2 + ?3)"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What makes a call the same call: its key, who calls, the method and a hash of the parameters."""

    key: str
    principal: str
    method: str
    parameters_hash: bytes


class NotTogetherError(Exception):
    """These calls have to be done one by one."""


def kept_reply(db: Connection, receipt: Receipt, now_ms: int) -> msgspec.Raw | None:
    """The reply to this call if it was done already: for who must know before the write that does it.

    Raises:
        IdempotencyMismatch: the key was used for another method or other parameters.
        ReplyErased: it was done, and what it answered was deleted for good.
    """
    row = _receipt(db, receipt, now_ms)
    if row is None or row[4] is not None:
        return None
    if not row[2]:
        raise ReplyErased
    return msgspec.Raw(row[2])


def kept_unfinished(db: Connection, receipt: Receipt, now_ms: int) -> bytes | None:
    """How far this call had come when it was cut off, as it was kept; None if it was not begun.

    Raises:
        IdempotencyMismatch: the key was used for another method or other parameters.
    """
    row = _receipt(db, receipt, now_ms)
    return None if row is None else row[4]


def _receipt(db: Connection, receipt: Receipt, now_ms: int) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(SELECT_RECEIPT, (receipt.principal, receipt.key)).fetchone()
    if row is None or row[3] <= now_ms - KEPT_MS:
        return None
    if row[0] != receipt.method or row[1] != receipt.parameters_hash:
        raise IdempotencyMismatch
    return row


def keep_unfinished(db: Connection, receipt: Receipt, now_ms: int, so_far: bytes) -> None:
    """Keep how far the call has come, in the transaction that brought it there."""
    values = (receipt.principal, receipt.key, receipt.method, receipt.parameters_hash, now_ms, so_far)
    db.execute(INSERT_UNFINISHED, values)


def keep_no_reply(db: Connection, receipt: Receipt, now_ms: int) -> None:
    """Keep that the call is done, and not what it answered: a repeated one gets ReplyErased."""
    values = (receipt.principal, receipt.key, receipt.method, receipt.parameters_hash, b"", now_ms)
    db.execute(INSERT_RECEIPTS.format(rows=placeholders(1, 6)), values)


def keep_reply(db: Connection, receipt: Receipt, now_ms: int, reply: Any) -> None:
    """Keep the reply to a call that is done."""
    _keep(db, [(receipt, now_ms, reply)])


def answer_once(
    db: Connection, receipt: Receipt, now_ms: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """Do the write and keep its reply, or answer the kept reply as `msgspec.Raw`.

    Raises:
        IdempotencyMismatch: the key was used for another method or other parameters.
    """
    kept = kept_reply(db, receipt, now_ms)
    if kept is not None:
        return kept
    result = function(db, *args)
    keep_reply(db, receipt, now_ms, result)
    return result


def _answer_each_once(db: Connection, calls: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
    """As `answer_once` for calls of one groupable function whose keys are all new."""
    receipts: list[Receipt] = [call[0] for call in calls]
    names = {(receipt.principal, receipt.key) for receipt in receipts}
    if len(names) < len(receipts):
        raise NotTogetherError
    for run in in_powers_of_two(receipts):
        keys = [part for receipt in run for part in (receipt.principal, receipt.key)]
        if db.execute(SELECT_USED.format(rows=placeholders(len(run), 2)), keys).fetchone() is not None:
            raise NotTogetherError
    function: Groupable[..., Any] = calls[0][2]
    results = function.many(db, [call[3] for call in calls])
    _keep(db, [(call[0], call[1], result) for call, result in zip(calls, results, strict=True)])
    return results


@cache
def _grouped(_function: Groupable[..., Any]) -> Groupable[..., Any]:
    """One object a function, so that neighbours in a batch are calls of the same function."""
    return Groupable(answer_once, _answer_each_once)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`answer_once` for this function, groupable if the function is."""
    return _grouped(function) if isinstance(function, Groupable) else answer_once


def _keep(db: Connection, replies: Sequence[tuple[Receipt, int, Any]]) -> None:
    for run in in_powers_of_two(replies):
        values: list[Any] = []
        for receipt, now_ms, result in run:
            reply = msgspec.json.encode(result)
            values += (receipt.principal, receipt.key, receipt.method, receipt.parameters_hash, reply, now_ms)
        db.execute(INSERT_RECEIPTS.format(rows=placeholders(len(run), 6)), values)
    before = db.last_insert_rowid() - len(replies)
    if before // PRUNE_EVERY != db.last_insert_rowid() // PRUNE_EVERY:
        prune_receipts(db, replies[-1][1])


def prune_receipts(db: Connection, now_ms: int) -> int:
    """Forget some of the receipts that are older than 24 hours; answer how many."""
    db.execute(PRUNE_RECEIPTS, (PRUNE_AT_MOST, now_ms, KEPT_MS))
    return db.changes()
