"""The README's examples run, in its order, in one shell's worth of state, and show what they really print.

`pytest tests/acceptance/test_readme.py --update-readme` writes the output anew. Figures, times and sizes are compared
as any number.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness.daemon import Daemon

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
COLUMNS = 100


@dataclass
class Example:
    """A fenced block: a script, or commands each with the output that the README shows."""

    language: str
    text: str
    start: int
    end: int
    commands: list[tuple[str, str]] = field(default_factory=list)


def _examples(text: str) -> Iterator[Example]:
    for match in FENCE.finditer(text):
        example = Example(match[1], match[2], match.start(2), match.end(2))
        if example.language == "console":
            for part in re.split(r"^\$ ", match[2], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                example.commands.append((command, output))
        yield example


def _run_on_a_terminal(command: str, directory: Path, environ: dict[str, str]) -> str:
    """What a person at a terminal of COLUMNS columns would see."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with subprocess.Popen(["bash", "-c", command], cwd=directory, env=environ, stdin=theirs, stdout=theirs,
                          stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the last holder of the other end is gone
                break
            if not chunk:
                break
            seen += chunk
        process.wait(30)
    os.close(ours)
    lines = ESCAPES.sub("", seen.decode()).replace("\r", "").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _plain(output: str, directory: Path) -> str:
    """What must be equal: everything but numbers, where the example ran, and whether the log was folded in yet."""
    shown = output.strip().replace(str(directory), "DIR").replace("/home/me/nexusd", "DIR")
    shown = re.sub(r" \+ [\d.]+ \wB WAL", "", shown)
    return re.sub(r"[\s─━]+", " ", NUMBERS.sub("N", re.sub(r"\b(\d+ \w+ ago|just now)\b", "WHEN", shown)))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    with Daemon(tmp_path / "data").start():
        yield tmp_path


@pytest.mark.timeout(180)
def test_every_example_runs_and_prints_what_the_readme_shows(directory: Path, request: pytest.FixtureRequest) -> None:
    update = request.config.getoption("--update-readme")
    environ = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm", "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    environ.pop("COLUMNS", None)
    text = README.read_text()
    pieces, written = [], 0
    for example in _examples(text):
        if example.language == "python":
            ran = subprocess.run([sys.executable, "-W", "error", "-c", example.text], cwd=directory, check=False,
                                 capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0, ran.stderr
            continue
        block = ""
        for command, shown in example.commands:
            if "socat" in command and shutil.which("socat") is None:
                pytest.skip("socat is missing; the README shows the raw socket with it")
            if command.startswith("export PATH="):  # done above
                block += f"$ {command}\n"
                continue
            printed = _run_on_a_terminal(command, directory, environ)
            if not update:
                assert _plain(printed, directory) == _plain(shown, directory), command
            shown_text = printed.replace(str(directory), "/home/me/nexusd")
            block += f"$ {command}\n{shown_text}\n" if shown_text else f"$ {command}\n"
        pieces += [text[written : example.start], block]
        written = example.end
    if update:
        README.write_text("".join(pieces) + text[written:])
