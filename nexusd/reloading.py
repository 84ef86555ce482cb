"""New settings while the daemon runs: every part takes them, or none does.

Owns the settings that hold, which of them can change without a restart (those that some part takes), the order of a
change, the way back when a part fails, and the account of the outcome. Knows parts only as functions of a
configuration, and no source of settings.

    the file is read and checked, beside the loop -> compared with what holds -> each part that is concerned takes its
    part of it, in one turn of the loop: no request is answered between the first and the last

A file with anything wrong in it changes nothing, and neither does one that is gone: the defaults are nobody's wish.
What cannot change without a restart stays as it is until then, and is named each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from nexusd.config import Settings
from nexusd.config_changes import changed_keys, is_under, with_values
from nexusd.config_sections import Config
from nexusd.errors import BadContent, ConfigError, RpcError
from nexusd.exception_text import describe_error
from nexusd.lifecycle import Notifier
from nexusd.model.events import Publish
from nexusd.model.system import Reloaded, SettingsStatus


@dataclass(frozen=True, slots=True)
class Taker:
    """A part that takes these settings, or sections of settings, while it works. It takes them at once, or raises."""

    settings: Sequence[str]
    take: Callable[[Config], None]


class Reloader:
    """Takes new settings when it is asked to. Used on one event loop."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        takers: Sequence[Taker],
        *,
        notifier: Notifier,
        status_line: Callable[[], str],
        publish: Publish,
        look_at_files: Callable[[], Awaitable[None]],
    ) -> None:
        """`load` reads all sources of settings anew; it may take its time. `look_at_files` is for files of people."""
        self.settings = settings    # those that hold
        self._load = load
        self._takers = takers
        self._notifier = notifier
        self._status_line = status_line
        self._publish = publish
        self._look_at_files = look_at_files
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()
        self._taken = 0
        self._refused = 0
        self._refusal: str | None = None
        self._need_restart: list[str] = []
        self._log = structlog.get_logger("nexusd.settings")

    @property
    def changeable(self) -> list[str]:
        """Settings, and sections, that need no restart."""
        return [name for taker in self._takers for name in taker.settings]

    def request(self) -> None:
        """Ask for a reload; nobody waits for it. Several in a row are one."""
        self._asked.set()

    async def run(self) -> None:
        """Do what is asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.reload()
            except RpcError:    # it is in the log
                continue

    async def reload(self) -> Reloaded:
        """Read the settings anew and take what changed; what changed, and what needs a restart.

        Raises:
            BadContent: they are wrong. The old ones hold.
        """
        async with self._turn:  # whoever comes later finds the file as it is then
            self._notifier.reloading()
            try:
                return await self._reload()
            finally:
                self._notifier.ready(self._status_line())

    def status(self) -> SettingsStatus:
        """How things stand."""
        path = self.settings.config_path
        return SettingsStatus(
            file=None if path is None else str(path),
            reloads=self._taken,
            refused=self._refused,
            refusal=self._refusal,
            needs_restart=self._need_restart,
        )

    async def _reload(self) -> Reloaded:
        held = self.settings
        try:
            new = await self._read()
            differing = changed_keys(held.config, new.config)
            changed = [name for name in differing if is_under(name, self.changeable)]
            config = with_values(held.config, new.config, changed)
            self._hand_out(config, changed)
        except ConfigError as error:
            self._refuse(error.message)
            raise BadContent(f"The settings are refused, the old ones hold.\n{error.message}") from error
        except Exception as error:
            self._refuse(describe_error(error))
            raise
        self.settings = msgspec.structs.replace(held, config=config, config_path=new.config_path)
        self._need_restart = [name for name in differing if name not in changed]
        self._taken += 1
        self._refusal = None
        self._log.info("settings reloaded", changed=_listed(changed), needs_restart=_listed(self._need_restart))
        self._publish("system", {"state": "reloaded", "changed": changed})
        await self._look_at_files()
        return Reloaded(changed=changed, needs_restart=self._need_restart)

    async def _read(self) -> Settings:
        new = await asyncio.to_thread(self._load)
        if self.settings.config_path is not None and new.config_path is None:
            raise ConfigError(f"{self.settings.config_path}: is gone")
        return new

    def _refuse(self, why: str) -> None:
        self._refused += 1
        self._refusal = why
        self._log.error("settings refused; the old ones hold", problems=why)

    def _hand_out(self, config: Config, changed: Sequence[str]) -> None:
        """Give every part that is concerned its settings; if one fails, take them back from all."""
        concerned = [taker for taker in self._takers if any(is_under(name, taker.settings) for name in changed)]
        for place, taker in enumerate(concerned):
            try:
                taker.take(config)
            except Exception:   # whatever it is: half of a change must not stay
                for given in reversed(concerned[: place + 1]):
                    self._take_back(given)
                raise

    def _take_back(self, taker: Taker) -> None:
        try:
            taker.take(self.settings.config)
        except Exception:  # noqa: BLE001 - the others must go back all the same
            self._log.exception("a part does not go back to the settings that hold", settings=taker.settings)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
