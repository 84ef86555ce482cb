"""The durability campaign in its short form: a few trials of each kind; the long one is `scripts/torture`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness.torture.campaign import Campaign
from harness.torture.ledger import Change, Ledger
from harness.torture.points import fail_points, trigger_of
from harness.torture.trials import KINDS

TESTS = Path(__file__).parent.parent
OF_THE_SHARD_PROCESS = "nexusd.index.rebuild"  # in a process of its own, see integration/index_faults
OF_A_RESTORE = "nexusd.backup.restoring"  # goes back in time on purpose; its own tests end it at each step
TRIALS = 2  # of each kind


def run(directory: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The campaign, in a mount namespace of its own where that is allowed. The settings are the daemon's."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 and shutil.which("unshare") else []
    return subprocess.run(
        [*own, sys.executable, "-m", "harness.torture", "--resume", str(directory), *arguments],
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        cwd=directory.parent, check=False, capture_output=True, text=True,
    )


def notes(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()[1:]]


def test_nothing_acknowledged_is_lost_and_everything_agrees(tmp_path: Path) -> None:
    _trials(tmp_path / "notes", list(KINDS), TRIALS, seed=7)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("kind", "trials"), [
    ("kill", 3000), ("failpoint", 300), ("full", 100), ("ioerror", 200), ("fsync", 200), ("power", 500),
])
def test_nothing_acknowledged_is_lost_in_the_long_form(tmp_path: Path, kind: str, trials: int) -> None:
    _trials(tmp_path / "notes", [kind], trials, seed=random.SystemRandom().randrange(10**6))


def _trials(directory: Path, kinds: list[str], trials: int, *, seed: int) -> None:
    ran = run(directory, "--seed", str(seed), "--kind", ",".join(kinds), "--trials", str(trials))
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    skipped = [line for line in ran.stdout.splitlines() if ": skipped, " in line]
    assert len(notes(directory)) == trials * (len(kinds) - len(skipped))
    assert all(noted["acknowledged"] for noted in notes(directory)), "nothing was tried"
    if skipped:
        pytest.skip("; ".join(skipped))


def test_a_daemon_that_does_not_sync_each_commit_is_found_out(tmp_path: Path) -> None:
    arguments = ("--seed", "1", "--kind", "power", "--trials", "2", "--embedded-share", "0")
    ran = run(tmp_path / "notes", *arguments, NEXUSD_STORAGE__SYNCHRONOUS="NORMAL")
    if ": skipped, " in ran.stdout:
        pytest.skip(ran.stdout.splitlines()[-1])
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert any(noted["lost"] for noted in notes(tmp_path / "notes"))
    assert list((tmp_path / "notes").glob("failed-power-*/ledger.txt")), "what somebody needs who looks for the cause"


def test_a_campaign_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    kinds = ["kill", "failpoint"]
    directory = tmp_path / "notes"
    before = Campaign(directory, seed=3, kinds=kinds, trials=4, say=lambda _: None)
    with (directory / "trials.jsonl").open("a") as written:
        written.write(json.dumps(_noted("kill", 0)) + "\n")
    after = Campaign(directory, seed=99, kinds=kinds, trials=4, say=lambda _: None)
    assert (before.noted, after.seed) == ([], 3)
    assert [(one.kind, one.number) for one in after.noted] == [("kill", 0)]
    assert after.left() == [
        ("failpoint", 0), ("kill", 1), ("failpoint", 1), ("kill", 2), ("failpoint", 2), ("kill", 3), ("failpoint", 3),
    ]


def _noted(kind: str, number: int) -> dict[str, object]:
    return {"kind": kind, "number": number, "index": "held", "what": "", "sent": 1, "acknowledged": 1, "stored": 1,
            "seconds": 1.0}


def test_the_campaign_knows_the_way_to_every_step_that_a_part_of_the_daemon_tells() -> None:
    points = fail_points()
    assert "nexusd.sync.worker:claimed" in points
    apart = {point.partition(":")[0] for point in points if trigger_of(point) is None}
    assert apart <= {OF_THE_SHARD_PROCESS, OF_A_RESTORE}


def test_the_cut_takes_what_was_not_synced_and_leaves_what_was(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from harness.torture.disks import LoopExt4
disk = LoopExt4(Path({str(tmp_path / "disk")!r}))
disk.attach()
for name in ("synced", "written"):
    with (disk.path / name).open("wb") as file:
        file.write(b"x" * 5000)
        file.flush()
        if name == "synced":
            os.fsync(file.fileno())
disk.cut_power()
disk.unmount()
disk.mount()
left = {{path.name: path.stat().st_size for path in disk.path.iterdir() if path.is_file()}}
disk.detach()
print(left)
"""
    if os.geteuid() == 0 and (reason := _why_no_loop_of_its_own(tmp_path)) is not None:
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("needs root to mount file systems")
    ran = _alone(script)
    assert ran.stdout.strip() in ("{'synced': 5000}", "{'synced': 5000, 'written': 0}"), ran.stderr


def _why_no_loop_of_its_own(tmp_path: Path) -> str | None:
    ran = _alone(f"from pathlib import Path\nfrom harness.torture.disks import why_no_loop\n"
                 f"print(why_no_loop(Path({str(tmp_path)!r})) or '')")
    return ran.stdout.strip() or None


def _alone(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script], check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )


def test_the_ledger_finds_what_is_lost_what_was_done_twice_and_what_nobody_sent() -> None:
    ledger = Ledger()
    kept, lost, open_ = (ledger.new("episodes", tag) for tag in ("kept", "lost", "open"))
    for thing in (kept, lost, open_):
        ledger.send(change := Change("episodes.create", {}, None, [(thing, ("a", 1))]))
        if thing is open_:
            ledger.doubt(change)
        else:
            ledger.acknowledge(change, {"id": 1 if thing is kept else 2})
    found = ledger.compare({("episodes", "kept"): [(1, ("a", 1)), (9, ("a", 1))], ("episodes", "alien"): [(8, None)]})
    assert len(found.lost) == 1
    assert "lost" in found.lost[0]
    assert len(found.wrong) == 2
    assert (ledger.counts["sent"], ledger.counts["acknowledged"], ledger.counts["stored"]) == (3, 2, 2)
    assert open_.state is None


def test_the_ledger_finds_a_delete_that_came_back_and_an_update_that_did_not_stay() -> None:
    ledger = Ledger()
    for tag, after in (("deleted", None), ("updated", ("new", 2))):
        thing = ledger.new("episodes", tag)
        thing.possible = {("old", 1)}
        ledger.send(change := Change("episodes.x", {}, None, [(thing, after)]))
        ledger.acknowledge(change, {"id": 1})
    rows = {("episodes", tag): [(1, ("old", 1))] for tag in ("deleted", "updated")}
    assert len(ledger.compare(rows).lost) == 2
