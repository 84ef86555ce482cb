"""scripts/bench compare: two reports of recall, question by question, on made-up ones."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"


def load_module() -> ModuleType:
    """The script is no package."""
    spec = importlib.util.spec_from_file_location("paired", BENCHMARKS / "paired.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["paired"] = module      # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


paired = load_module()


def report(values: list[float], name: str = "R@10") -> dict[str, Any]:
    """Of questions that belong to two conversations in halves."""
    half = len(values) // 2
    questions = [{"conversation": "a" if n < half else "b", "question": f"what {n}?"} for n in range(len(values))]
    return {"questions": questions, "ways": {"hybrid": {"figures": {}, "each": {name: values}}}}


def answers(number: int, share: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [float(chance.random() < share) for _ in range(number)]


def test_a_small_gain_that_every_pair_shares_is_sure_where_the_means_alone_would_not_be() -> None:
    before = answers(200, 0.5, seed=1)
    after = [min(1.0, value + 0.03) if n % 2 else value for n, value in enumerate(before)]
    found = paired.difference(before, after, resamples=500, seed=1)
    assert found.low > 0
    assert found.better == 1.0
    assert found.low < found.points < found.high
    unpaired = answers(200, 0.5, seed=2)    # as good, of other questions
    assert paired.difference(before, unpaired, resamples=500, seed=1).low < 0


def test_the_interval_is_about_as_wide_as_the_spread_of_the_pairs_says() -> None:
    before = [0.0] * 400
    after = answers(400, 0.5, seed=3)
    found = paired.difference(before, after, resamples=2000, seed=3)
    expected = 2 * 196 * 0.5 / 400**0.5
    assert 0.85 * expected < found.high - found.low < 1.15 * expected


def test_equal_reports_differ_by_nothing_and_neither_is_better() -> None:
    values = answers(50, 0.7, seed=4)
    found = paired.difference(values, values, resamples=100, seed=4)
    assert (found.points, found.low, found.high, found.better) == (0, 0, 0, 0.5)


pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30)


@settings(max_examples=30)
@given(pairs=pairs, seed=st.integers(0, 2**32))
def test_the_other_way_round_is_the_same_with_its_sign_turned(pairs: list[tuple[float, float]], seed: int) -> None:
    before, after = (list(values) for values in zip(*pairs, strict=True))
    there = paired.difference(before, after, resamples=40, seed=seed)
    back = paired.difference(after, before, resamples=40, seed=seed)
    assert there.points == pytest.approx(-back.points)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.better == pytest.approx(1 - back.better)
    assert there == paired.difference(before, after, resamples=40, seed=seed)


def test_conversations_are_told_apart_and_the_questions_that_changed_most_are_named() -> None:
    before, after = report([1.0, 1.0, 0.5, 0.0]), report([1.0, 0.75, 1.0, 1.0])
    lines = paired.compared(before, after, resamples=100)
    assert lines[0] == "4 questions, 100 resamples, seed 5"
    assert lines[3].split()[:5] == ["R@10", "62.5", "->", "93.8", "+31.2"]
    assert lines[4].strip() == "by conversation: a -12.5, b +75.0"
    assert [line.split()[0] for line in lines[5:]] == ["+100.0", "+50.0", "-25.0"]
    assert lines[5].endswith("b: what 3?")


def test_ways_that_only_one_report_has_are_left_out() -> None:
    before, after = report([0.0, 1.0]), report([0.0, 1.0])
    after["ways"]["new"] = after["ways"]["hybrid"]
    assert "new" not in paired.compared(before, after, resamples=10)


@pytest.mark.parametrize(
    "wrong", [{}, [], {"questions": [], "ways": {"x": {"each": {"MRR": [1.0]}}}}, {"hybrid": {"R@5": 70.5}}]
)
def test_what_is_no_report_is_refused(wrong: Any) -> None:
    with pytest.raises(SystemExit, match="not a report"):
        paired.compared(wrong, report([1.0]))


def test_reports_of_other_questions_are_refused() -> None:
    other = report([1.0, 0.0])
    other["questions"][1]["question"] = "something else?"
    with pytest.raises(SystemExit, match="not of the same questions"):
        paired.compared(report([1.0, 0.0]), other)


def test_the_command_prints_the_same_as_its_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    for path, seed in zip(paths, (6, 7), strict=True):
        Path(path).write_text(json.dumps(report(answers(40, 0.6, seed))))
    arguments = [*paths, "--resamples", "100"]
    command = [sys.executable, str(BENCHMARKS), "compare", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    paired.main(arguments)
    assert printed == capsys.readouterr().out
    assert printed.startswith("40 questions, 100 resamples, seed 5\n\nhybrid\n  R@10")
