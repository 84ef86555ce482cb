"""One run of something long: how far it is, and whether it is to end early.

Owns what the run's thread and the event loop tell one another: the thread says how far it is and asks whether to go
on; the loop reads the one and says the other. Knows nothing of what is run.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

from nexusd.model.backups import BackupStep

STEPS_PER_LOOK = 50_000     # of SQLite's virtual machine between two looks at whether to go on: some milliseconds


NICENESS = 5            # of what may take its time: who serves comes first


class HaltedError(Exception):
    """The run was told to end early; what it had begun is to be taken back."""


def tell_nothing(_step: str) -> None:
    """A `reached` for where nobody follows."""


class Course:
    """The course of one run. `reached` is told each step that is done, by its name: tests end the program there."""

    def __init__(self, step: BackupStep, now_ms: int, reached: Callable[[str], None] = tell_nothing) -> None:
        self.step = step
        self.done = 0.0         # 0 to 1, of the step
        self.since_ms = now_ms
        self.reached = reached
        self._halted = threading.Event()

    def begin(self, step: BackupStep) -> None:
        """The next step begins.

        Raises:
            HaltedError: it is not to.
        """
        self.step, self.done = step, 0.0
        self.go_on()

    def at(self, done: float) -> None:
        """So far with the step.

        Raises:
            HaltedError: no further.
        """
        self.done = min(max(done, 0.0), 1.0)
        self.go_on()

    def go_on(self) -> None:
        """Go on, if that is still wanted.

        Raises:
            HaltedError: it is not.
        """
        if self._halted.is_set():
            raise HaltedError

    def pause(self, seconds: float) -> None:
        """Let others work for so long.

        Raises:
            HaltedError: the run is to end.
        """
        if self._halted.wait(seconds):
            raise HaltedError

    def halt(self) -> None:
        """End soon."""
        self._halted.set()

    def step_back(self) -> None:
        """Let the scheduler prefer all other threads to this one, for what is left of its life."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

    @contextmanager
    def over(self, db: apsw.Connection) -> Iterator[None]:
        """While this connection works, a long statement ends early too.

        Raises:
            HaltedError: it did.
        """
        db.set_progress_handler(self._halted.is_set, STEPS_PER_LOOK)
        try:
            yield
        except apsw.InterruptError:
            raise HaltedError from None
        finally:
            db.set_progress_handler(None)
