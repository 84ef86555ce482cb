"""How far a long transfer of rows is, drawn on standard error: a bar a table, its rate, the time it has left.

Knows neither rows nor files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Where progress is told."""

    def table(self, name: str, rows: int) -> None:
        """A table begins."""

    def advance(self, rows: int) -> None:
        """So many of its rows are done."""


class Silent:
    """No terminal: no progress."""

    def table(self, name: str, rows: int) -> None:
        """Nothing."""

    def advance(self, rows: int) -> None:
        """Nothing."""


class _Bars:
    """A bar a table."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def table(self, name: str, rows: int) -> None:
        self._task = self._bars.add_task(name, total=rows)

    def advance(self, rows: int) -> None:
        self._bars.advance(self._task, rows)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Bars on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield Silent()
        return
    from rich import progress as rich_progress  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)
    from rich.console import Console  # noqa: PLC0415 (as above)

    class Rate(rich_progress.ProgressColumn):
        """Rows a second."""

        def render(self, task: rich_progress.Task) -> str:
            speed = task.finished_speed or task.speed
            return "" if speed is None else f"{speed:,.0f}/s"

    columns = (
        rich_progress.TextColumn("{task.description:<14}"), rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(), Rate(), rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)
