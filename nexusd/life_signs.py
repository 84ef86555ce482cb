"""Which parts the daemon cannot live without, and what is done when one does not get on.

Owns the choice of what the watchdog looks at, and for how long each may stand still. Asks the store and the outbox
worker; whether the index, an embedding service or a Qdrant server answers does not count.
"""

from __future__ import annotations

import structlog

from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.lifecycle import ExitCode, Notifier, StopSignal, Supervisor
from nexusd.store.database import Database
from nexusd.sync.worker import OutboxWorker
from nexusd.watchdog import Part, Pulse, Watchdog

# A write may delete a hundred thousand rows, and a slow disk hold up its fsync; past this it hangs.
WRITER_LIMIT_S = 60.0
# One step of the worker compares a whole index with the rows; each call of it has a deadline of its own.
WORKER_LIMIT_S = 600.0
CALLS_A_STEP = 4    # where those deadlines are configured longer than usual


class LifeSigns:
    """Signs of life for systemd, and the end when there can be none."""

    def __init__(
        self, settings: Settings, notifier: Notifier, supervisor: Supervisor, stop: StopSignal, clock: Clock
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._supervisor = supervisor
        self._stop = stop
        self._clock = clock
        self._steps = 0
        self._log = structlog.get_logger("nexusd")

    def stepped(self, _step: str) -> None:
        """The outbox worker has done a step of its work."""
        self._steps += 1

    def start(self, store: Database, worker: OutboxWorker) -> None:
        """Watch from now on: the writer in any case, the rest where systemd wants to be told."""
        self._supervisor.start("writer", lambda: self._watch_writer(store), ends=True)
        interval_s, config = self._settings.systemd.watchdog_s, self._settings.config
        if interval_s is None:
            return
        pulse = Pulse(lambda: worker.turns + self._steps, lambda: worker.resting, self._clock)
        calls_s = CALLS_A_STEP * (config.embedding.timeout_s + config.index.call_timeout_s)
        parts = [
            Part("writer", lambda: store.progress().turn_age_s, WRITER_LIMIT_S),
            Part("outbox", pulse.stalled_s, max(WORKER_LIMIT_S, calls_s)),
        ]
        self._supervisor.start("watchdog", Watchdog(self._notifier, parts, interval_s).run)

    async def _watch_writer(self, store: Database) -> None:
        """Supervised tasks end before the store is closed: a writer that ends earlier has died, and never answers."""
        await store.writer_ended()
        self._log.critical("the writer's thread died")
        self._notifier.broken()
        self._stop.request("the writer's thread died", ExitCode.INTERNAL)
