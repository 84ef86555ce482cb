"""Work that would hold up the serving thread, done in other threads. Runs in the index's child only.

Owns the threads and the descriptor that wakes the loop. What comes after a piece of work is done runs in the
loop's own thread, when it calls `finish`. Only for work that lets go of the interpreter's lock: file system
calls do, the engine does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

THREADS = 2  # a long one (removing a shard) must not hold up an fsync that somebody waits for

Then = Callable[[BaseException | None], None]


class Background:
    """Runs functions beside the loop. `descriptor` is readable when something is done; then call `finish`."""

    def __init__(self) -> None:
        self.descriptor, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="background")
        self._running: list[tuple[Future[None], Then]] = []

    def run(self, work: Callable[[], None], then: Then) -> None:
        """Do `work` in a thread, and `then`, with the error if there was one, in the loop's."""
        future = self._threads.submit(work)
        self._running.append((future, then))
        future.add_done_callback(self._woken)

    def _woken(self, _future: Future[None]) -> None:
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:
            return  # full of earlier calls to wake up

    def finish(self) -> None:
        """What comes after each piece of work that is done."""
        try:
            while os.read(self.descriptor, 4096):
                pass
        except BlockingIOError:
            pass
        done = [each for each in self._running if each[0].done()]
        self._running = [each for each in self._running if each not in done]
        for future, then in done:
            then(future.exception())

    def wait(self) -> None:
        """Block until something that runs is done, if anything runs."""
        wait([future for future, _ in self._running], return_when=FIRST_COMPLETED)
