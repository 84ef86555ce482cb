"""The campaign: trial after trial from one seed, each noted before the next begins, and a table of them all.

Owns the order of trials, when a lane is given up for a fresh one, the notes that a later run resumes from, and what is
kept of a trial that found something.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.torture.lane import Lane
from harness.torture.spawning import Spawner
from harness.torture.trials import KINDS, disk_for, why_not

DRIVER = "harness.torture.driver"
GENERATION = 40  # trials of one directory: by then its rows take longer to examine than the fault took
SAY_EVERY = 250  # trials
EMBEDDED_SHARE = 0.15  # of the lanes have the embedded index, whose start takes most of a second


@dataclass
class Noted:
    """One trial, as it stands in the notes."""

    kind: str
    number: int
    index: str
    what: str
    sent: int
    acknowledged: int
    stored: int
    seconds: float
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    failed: str = ""

    @property
    def clean(self) -> bool:
        """Whether all was as promised."""
        return not (self.lost or self.wrong or self.disagreements or self.unsound or self.failed)


class Campaign:
    """Trials of these kinds in this directory, which holds the notes of those that were done."""

    def __init__(
        self, directory: Path, *, seed: int, kinds: Sequence[str], trials: int,
        say: Callable[[str], None] = print, embedded_share: float = EMBEDDED_SHARE,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.seed = seed
        self.trials = trials
        self.skipped: dict[str, str] = {}
        self.noted: list[Noted] = []
        self._embedded_share = embedded_share
        self._say = say
        self._notes = directory / "trials.jsonl"
        self._lanes: dict[str, Lane] = {}
        self._serial = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._scratch = directory / "scratch"
        if self._scratch.exists():  # of a run that was cut off; its mounts went with its namespace
            shutil.rmtree(self._scratch)
        self._scratch.mkdir()
        self._resume()
        for kind in kinds:
            if (reason := why_not(kind, self._scratch)) is not None:
                self.skipped[kind] = reason
        self._kinds = [kind for kind in kinds if kind not in self.skipped]

    def _resume(self) -> None:
        if not self._notes.exists():
            self._note({"seed": self.seed})
            return
        first, *rest = self._notes.read_text().splitlines()
        self.seed = json.loads(first)["seed"]
        self.noted = [Noted(**json.loads(line)) for line in rest]

    def _note(self, what: dict[str, Any]) -> None:
        with self._notes.open("a") as notes:
            notes.write(json.dumps(what) + "\n")

    def run(self) -> bool:
        """Do what is not done yet; whether all of it was clean."""
        self._say(f"seed {self.seed}, {self.trials} trials of each of {', '.join(self._kinds)}; notes in {self._notes}")
        spawner = Spawner(DRIVER, self._scratch / "driver.log")
        try:
            for kind, number in self.left():
                self._one(spawner, kind, number)
                if len(self.noted) % SAY_EVERY == 0:
                    self._say(self.table())
        finally:
            for lane in self._lanes.values():
                lane.close()
            spawner.close()
        return all(noted.clean for noted in self.noted)

    def left(self) -> list[tuple[str, int]]:
        """What is not done yet: the kinds in turns."""
        done = {(noted.kind, noted.number) for noted in self.noted}
        trials = ((kind, number) for number in range(self.trials) for kind in self._kinds)
        return [trial for trial in trials if trial not in done]

    def _one(self, spawner: Spawner, kind: str, number: int) -> None:
        began_s = time.monotonic()
        lane = self._lane(spawner, kind, number)
        before = lane.ledger.counts.copy()
        noted = Noted(kind, number, lane.index, "", 0, 0, 0, 0.0)
        try:
            noted.what = KINDS[kind](lane, number)
            report = lane.examine()
            noted.lost, noted.wrong = report.lost, report.wrong
            noted.disagreements, noted.unsound = report.index, report.store
        except (AssertionError, OSError) as error:
            noted.failed = f"{type(error).__name__}: {error}"
        counts = lane.ledger.counts
        noted.sent, noted.acknowledged, noted.stored = (
            counts[name] - before[name] for name in ("sent", "acknowledged", "stored")
        )
        lane.trials += 1
        noted.seconds = round(time.monotonic() - began_s, 3)
        self.noted.append(noted)
        self._note(asdict(noted))
        if not noted.clean:
            self._say(f"seed {self.seed}, {kind} {number} ({noted.what}): {noted}")
            self._keep(lane, f"{kind}-{number}")
        if not noted.clean or lane.trials >= GENERATION:
            self._lanes.pop(kind).close()

    def _lane(self, spawner: Spawner, kind: str, number: int) -> Lane:
        """The lane of this kind; what is random in it comes from the seed and the number of the trial."""
        lane = self._lanes.get(kind)
        chance = random.Random(f"{self.seed} {kind} {number}")
        if lane is None:
            self._serial += 1
            name = f"{kind}{self._serial}"
            disk = disk_for(kind, self._scratch / name)
            index = "embedded" if chance.random() < self._embedded_share else "held"
            lane = self._lanes[kind] = Lane(spawner, self._scratch, disk, chance, index=index, name=name)
        lane.chance.setstate(chance.getstate())
        return lane

    def _keep(self, lane: Lane, name: str) -> None:
        """What somebody needs who looks for the cause."""
        if not lane.ended():
            lane.kill()
        kept = self.directory / f"failed-{name}"
        shutil.copytree(lane.data, kept / "data", ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)
        shutil.copy(lane.log, kept / "daemon.log")
        told = [f"{thing.table} {thing.tag} {thing.id} {thing.possible}" for thing in lane.ledger.things.values()]
        (kept / "ledger.txt").write_text("\n".join(told))

    def table(self) -> str:
        """What was tried and what was found, a line a kind."""
        head = ("kind", "trials", "embedded", "sent", "acknowledged", "stored", "lost", "wrong", "index", "SQLite",
                "failed", "seconds")
        lines = [head]
        for kind in KINDS:
            noted = [one for one in self.noted if one.kind == kind]
            if noted:
                lines.append((
                    kind, str(len(noted)), str(sum(one.index == "embedded" for one in noted)),
                    *(str(sum(getattr(one, name) for one in noted)) for name in ("sent", "acknowledged", "stored")),
                    *(str(sum(len(getattr(one, name)) for one in noted))
                      for name in ("lost", "wrong", "disagreements", "unsound")),
                    str(sum(bool(one.failed) for one in noted)), f"{sum(one.seconds for one in noted):.0f}",
                ))
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        drawn = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        drawn += [f"{kind}: skipped, {reason}" for kind, reason in self.skipped.items()]
        return "\n".join(drawn)
