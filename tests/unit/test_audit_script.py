"""scripts/audit tells what there is to tell, in a line where that is nothing, and never fails a check."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FOUND = """\
Found 1 known vulnerability in 1 package
Name  Version ID            Fix Versions
----- ------- ------------- ------------
kettle 1.0    PYSEC-2026-1  1.1"""
SKIPPED = "kettle Dependency not found on PyPI and could not be audited: kettle (1.0)"
NOTHING = "audit: nothing is known against the packages that are installed; "


def program(path: Path, text: str, *, code: int) -> None:
    """A program that says this and ends so."""
    path.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{text}\nEND\nexit {code}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("reached", "audited", "told"),
    [
        (("", 0), ("No known vulnerabilities found", 0), NOTHING + "0 could not be looked up"),
        (("", 0), (f"No known vulnerabilities found\n{SKIPPED}", 0), NOTHING + "1 could not be looked up"),
        (("", 0), (FOUND, 1), FOUND),
        (("", 0), ("Traceback\nNoRoute: to the host", 1), "audit: not done: NoRoute: to the host"),
        (("", 0), ("", 124), "audit: not done: no end within 20 s"),
        (("Traceback\nURLError: no such host", 1), (FOUND, 1),
         "audit: not done: https://pypi.org does not say: URLError: no such host"),
    ],
)  # fmt: skip
def test_what_is_told_of_the_packages(
    tmp_path: Path, reached: tuple[str, int], audited: tuple[str, int], told: str
) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "python", reached[0], code=reached[1])
    program(tmp_path / "bin" / "pip-audit", audited[0], code=audited[1])
    script = tmp_path / "audit"
    shutil.copy(PROJECT / "scripts" / "audit", script)
    (tmp_path / "environment").write_text(f"project={tmp_path}\nuse_dev_environment() {{ venv={tmp_path}; }}\n")
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", told)


def test_a_check_ends_with_it() -> None:
    assert (PROJECT / "scripts" / "check").read_text().rstrip().endswith('scripts/audit "$@"')
