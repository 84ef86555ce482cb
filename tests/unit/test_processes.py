"""What the system tells of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from nexusd.processes import cpu_seconds, resident_bytes


def test_our_own_memory_and_time_are_those_that_others_measure() -> None:
    measured = time.process_time()
    told = cpu_seconds(os.getpid())
    assert told is not None
    assert abs(told - measured) < 1.0
    held = resident_bytes(os.getpid())
    assert held is not None
    assert 1_000_000 < held < 10_000_000_000


def test_work_takes_time() -> None:
    before = cpu_seconds(os.getpid())
    assert before is not None
    until_s = time.process_time() + 0.2
    while time.process_time() < until_s:
        pass
    after = cpu_seconds(os.getpid())
    assert after is not None
    assert after > before


def test_a_name_with_brackets_and_spaces_shifts_no_field() -> None:
    program = "import sys; open('/proc/self/comm', 'w').write(') 1 2 3 ('); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        took = cpu_seconds(process.pid)
        assert took is not None
        assert 0 <= took < 30
        process.stdin.close()


def test_a_process_that_is_gone_has_no_figures() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert (resident_bytes(process.pid), cpu_seconds(process.pid)) == (None, None)
