"""backup.create, list, verify, status: copies of everything, each proven when it was made.

Owns the pages of the list, and that a call that is sent again makes no second backup.
"""

from __future__ import annotations

import msgspec

from nexusd.api.long_calls import LongCalls
from nexusd.api.receipts import receipt_for
from nexusd.backup.keeper import Backups
from nexusd.clock import Clock
from nexusd.errors import (
    BackupBusy,
    BackupInvalid,
    DiskFull,
    InvalidParams,
    NoSuchBackup,
    ReadOnly,
)
from nexusd.field_errors import FieldError
from nexusd.model.backups import Backup, BackupStatus, CreateBackup, ListBackups, VerifiedBackup, VerifyBackup
from nexusd.model.fields import Listing, NoParams
from nexusd.store.database import Database
from nexusd.wire.methods import Call, Method


class BackupApi:
    """The methods on backups."""

    def __init__(self, store: Database, backups: Backups, clock: Clock) -> None:
        self._backups = backups
        self._calls: LongCalls[Backup] = LongCalls(store, clock)

    async def create(self, call: Call, params: CreateBackup) -> Backup | msgspec.Raw:
        """Make one, and answer when it is proven."""
        receipt = receipt_for(call, "backup.create", params)
        return await self._calls.once(receipt, lambda: self._backups.create("manual", params.note))

    async def page(self, _call: Call, params: ListBackups) -> Listing[Backup]:
        """A page, newest first."""
        backups = await self._backups.list()
        start = params.offset or 0
        if params.cursor is not None:
            names = [backup.name for backup in backups]
            if params.cursor not in names:
                raise InvalidParams(fields=(FieldError("cursor", "nextCursor of the page before; or begin anew"),))
            start = names.index(params.cursor) + 1
        page = backups[start : start + params.limit]
        return Listing(items=page, next_cursor=page[-1].name if start + len(page) < len(backups) and page else None)

    async def verify(self, _call: Call, params: VerifyBackup) -> VerifiedBackup:
        """Unpack one and look at all of it."""
        return await self._backups.verify(params.name)

    async def status(self, _call: Call, _params: NoParams) -> BackupStatus:
        """How things stand."""
        await self._backups.look()
        return self._backups.status()

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="backup.create",
                summary="Copy everything while it is in use, prove the copy and keep it; answers when that is done.",
                params=CreateBackup,
                result=Backup,
                handler=self.create,
                role="admin",
                mutates=True,
                waits=True,
                errors=(BackupBusy, BackupInvalid, DiskFull, ReadOnly),
                example={"note": "before the upgrade"},
                subject=lambda _params, result: {"name": result.name},
            ),
            Method(
                name="backup.list",
                summary="List the backups, newest first.",
                params=ListBackups,
                result=Listing[Backup],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="backup.verify",
                summary="Unpack a backup, look at all of it, and compare it with what it says of itself.",
                params=VerifyBackup,
                result=VerifiedBackup,
                handler=self.verify,
                role="admin",
                waits=True,
                errors=(BackupBusy, BackupInvalid, DiskFull, NoSuchBackup, ReadOnly),
                example={"name": "nexusd-20261122T061519Z-manual"},
            ),
            Method(
                name="backup.status",
                summary="Tell how old the newest good backup is, when the next one is due, and what is under way.",
                params=NoParams,
                result=BackupStatus,
                handler=self.status,
                role="read",
                example={},
            ),
        ]
