"""The soak in its short form: seconds in place of an hour; the long one is `scripts/soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.soak import Sample, Soak, rise_of

DRIVER = str(Path(__file__).parent.parent / "harness" / "killing_daemon.py")  # its model is a fake: it starts at once


def test_a_mixed_load_with_a_restart_is_measured_and_nothing_goes_wrong(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "data", minutes=0.04, restart_every=0.02, seed=1, clients=2, rate=60, program=[DRIVER])
    soak.run()
    lines = soak.report()
    assert soak.restarts == 1
    assert not soak.errors, lines
    assert soak.events["episodes"] > 0
    assert len(soak.latencies) == 2
    assert all(sum(len(times) for times in one.values()) > 5 for one in soak.latencies)
    assert min(sample.descriptors for sample in soak.samples) > 5
    assert lines[-1].startswith("verdict: ")
    assert soak.rises().keys() == {"daemon_mb", "children_mb", "descriptors"}


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_an_hour_is_flat(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "data", minutes=60, restart_every=5, seed=1, clients=4, rate=40)
    soak.run()
    print("\n".join(soak.report()))
    assert soak.flat


def test_what_grows_is_not_called_flat(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "data", minutes=1, restart_every=1, seed=1, clients=1, rate=1)
    for n in range(60):
        soak.samples.append(Sample(n * 60, 0.5, 100.0, 300.0 + n, 40, 1.0, 1.0))
    assert soak.rises()["daemon_mb"] == (100.0, 0.0, True)
    mean, rise, flat = soak.rises()["children_mb"]
    assert (round(mean, 1), round(rise), flat) == (335.5, 47, False)
    assert not soak.flat
    assert rise_of([1.0], [5.0]) == 0.0
