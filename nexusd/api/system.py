"""health, system.status, system.check, system.reload, rpc.discover, help: the daemon about itself.

Owns which findings make the daemon degraded. Knows the parts only by the figures they give.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from nexusd.errors import BadContent, MethodNotFound
from nexusd.model.fields import NoParams
from nexusd.model.system import CheckSystem, Health, Help, Reloaded, SystemChecks, SystemStatus
from nexusd.wire.discovery import describe, discover
from nexusd.wire.methods import Call, Method, MethodTable
from nexusd.wire.replies import encode


class SystemApi:
    """The methods on the daemon itself."""

    def __init__(
        self,
        table: MethodTable,
        health: Callable[[], Health],
        status: Callable[[], Any],
        check: Callable[[CheckSystem], Awaitable[SystemChecks]],
        reload: Callable[[], Awaitable[Reloaded]],
    ) -> None:
        self._table = table
        self._health = health
        self._status = status
        self._check = check
        self._reload = reload
        self._document: msgspec.Raw | None = None  # made once: the methods are the same until the end

    def health(self, _call: Call, _params: NoParams) -> Health:
        """Whether the daemon does its job."""
        return self._health()

    async def status(self, _call: Call, _params: NoParams) -> SystemStatus:
        """Every part in figures."""
        status: SystemStatus = await self._status()
        return status

    async def check(self, _call: Call, params: CheckSystem) -> SystemChecks:
        """Every part looked at, and what to do about it."""
        return await self._check(params)

    async def reload(self, _call: Call, _params: NoParams) -> Reloaded:
        """The settings anew."""
        return await self._reload()

    async def discover(self, _call: Call, _params: NoParams) -> msgspec.Raw:
        """Every method as an OpenRPC document."""
        if self._document is None:  # beside the loop: to describe a hundred methods takes a tenth of a second
            self._document = await asyncio.to_thread(lambda: msgspec.Raw(encode(discover(self._table))))
        return self._document

    def help(self, _call: Call, params: Help) -> dict[str, Any]:
        """One method, or the names of all."""
        return describe(self._table, params.method)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="health",
                summary="Tell whether the daemon does its job, and what is missing if not.",
                params=NoParams,
                result=Health,
                handler=self.health,
                role="read",
                immediate=True,
                example={},
            ),
            Method(
                name="system.status",
                summary="Show every part of the daemon in figures.",
                params=NoParams,
                result=SystemStatus,
                handler=self.status,
                role="read",
                example={},
            ),
            Method(
                name="system.check",
                summary="Examine every part of the daemon, and say what to do about what is wrong.",
                params=CheckSystem,
                result=SystemChecks,
                handler=self.check,
                role="admin",
                example={},
            ),
            Method(
                name="system.reload",
                summary="Read the settings anew and take what can change without a restart; wrong ones change nothing.",
                params=NoParams,
                result=Reloaded,
                handler=self.reload,
                role="admin",
                errors=(BadContent,),
                example={},
            ),
            Method(
                name="rpc.discover",
                summary="Answer the OpenRPC document of every method.",
                params=NoParams,
                result=dict[str, Any],
                handler=self.discover,
                role="read",
                example={},
            ),
            Method(
                name="help",
                summary="List the methods, or explain one.",
                params=Help,
                result=dict[str, Any],
                handler=self.help,
                role="read",
                immediate=True,
                errors=(MethodNotFound,),
                example={"method": "episodes.create"},
            ),
        ]
