"""backup.restore and backup.drill: a backup takes the place of what is there, or is only tried out."""

from __future__ import annotations

import msgspec

from nexusd.api.long_calls import LongCalls
from nexusd.api.receipts import receipt_for
from nexusd.backup.drill import Drills
from nexusd.backup.restorer import Restorer
from nexusd.clock import Clock
from nexusd.errors import BackupBusy, BackupInvalid, DiskFull, NoSuchBackup, ReadOnly
from nexusd.model.backups import Drill, DrillBackup, RestoreBackup, RestorePlan
from nexusd.store.database import Database
from nexusd.wire.methods import Call, Method


class RestoreApi:
    """The methods that put a backup back."""

    def __init__(self, store: Database, restorer: Restorer, drills: Drills, clock: Clock) -> None:
        self._restorer = restorer
        self._drills = drills
        self._calls: LongCalls[RestorePlan] = LongCalls(store, clock)

    async def restore(self, call: Call, params: RestoreBackup) -> RestorePlan | msgspec.Raw:
        """Verify it, and answer what changes; then it does."""
        receipt = receipt_for(call, "backup.restore", params)
        if params.dry_run:
            return await self._calls.once(receipt, lambda: self._restorer.try_out(params.name))
        return await self._calls.once(receipt, lambda: self._restorer.restore(params.name, receipt))

    async def drill(self, _call: Call, _params: DrillBackup) -> Drill:
        """Rehearse it with the newest backup."""
        return await self._drills.rehearse()

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="backup.restore",
                summary="Put a backup in the place of all that is there, which is set aside; the daemon begins again.",
                params=RestoreBackup,
                result=RestorePlan,
                handler=self.restore,
                role="admin",
                mutates=True,
                waits=True,
                errors=(BackupBusy, BackupInvalid, DiskFull, NoSuchBackup, ReadOnly),
                subject=lambda params, _result: {"name": params.name},
            ),
            Method(
                name="backup.drill",
                summary="Rehearse a restore: put the newest backup up beside the data, look at it, take it down.",
                params=DrillBackup,
                result=Drill,
                handler=self.drill,
                role="admin",
                waits=True,
                errors=(BackupBusy, NoSuchBackup),
                example={},
            ),
        ]
