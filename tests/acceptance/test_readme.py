"""The README's examples run, in its order, in one shell's worth of state, and show what they really print.

`pytest tests/acceptance/test_readme.py --update-readme` writes the output anew. Ids, limits and counts must be those of
the README; times, sizes, ports, process ids, scores and whatever has three digits may be any.
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

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
# What differs from run to run or from machine to machine, and what stands for it when two outputs are compared.
FUZZY = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b\d+ \w+ ago\b|\bjust now\b", "WHEN"),
        (r"\b\w{3} \d{4}-\d\d-\d\d \d\d:\d\d UTC\b", "WHEN"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "WHEN"),
        (r"\bup \d+ \w+", "up WHEN"),
        (r" \+ [\d.]+ [kMGT]?B WAL", ""),  # folded in by now, or not yet
        (r"\b[\d.]+ [kMGT]?B\b", "SIZE"),
        (r'"vector":"(pending|indexed)"', "VECTOR"),  # the index follows as it can
        (r"\bpid \d+", "pid N"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"-?\d+\.\d+(?:e-?\d+)?", "N"),  # a score, or a part of a version
        (r"\d{3,}", "N"),
        (r"[\s─━]+", " "),  # the width of a column, the length of a bar
    )
)
COLUMNS = 100


@dataclass
class Example:
    """A fenced block: a script, or commands each with the output that the README shows."""

    language: str
    text: str
    commands: list[tuple[str, str]] = field(default_factory=list)


def _examples(text: str) -> Iterator[Example]:
    for match in FENCE.finditer(text):
        example = Example(match[1], match[2])
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
    """What must be equal: everything but where the example ran and what is FUZZY."""
    shown = output.strip().replace(str(directory), "DIR").replace("/home/me/nexusd", "DIR")
    for pattern, replacement in FUZZY:
        shown = pattern.sub(replacement, shown)
    return shown


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a user is who has just cloned the project and started it. A short name: long paths would be folded."""
    directory = tmp_path_factory.mktemp("clone")
    shutil.copy(PROJECT / "config.yaml", directory)
    with Daemon(directory / "data").start():
        yield directory


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("episode #1", "episode #2", False),
        ("4 episodes · 2 sessions", "4 episodes · 3 sessions", False),
        ("18 requests · 3 refused", "19 requests · 3 refused", False),
        ('{"id":1,"limit":50}', '{"id":1,"limit":60}', False),
        ("42 of 60 tokens ───", "42 of 60 tokens ─", True),
        ("[Sat 2026-11-21 21:28 UTC]", "[Mon 2027-01-02 03:04 UTC]", True),
        ("#3  found  29  2.46  just now", "#3  found   29  -0.01  3 s ago", True),
        ("up 2 s", "up 3 min", True),
        ("4.1 kB + 516.1 kB WAL · schema 1", "512 B · schema 1", True),
        ("daemon 48.9 MB (pid 24050)", "daemon 51 MB (pid 7)", True),
        ('{"createdAt":1795296528447}', '{"createdAt":1795296528448}', True),
    ],
)
def test_a_wrong_count_is_seen_and_another_time_or_size_is_not(one: str, other: str, *, same: bool) -> None:
    assert (_plain(one, PROJECT) == _plain(other, PROJECT)) is same


@pytest.mark.timeout(180)
def test_every_example_runs_and_prints_what_the_readme_shows(directory: Path, request: pytest.FixtureRequest) -> None:
    update = request.config.getoption("--update-readme")
    environ = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm", "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    environ.pop("COLUMNS", None)
    printed_anew: list[tuple[str, str]] = []
    for example in _examples(README.read_text()):
        if example.language == "python":
            ran = subprocess.run([sys.executable, "-W", "error", "-c", example.text], cwd=directory, check=False,
                                 capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0, ran.stderr
            continue
        block = ""
        for command, shown in example.commands:
            for tool in ("socat", "curl"):
                if tool in command and shutil.which(tool) is None:
                    pytest.skip(f"{tool} is missing; the README shows the raw socket and HTTP with it")
            if command.startswith("export PATH="):  # done above
                block += f"$ {command}\n"
                continue
            printed = _run_on_a_terminal(command, directory, environ)
            if not update:
                assert _plain(printed, directory) == _plain(shown, directory), command
            shown_text = printed.replace(str(directory), "/home/me/nexusd")
            block += f"$ {command}\n{shown_text}\n" if shown_text else f"$ {command}\n"
        printed_anew.append((example.text, block))
    if update:
        text = README.read_text()  # again: somebody may be writing in it meanwhile
        for before, after in printed_anew:
            text = text.replace(f"```console\n{before}```", f"```console\n{after}```")
        README.write_text(text)
