"""The kinds of fault: how each is brought about while a load runs, up to the next start of the daemon.

Owns what is done to the daemon, its disk and its children. Whether it survived is the lane's to examine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness.torture.disks import Disk, LoopExt4, Mounted, SmallTmpfs, why_no_loop, why_no_mounts
from harness.torture.lane import Lane, Refused
from harness.torture.load import Load
from harness.torture.points import deliver, reachable, trigger_of
from harness.torture.spawning import Ended

MOST = 40  # acknowledgements before the fault


def kill(lane: Lane, _number: int) -> str:
    """kill -9 after so many acknowledgements and a moment; now and then also in the middle of the next start."""
    chance = lane.chance
    with lane.load() as load:
        _work(lane, load)
        _linger(load, chance.random() * 0.004)
        if chance.random() < 0.3 and (children := lane.children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
            _linger(load, chance.random() * 0.01)
        lane.kill()
        load.hear_out()
    what = "at work"
    if chance.random() < 0.2:
        lane.launch()
        time.sleep(chance.random() * 1.2 * lane.start_s)  # a moment of a start is a matter of time, not of events
        lane.kill()
        what = "at work and in the next start"
    lane.start()
    return what


def failpoint(lane: Lane, number: int) -> str:
    """kill -9 at a named step, each in its turn."""
    points = reachable()
    point = points[number % len(points)]
    trigger = trigger_of(point)
    assert trigger is not None
    lane.call("torture.arm", killAt=point)
    lane.changes.spices = ("poison", "deadly") if trigger is deliver else ()
    refused = ""
    try:
        with lane.load() as load:
            ends_s = time.monotonic() + 20
            while not load.ended and time.monotonic() < ends_s:
                try:
                    asked, answer = trigger(), None
                    _pump_some(load, 8)
                    while time.monotonic() < ends_s:  # nothing else is written now: what is long must come to its end
                        method, params = asked.send(answer)
                        answer = lane.call(method, **params)
                except Refused as error:  # it is busy with the one before
                    refused = str(error)
                except (OSError, StopIteration):  # it is gone; or on its way there still
                    pass
                _linger(load, 0.02)
            if not load.ended:
                lane.kill()
                load.hear_out()
                raise Ended(f"it never came to {point} {refused}")
            load.hear_out()
    finally:
        lane.changes.spices = ()
    if (code := lane.wait()) != -signal.SIGKILL:
        raise Ended(f"it ended with {code} before {point}\n{lane.log_tail()}")
    lane.kill()
    lane.start()
    return point


def full(lane: Lane, _number: int) -> str:
    """The disk fills up under the load. Then there is room again: with or without a kill before."""
    chance, disk = lane.chance, lane.disk
    assert isinstance(disk, Mounted)
    what = chance.choice(("room again", "room again", "killed while full", "killed and started while full"))
    with lane.load() as load:
        _work(lane, load)
        disk.fill(chance.choice((0, 0, 4096, 65536, 600_000)))
        refusals = 3 + chance.randrange(20)
        if not load.pump(lambda: load.refusals.count("disk_full") > refusals) and not load.ended:
            raise Ended("the disk does not become full")
        if what != "room again":
            lane.kill()
            load.hear_out()
        elif load.ended:
            code = lane.wait()
            raise Ended(f"the daemon ended with {code} on a full disk\n{lane.log_tail()}")
        else:
            disk.empty()
            before = load.acknowledged
            if not load.pump(lambda: load.acknowledged > before + 5, seconds=20):
                raise Ended(f"there is room again, and nothing is written\n{lane.log_tail()}")
            lane.kill()
            load.hear_out()
    if what == "killed and started while full":
        lane.launch()
        with contextlib.suppress(Ended):  # it may say that it cannot start now, or start and wait for room
            lane.wait(chance.random())
        lane.kill()
    disk.empty()
    lane.start()
    return what


def ioerror(lane: Lane, _number: int) -> str:
    """A write to the database fails, or finds no room, in SQLite's own view of the disk."""
    lane.kill()
    lane.start({"TORTURE_DISK": "1"})
    fault = lane.chance.choice(("write", "write", "full"))
    with lane.load() as load:
        _work(lane, load)
        lane.call("torture.arm", fault=fault, after=lane.chance.randrange(60))
        load.faulty = True
        if fault == "full":
            load.pump(lambda: load.refusals.count("disk_full") > 10, seconds=10)
            lane.call("torture.arm")
            before = load.acknowledged
            if not load.pump(lambda: load.acknowledged > before + 5, seconds=20):
                raise Ended(f"there is room again, and nothing is written\n{lane.log_tail()}")
            lane.kill()
        else:
            _until_it_ends(lane, load)
        load.hear_out()
    lane.kill()
    lane.start()
    return fault


def fsync(lane: Lane, _number: int) -> str:
    """fsync fails: in SQLite's own view of the disk, or, with strace, in the kernel's answer."""
    chance = lane.chance
    by_strace = why_no_strace() is None and chance.random() < 0.3
    lane.kill()
    lane.start({} if by_strace else {"TORTURE_DISK": "1"})
    with lane.load() as load:
        _work(lane, load)
        if by_strace:
            tracer = _inject(lane, chance.randrange(1, 30))
        else:
            lane.call("torture.arm", fault="sync", after=chance.randrange(30))
        load.faulty = True
        _until_it_ends(lane, load)
        load.hear_out()
    lane.kill()
    if by_strace:
        tracer.terminate()
        tracer.communicate(timeout=10)
    lane.start()
    return "strace" if by_strace else "shim"


def power(lane: Lane, _number: int) -> str:
    """The power is cut: what was not synced is gone.

    A sync under way in that moment may be answered "done" by ext4 and be lost all the same, which no program on a real
    machine lives to see. So the daemon is either frozen just before, and all that it sent by then counts; or it runs
    on, and what it sends after the cut does not.
    """
    chance, disk = lane.chance, lane.disk
    assert isinstance(disk, LoopExt4)
    frozen = chance.random() < 0.5
    if chance.random() < 0.15:  # the log goes back into the database while nothing is written: begin with an empty one
        _until_empty(lane.data / "nexus.db-wal")
    with lane.load() as load:
        _work(lane, load)
        _linger(load, chance.random() * 0.004)
        if frozen:
            lane.freeze()
        else:
            load.too_late = True
        disk.cut_power()
        load.faulty = True
        if not frozen:
            _linger(load, chance.random() * 0.03)
        lane.kill()
        load.hear_out()
    disk.unmount()
    disk.mount()
    lane.start()
    return "frozen and cut" if frozen else "cut"


# ---- what they have in common


def _work(lane: Lane, load: Load) -> None:
    """So many acknowledgements."""
    _pump_some(load, lane.chance.randrange(1, MOST))
    if load.ended:
        raise Ended(f"the daemon ended before any fault\n{lane.log_tail()}")


def _pump_some(load: Load, count: int) -> None:
    wanted = load.acknowledged + count
    load.pump(lambda: load.acknowledged >= wanted)


def _linger(load: Load, seconds: float) -> None:
    ends_s = time.monotonic() + seconds
    load.pump(lambda: time.monotonic() >= ends_s)


def _until_empty(wal: Path) -> None:
    ends_s = time.monotonic() + 10
    while wal.exists() and wal.stat().st_size:
        if time.monotonic() > ends_s:
            raise Ended("the write-ahead log is not cut while nothing is written")
        time.sleep(0.02)


def _until_it_ends(lane: Lane, load: Load) -> None:
    """Until the daemon has drawn the consequence: what the disk holds, only a start can tell."""
    load.pump(lambda: load.ended, seconds=20)
    if not load.ended:
        lane.kill()
        load.hear_out()
        raise Ended(f"the disk fails, and the daemon goes on\n{lane.log_tail()}")
    if (code := lane.wait()) != 70:
        raise Ended(f"the disk failed, and the daemon ended with {code}\n{lane.log_tail()}")


def _inject(lane: Lane, when: int) -> subprocess.Popen[bytes]:
    """From now on the daemon's syncs fail, from the so-manieth of a thread on."""
    rule = f"inject=fsync,fdatasync:error=EIO:when={when}+"
    command = ["strace", "-f", "-p", str(lane.pid), "-o", os.devnull, "-e", "trace=fsync,fdatasync", "-e", rule]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    while b"attached" not in tracer.stderr.readline():
        if tracer.poll() is not None:
            raise Ended("strace cannot attach to the daemon")
    return tracer


def why_no_strace() -> str | None:
    """Why syncs cannot be made to fail in the kernel's answer; None if they can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True)
    return None if tried.returncode == 0 else "strace may not trace here"


Trial = Callable[[Lane, int], str]
KINDS: dict[str, Trial] = {
    "kill": kill, "failpoint": failpoint, "full": full, "ioerror": ioerror, "fsync": fsync, "power": power,
}  # fmt: skip


def disk_for(kind: str, path: Path) -> Disk:
    """The disk that a lane of this kind lies on."""
    if kind == "power":
        return LoopExt4(path)
    if kind == "full":
        return SmallTmpfs(path)
    return Disk(path)


def why_not(kind: str, scratch: Path) -> str | None:
    """Why trials of this kind cannot be had here; None if they can."""
    if kind == "power":
        return why_no_loop(scratch)
    return why_no_mounts(scratch) if kind == "full" else None
