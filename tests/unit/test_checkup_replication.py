"""What the doctor says of a replication: by the settings, who has the database open, and what Litestream has kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nexusd import checkup_replication
from nexusd.checkup_replication import check_replication
from nexusd.config import Settings, load_settings


class Beside:
    """A database, and the traces of a Litestream."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = data / "nexus.db"
        self.copies = data / ".nexus.db-litestream" / "ltx" / "0"
        self.holders: list[int] = []
        monkeypatch.setattr(checkup_replication, "other_holders", {self.database: self.holders}.__getitem__)

    def copied(self, at_s: float) -> None:
        self.copies.mkdir(parents=True, exist_ok=True)
        path = self.copies / f"{at_s:.0f}.ltx"
        path.touch()
        os.utime(path, (at_s, at_s))

    def written(self, at_s: float) -> None:
        wal = self.database.with_name("nexus.db-wal")
        wal.touch()
        os.utime(wal, (at_s, at_s))


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beside:
    return Beside(tmp_path, monkeypatch)


def settings(data: Path, **storage: str) -> Settings:
    environ = {f"NEXUSD_STORAGE__{name}": value for name, value in storage.items()}
    return load_settings(config=None, data=data, environ=environ)


def test_without_it_nothing_is_amiss(beside: Beside, tmp_path: Path) -> None:
    assert check_replication(settings(tmp_path)).state == "ok"
    beside.holders.append(1)    # somebody's shell
    assert check_replication(settings(tmp_path)).state == "ok"
    beside.holders.clear()
    beside.copied(1000)         # a replication that was given up
    assert check_replication(settings(tmp_path)).state == "ok"


def test_where_the_settings_count_on_it_it_must_be_there_and_keep_up(beside: Beside, tmp_path: Path) -> None:
    held = settings(tmp_path, CHECKPOINTS="litestream")
    beside.copied(1000)
    beside.copied(2000)
    beside.written(2059)
    found = check_replication(held)
    assert (found.state, "nothing is replicated" in found.says) == ("problem", True)
    beside.holders.append(1)
    assert check_replication(held).state == "ok"
    beside.written(2200)
    found = check_replication(held)
    assert (found.state, "not copied what was written for 3 min" in found.says) == ("problem", True)


def test_one_that_the_settings_do_not_know_of_is_told(beside: Beside, tmp_path: Path) -> None:
    beside.copied(1000)
    beside.holders.append(1)
    found = check_replication(settings(tmp_path))
    assert (found.state, "storage.checkpoints: litestream" in (found.advice or "")) == ("warning", True)
    found = check_replication(settings(tmp_path, SECURE_DELETE="true"))
    assert (found.state, "what is deleted stays" in found.says) == ("problem", True)
