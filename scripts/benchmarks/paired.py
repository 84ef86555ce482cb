"""scripts/bench compare BEFORE AFTER: two reports of `scripts/bench recall --json`, question by question.

Both asked the same questions, so that what counts is how much better or worse each one was answered: two means whose
intervals overlap may still differ for sure. Prints the difference of each figure in points, the 95% interval of it
over resamples of the questions (paired bootstrap), the share of the resamples in which AFTER is better (ties count
half), and the difference in each conversation, since questions of one conversation are not independent. Seeded: the
same reports give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESAMPLES = 2000
SEED = 5
SHOWN = 3       # questions that gained or lost most


@dataclass(frozen=True)
class Difference:
    """Of one figure, in points of a hundred. `low` and `high` hold 95% of the resamples, `better` is a share."""

    before: float
    after: float
    low: float
    high: float
    better: float

    @property
    def points(self) -> float:
        """How much more it is."""
        return self.after - self.before


def main(arguments: list[str]) -> None:
    """Compare two reports."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    before, after = (json.loads(path.read_text()) for path in (given.before, given.after))
    print("\n".join(compared(before, after, resamples=given.resamples, seed=given.seed)))


def compared(
    before: dict[str, Any], after: dict[str, Any], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[str]:
    """The comparison as lines.

    Raises:
        SystemExit: they are no reports, or not of the same questions.
    """
    check(before)
    check(after)
    if before["questions"] != after["questions"]:
        raise SystemExit("the reports are not of the same questions: nothing can be paired")
    conversations = [question["conversation"] for question in after["questions"]]
    lines = [f"{len(conversations)} questions, {resamples} resamples, seed {seed}"]
    for way, figures in after["ways"].items():
        if way not in before["ways"]:
            continue
        lines += ["", way]
        for name, values in figures["each"].items():
            old = before["ways"][way]["each"][name]
            found = difference(old, values, resamples=resamples, seed=seed)
            lines.append(
                f"  {name:16} {found.before:5.1f} -> {found.after:5.1f}  {found.points:+5.1f}  "
                f"95% {found.low:+.1f} to {found.high:+.1f}  better in {found.better:.1%}"
            )
            lines.append(f"  {'':16} by conversation: {_by_conversation(conversations, old, values)}")
        lines += _most_changed(after["questions"], before["ways"][way]["each"], figures["each"])
    return lines


def check(report: dict[str, Any]) -> None:
    """Raises:
        SystemExit: it is no report with an answer for each question.
    """
    try:
        length = len(report["questions"])
        whole = all(len(values) == length for way in report["ways"].values() for values in way["each"].values())
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise SystemExit("not a report of `scripts/bench recall --json`, or one without its questions")


def difference(before: Sequence[float], after: Sequence[float], *, resamples: int, seed: int) -> Difference:
    """Of the means, over resamples of the pairs."""
    changes = [100 * (new - old) for old, new in zip(before, after, strict=True)]
    chance = random.Random(seed)  # noqa: S311 - draws samples, guards nothing
    means = sorted(statistics.fmean(chance.choices(changes, k=len(changes))) for _ in range(resamples))
    won = sum((mean > 0) + (mean == 0) / 2 for mean in means)
    return Difference(
        before=100 * statistics.fmean(before),
        after=100 * statistics.fmean(after),
        low=means[int(0.025 * resamples)],
        high=means[-1 - int(0.025 * resamples)],
        better=won / resamples,
    )


def _by_conversation(conversations: Sequence[str], before: Sequence[float], after: Sequence[float]) -> str:
    changes: dict[str, list[float]] = {}
    for conversation, old, new in zip(conversations, before, after, strict=True):
        changes.setdefault(conversation, []).append(100 * (new - old))
    return ", ".join(f"{name} {statistics.fmean(of_it):+.1f}" for name, of_it in changes.items())


def _most_changed(
    questions: Sequence[dict[str, str]], before: dict[str, list[float]], after: dict[str, list[float]]
) -> list[str]:
    """The questions that gained or lost most, over all figures together."""
    changes = [
        sum(after[name][place] - before[name][place] for name in after) / len(after) for place in range(len(questions))
    ]
    most = sorted((place for place in range(len(questions)) if changes[place]), key=lambda n: -abs(changes[n]))
    return [
        f"  {100 * changes[place]:+6.1f}  {questions[place]['conversation']}: {questions[place]['question']}"
        for place in most[:SHOWN]
    ]
