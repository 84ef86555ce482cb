"""nexusctl as tests run it: in this process, in a pipe or on a terminal that are none; or as a process, left running.

A process costs a quarter of a second each time. What only one has (signals, a real terminal, closed streams) is tried
with one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from nexusd.cli.main import main

PROGRAM = [sys.executable, "-c", "from nexusd.cli.main import main; main()"]
PROJECT = Path(__file__).parents[2]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Done:
    """How a run ended, and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def words(self) -> str:
        """The output without its line ends, which are where the terminal has its own."""
        return " ".join(self.output.split())


class _Stream(io.TextIOWrapper):
    """A standard stream; `terminal` says what it passes for."""

    def __init__(self, text: str = "", *, terminal: bool) -> None:
        super().__init__(io.BytesIO(text.encode()), encoding="utf-8", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return ESCAPES.sub("", self.buffer.getvalue().decode()).replace("\r", "")


def environment(**more: str) -> dict[str, str]:
    """Of a user who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUSD_", "LINES"))}
    return {**kept, "PYTHONPATH": str(PROJECT), "TERM": "xterm", "LC_ALL": "C.UTF-8", "COLUMNS": "80", **more}


def in_pipe(*arguments: str) -> Done:
    """Its output goes into a pipe, and nobody types."""
    return _run(arguments, terminal=False, width=80, typed="")


def on_terminal(*arguments: str, width: int = 80, typed: str = "") -> Done:
    """Somebody looks, and has typed this."""
    return _run(arguments, terminal=True, width=width, typed=typed)


def _run(arguments: tuple[str, ...], *, terminal: bool, width: int, typed: str) -> Done:
    stdin, stdout, stderr = (_Stream(text, terminal=terminal) for text in (typed, "", ""))
    code: object = None
    with (
        mock.patch.dict(os.environ, environment(COLUMNS=str(width)), clear=True),
        mock.patch.multiple(sys, argv=["nexusctl", *arguments], stdin=stdin, stdout=stdout, stderr=stderr),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Done(code, stdout.text(), stderr.text())


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is left running in a pipe, and gone at the end."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
