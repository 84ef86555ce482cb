"""Whatever is called in whatever order: rows, full text, index, files and replies are what was promised.

Random walks over every method that changes something, through the dispatcher, beside a model in plain dictionaries.
The seed is the test's parameter, so that every failure repeats.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.index import FakeIndex
from harness.comparison import Comparison
from harness.methods import real_table
from harness.walk import HAPPENINGS, NOT_WALKED, WEIGHTS, Walk

pytestmark = pytest.mark.anyio

STEPS = 200
LOOK_EVERY = 25     # steps between two looks at all that can be read
LONG_STEPS = 600


async def look(walk: Walk) -> None:
    """Compare everything; where nothing is owed to the index any more, the index too."""
    comparison = Comparison(walk.daemon, walk.model, walk.embedder, walk.chance, walk.clock)
    await comparison.everything()
    if not walk.model.outage and walk.chance.random() < 0.5:
        await walk.drain()
        await comparison.delivered()


async def walk_far(data: Path, seed: int, steps: int, index: FakeIndex | None) -> None:
    walk = Walk(data, seed, index)
    async with walk:
        try:
            for number in range(1, steps + 1):
                await walk.step()
                if number % LOOK_EVERY == 0:
                    await look(walk)
            await walk.restart()
            await walk.drain()
            last = Comparison(walk.daemon, walk.model, walk.embedder, walk.chance, walk.clock)
            await last.everything()
            await last.delivered()
        except BaseException as error:
            error.add_note(f"seed {seed}, step {len(walk.done)}: {', '.join(walk.done[-12:])}")
            raise


def test_every_method_that_changes_something_has_its_step() -> None:
    mutating = {method.name for method in real_table() if method.mutates}
    assert set(WEIGHTS) | NOT_WALKED == mutating
    assert all(weight > 0 for weight in (*WEIGHTS.values(), *HAPPENINGS.values()))


@pytest.mark.parametrize("seed", range(3))
async def test_everything_is_as_promised_after_a_random_walk(tmp_path: Path, seed: int) -> None:
    await walk_far(tmp_path / "data", seed, STEPS, FakeIndex())


async def test_everything_is_as_promised_with_the_embedded_index(tmp_path: Path) -> None:
    await walk_far(tmp_path / "data", 1000, STEPS, None)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 160))
async def test_everything_is_as_promised_after_many_long_walks(tmp_path: Path, seed: int) -> None:
    await walk_far(tmp_path / "data", seed, LONG_STEPS, FakeIndex() if seed % 10 else None)
