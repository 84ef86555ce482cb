"""Restores that are killed at their steps: `python killed_restores.py BACKUP TEMPLATE INTO`.

For each step a copy of the directory TEMPLATE is made in INTO, named for the step; a child restores BACKUP into it and
kills itself there. Of what is left a copy is made, named for two steps, in which the next child goes on and kills
itself at the step after that. Prints the names, a line each. It forks: so many deaths take no start of Python each.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nexusd.backup.offline import restore_offline
from nexusd.backup.places import Places
from nexusd.backup.restoring import finish
from nexusd.clock import SystemClock
from nexusd.config import load_settings
from nexusd.store.database import locked

BEFORE = ("staging", "unpacked", "proven", "renewed", "staged")
AFTER = (
    "noted", "aside", "aside-wal", "aside-shm", "aside-journal", "swapped", "file-aside", "file", "files", "done",
)  # fmt: skip


def dying_at(step: str) -> Callable[[str], None]:
    def reached(now: str) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def in_a_child(work: Callable[[], object]) -> int:
    """Do it in a child; how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException as error:  # noqa: BLE001  whatever it is, the child ends here
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def go_on(data: Path, step: str) -> None:
    places = Places(data / "nexus.db", data)
    with locked(places.database):
        finish(places, reached=dying_at(step))


def main(backup: Path, template: Path, into: Path) -> None:
    for first, second in itertools.pairwise((*BEFORE, *AFTER, "")):
        shutil.copytree(template, data := into / first)
        settings = load_settings(config=None, data=data, environ={})
        ended = in_a_child(
            lambda: restore_offline(settings, str(backup), SystemClock(), reached=dying_at(first))  # noqa: B023
        )
        assert ended == -signal.SIGKILL, (first, ended)
        print(data.name)
        if first in AFTER[:-1]:
            shutil.copytree(data, again := into / f"{first}+{second}", symlinks=True)
            ended = in_a_child(lambda: go_on(again, second))  # noqa: B023
            assert ended == -signal.SIGKILL, (first, second, ended)
            print(again.name)


main(*(Path(argument) for argument in sys.argv[1:]))
