"""The soak in its short form: seconds in place of an hour; the long one is `scripts/soak`."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.household import select
from harness.soak import Sample, Soak, forget_replies, log_mb, memory_mb, rise_of

from nexusd.client import Client

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
    assert all(sample.daemon_mb > 10 and sample.mapped_mb > 1 for sample in soak.samples)
    assert soak.rises().keys() == {"daemon_mb", "children_mb", "mapped_mb", "descriptors", "log_mb"}


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_an_hour_is_flat(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "data", minutes=60, restart_every=5, seed=1, clients=4, rate=40)
    soak.run()
    print("\n".join(soak.report()))
    assert soak.flat


def test_a_day_that_is_over_takes_its_kept_replies_and_nothing_else(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", program=[DRIVER])
    with daemon.start():
        with Client(daemon.socket_path) as client:
            project = client.call("projects.create", name="p")
        database = daemon.data / "nexus.db"
        assert select(database, "SELECT count(*) FROM idempotency") == [(1,)]
        assert daemon.terminate() == 0
    forget_replies(database)
    assert select(database, "SELECT count(*) FROM idempotency") == [(0,)]
    with daemon.start(), Client(daemon.socket_path) as client:
        assert client.call("projects.get", id=project["id"])["name"] == "p"


def soak_of(tmp_path: Path, samples: Iterable[Sample]) -> Soak:
    """A run that has seen these."""
    soak = Soak(tmp_path / "data", minutes=1, restart_every=1, seed=1, clients=1, rate=1)
    soak.samples += samples
    return soak


def seen(n: int, **figures: Any) -> Sample:
    """The n-th minute of an hour with a restart every ten minutes; nothing grows but what is given."""
    sample = Sample(
        at_s=n * 60, life=n // 10, age=n % 10 / 10, daemon_mb=50.0, children_mb=220.0,
        mapped_mb=60.0 if n < 10 else 260.0, descriptors=40, wal_mb=1.0, database_mb=1.0,
        log_mb=64.0,
    )  # fmt: skip
    return replace(sample, **figures)


def test_what_is_mapped_more_from_the_first_restart_on_is_no_growth(tmp_path: Path) -> None:
    soak = soak_of(tmp_path, [seen(n) for n in range(60)])
    assert soak.rises()["mapped_mb"] == (260.0, 0.0, True)
    assert soak.flat
    # also where the first life is most of what counts
    short = soak_of(tmp_path / "short", [seen(n, life=n // 30, mapped_mb=60.0 + n // 30 * 200) for n in range(60)])
    assert short.flat


@pytest.mark.parametrize(
    ("name", "leaks"),
    [
        ("daemon_mb", lambda n: 50.0 + n),
        ("children_mb", lambda n: 220.0 + n / 2),
        ("children_mb", lambda n: 220.0 + n // 20 * 20),  # kept over from restart to restart
        ("mapped_mb", lambda n: 260.0 + n),
        ("descriptors", lambda n: 40 + n // 5),
        ("log_mb", lambda n: 64.0 + n // 10 * 32),
    ],
)
def test_what_grows_is_not_called_flat(tmp_path: Path, name: str, leaks: Callable[[int], float]) -> None:
    soak = soak_of(tmp_path, [seen(n, **{name: leaks(n)}) for n in range(60)])
    assert [grown for grown, (_, _, flat) in soak.rises().items() if not flat] == [name]
    assert not soak.flat


def test_memory_that_a_process_allocates_is_told_from_files_that_it_maps(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(32 * 2**20))
    own_mb, mapped_mb = memory_mb(os.getpid())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0  # each page is looked at
        own_then_mb, mapped_then_mb = memory_mb(os.getpid())
        assert mapped_then_mb - mapped_mb > 30
        assert own_then_mb - own_mb < 8
    allocated = bytearray(b"x") * (32 * 2**20)
    own_then_mb, mapped_then_mb = memory_mb(os.getpid())
    assert own_then_mb - own_mb > 30
    assert mapped_then_mb - mapped_mb < 8
    assert len(allocated) == 32 * 2**20
    assert memory_mb(2**22 + 1) == (0.0, 0.0)


def test_a_line_through_one_moment_does_not_rise() -> None:
    assert rise_of([1.0], [5.0]) == 0.0


def test_the_log_of_the_index_is_told_by_its_size_and_not_by_what_of_it_is_mapped(tmp_path: Path) -> None:
    log = tmp_path / "episodes-1" / "shard-2" / "wal" / "open-1"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(32 * 2**20))
    (log.parent / "closed-1").write_bytes(bytes(2**20))
    _, mapped_mb = memory_mb(os.getpid())
    with log.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert memory_mb(os.getpid())[1] - mapped_mb < 8
    assert log_mb(tmp_path) == 33
    assert log_mb(tmp_path / "nothing") == 0
