"""What is remembered of backups across restarts, in the store's `meta`.

Owns its form. A store that was restored remembers what it knew then, so that a backup is made soon.
"""

from __future__ import annotations

import msgspec

from nexusd.store.database import Database
from nexusd.store.meta import get_meta, set_meta

KEY = "backup.last"


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`since`: when this store was first seen with backups on. `invalid`: those that failed a verification, and why."""

    since: int | None = None
    made_at: int | None = None
    tried_at: int | None = None
    took_ms: int | None = None
    error: str | None = None
    invalid: dict[str, str] = {}


def later(remembered: Record, known: Record) -> Record:
    """What is remembered, with what is known since in its place."""
    news = {name: value for name, value in msgspec.structs.asdict(known).items() if value}
    return msgspec.structs.replace(remembered, **news)


async def read_record(store: Database) -> Record:
    """What is remembered; nothing, if that was written by another version."""
    noted = await store.read(get_meta, KEY)
    try:
        return Record() if noted is None else msgspec.json.decode(noted, type=Record)
    except msgspec.MsgspecError:
        return Record()


async def write_record(store: Database, record: Record) -> None:
    """Remember it.

    Raises:
        RpcError: the store takes no writes now.
    """
    await store.write(set_meta, KEY, msgspec.json.encode(record).decode())
