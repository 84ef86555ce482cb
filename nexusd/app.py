"""The daemon's life: its parts start in order, and stop in reverse.

Owns that order, and the process's own settings. What the parts are, and who is given what, is `nexusd.parts`'s.
Nobody but the entry point imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import sys
from collections.abc import Callable

import uvloop

from nexusd import __version__
from nexusd.backup.restoring import finish
from nexusd.config import Settings
from nexusd.data_directory import make_data_directory
from nexusd.errors import DatabaseRefusedError, RpcError, StoreDamaged, StoreUnavailableError
from nexusd.lifecycle import ExitCode, reload_on_hangup, stop_on_signals
from nexusd.log import LogControl, configure, log_loop_errors, log_stray_errors
from nexusd.parts import Parts
from nexusd.store.database import locked

# Between two threads that both want the interpreter the default of 5 ms makes a commit wait for the loop.
SWITCH_INTERVAL_S = 0.0005
# Requests make many short-lived objects and no cycles: with the default thresholds a quarter of the time of a
# small request goes into looking for cycles among objects that live as long as the daemon.
GC_THRESHOLDS = (20_000, 20, 50)
STATUS_INTERVAL_S = 5.0  # how often the line in `systemctl status` is made anew


class App:
    """One daemon, from its start to its stop."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], log: LogControl) -> None:
        """`load` reads the settings anew, for a reload."""
        self._parts = Parts(settings, load, log)

    async def run(self) -> ExitCode:
        """Start, serve until asked to stop, stop in reverse.

        Raises:
            StartupError: a part cannot start.
        """
        try:
            return await self._run()
        except StoreDamaged as error:   # 78: a service manager that tries again finds the same
            raise DatabaseRefusedError(
                f"{self._parts.settings.database_path}: {error.message} Without a daemon: nexusd --restore NAME"
            ) from error

    async def _run(self) -> ExitCode:
        parts = self._parts
        began_s = parts.clock.monotonic_s()
        log_loop_errors(asyncio.get_running_loop())
        with (
            stop_on_signals(parts.stop, _leave_at_once),
            reload_on_hangup(parts.reloader.request, parts.stop, sys.stderr),
        ):
            async with contextlib.AsyncExitStack() as stack:
                parts.notifier.status("opening the database")
                parts.patience.for_the_start()
                stack.callback(parts.patience.enough)
                await asyncio.to_thread(self._finish_restore)
                await parts.store.open()
                stack.push_async_callback(parts.store.close)
                try:
                    await parts.open_models()
                except StoreDamaged:
                    raise
                except RpcError as error:  # the disk is full, or another program holds the lock
                    raise StoreUnavailableError(f"{parts.settings.database_path}: {error.message}") from error
                stack.push_async_callback(parts.backups.close)
                await parts.tokens.load()
                stack.push_async_callback(parts.files.close)
                await parts.files.open()
                stack.push_async_callback(parts.index.close)  # before its start, which may fail half done
                await parts.index.start()
                stack.push_async_callback(parts.models.close)
                await parts.models.start()
                await parts.start_reranker(stack)
                stack.push_async_callback(parts.supervisor.close)
                self._start_work()
                gc.collect()
                gc.freeze()  # what is there now stays until the end
                gc.set_threshold(*GC_THRESHOLDS)
                parts.gate.open()  # before the sockets: whoever waited there through a restart is not put off
                stack.push_async_callback(parts.server.close)
                await parts.server.start()
                self._look_after_itself()
                parts.notifier.ready(parts.report.line())
                parts.patience.enough()
                parts.life_signs.start(parts.store, parts.worker)
                took_s = parts.clock.monotonic_s() - began_s
                parts.log.info("ready", version=__version__, start_ms=round(took_s * 1000))
                await self._drain(await parts.stop.wait())
        parts.log.info("stopped", reason=parts.stop.reason, exit_code=int(parts.stop.exit_code))
        parts.notifier.close()
        return parts.stop.exit_code

    @property
    def begins_again(self) -> bool:
        """Whether the run that ended is to be followed by another one, of these settings."""
        return self._parts.stop.again

    @property
    def settings(self) -> Settings:
        """Those that held in the end."""
        return self._parts.reloader.settings

    def _finish_restore(self) -> None:
        """Before anything opens the database: what a restore has noted, by this process or by one that was cut off."""
        parts = self._parts
        with locked(parts.places.database):
            finished = finish(parts.places)
        if finished is not None:
            parts.log.warning("restored", backup=finished.backup, set_aside=str(finished.set_aside))

    def _start_work(self) -> None:
        """What goes on whether anybody calls or not."""
        parts = self._parts
        parts.supervisor.start("outbox", parts.worker.run)
        parts.supervisor.start("models", parts.kept.run)
        parts.supervisor.start("reembed", parts.reembedding.run)
        parts.supervisor.start("verify", parts.verifier.run)
        parts.supervisor.start("files", parts.files.run)
        parts.supervisor.start("backups", parts.backups.run)
        parts.supervisor.start("drills", parts.drills.run)
        parts.supervisor.start("cache", parts.cache.run)

    def _look_after_itself(self) -> None:
        """What goes on beside the work: what systemd shows, settings and certificates that change."""
        parts = self._parts
        parts.supervisor.start("status", self._keep_status)
        parts.supervisor.start("reload", parts.reloader.run)
        if parts.tls_keys is not None:
            parts.supervisor.start("certificate", parts.tls_keys.run)

    async def _drain(self, reason: str) -> None:
        """Let nobody in any more; answer those who are in, and deliver what is due."""
        parts = self._parts
        config = parts.reloader.settings.config
        parts.log.info("stopping", reason=reason)
        if parts.stop.again:
            parts.notifier.reloading()  # the service goes on; a READY follows, and systemd waits for it
            parts.notifier.status(reason)
        else:
            parts.notifier.stopping(f"stopping: {reason}")
        parts.patience.for_the_stop(config.server.drain_timeout_s + config.outbox.drain_timeout_s)
        parts.hub.publish("system", {"state": "stopping"})
        await parts.server.stop_accepting()
        await parts.server.hear_out()
        parts.gate.stop()
        parts.worker.stop_waiting()
        parts.verifier.stop_waiting()
        parts.erasing.stop()
        parts.backups.stop_waiting()
        await parts.server.drain(config.server.drain_timeout_s)
        await parts.worker.drain(config.outbox.drain_timeout_s)

    async def _keep_status(self) -> None:
        parts = self._parts
        while True:
            parts.notifier.status(parts.report.line())
            if not parts.store.in_place():
                parts.fail(FileNotFoundError(f"{parts.settings.database_path} was moved or removed"))
            await asyncio.sleep(STATUS_INTERVAL_S)


def _leave_at_once(number: int) -> None:
    """A second signal: whoever sends it does not want to wait. What was acknowledged is on disk."""
    os._exit(128 + number)


def run(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run the daemon with these settings; its exit code. `load` reads them anew.

    Raises:
        StartupError: it cannot start with these settings or this data.
    """
    log = configure(settings.config.log, sys.stderr, settings.systemd.journal_stream)
    log_stray_errors()
    faulthandler.enable()  # a watchdog ends with SIGABRT: where every thread hung is then in the log
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    make_data_directory(settings.data_directory)

    async def serve() -> ExitCode:
        held = settings
        while True:
            app = App(held, load, log)  # inside the loop: the parts make events and futures of it
            code = await app.run()
            if not app.begins_again:
                return code
            held = app.settings
            del app
            gc.unfreeze()   # of the run that is over nothing stays
            gc.collect()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(serve()))
