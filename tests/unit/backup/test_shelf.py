"""The directory of backups: what counts as one, what is kept, and what is never touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.backup.course import Course
from nexusd.backup.manifest import FORMAT, DatabaseFacts, Manifest
from nexusd.backup.packing import pack
from nexusd.backup.shelf import Shelf, names_to_keep
from nexusd.config_sections import BackupsConfig
from nexusd.errors import NoSuchBackup

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
BYTES = b"not a database, which nobody here looks at" * 100


def put(directory: Path, name: str, created_at: int = NOW_MS, file_name: str | None = None) -> Path:
    """A backup of no database."""
    source = directory.parent / "source"
    source.write_bytes(BYTES)
    facts = DatabaseFacts(
        bytes=len(BYTES), sha256="0" * 64, application_id=1, schema_version=1, sqlite_version="3", epoch="e",
        model=None, rows={},
    )
    manifest = Manifest(
        format=FORMAT, name=name, kind="manual", created_at=created_at, program="1", database=facts, members=[]
    )
    path = directory / (file_name or f"{name}.tar")
    pack(path, source, manifest, [], Course("packing", 0))
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "backups").mkdir()
    return Shelf(tmp_path / "backups")


def test_a_directory_that_is_not_there_has_no_backups(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "none")
    assert (shelf.list(), shelf.sweep()) == ([], 0)
    with pytest.raises(NoSuchBackup):
        shelf.find(None)


def test_backups_are_listed_newest_first_and_found_by_name(shelf: Shelf) -> None:
    for number in (2, 1, 3):
        put(shelf.directory, f"b{number}", NOW_MS + number)
    assert [one.name for one in shelf.list()] == ["b3", "b2", "b1"]
    assert (shelf.find(None).name, shelf.find("b2").name) == ("b3", "b2")
    with pytest.raises(NoSuchBackup):
        shelf.find("../b1")


@pytest.mark.parametrize("cut", [1, 600, 1024, 2000])
def test_what_is_cut_short_is_no_backup(shelf: Shelf, cut: int) -> None:
    path = put(shelf.directory, "b")
    path.write_bytes(path.read_bytes()[:-cut])
    assert shelf.list() == []
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(10_240)])
def test_what_has_no_manifest_is_no_backup(shelf: Shelf, content: bytes) -> None:
    (shelf.directory / "b.tar").write_bytes(content)
    assert shelf.list() == []


def test_a_manifest_of_another_name_or_of_a_newer_format_is_none(shelf: Shelf) -> None:
    put(shelf.directory, "b", file_name="c.tar")
    newer = put(shelf.directory, "d")
    newer.write_bytes(newer.read_bytes().replace(b'"format": 1', b'"format": 9', 1))
    assert shelf.list() == []


def test_a_file_that_changed_is_looked_at_again(shelf: Shelf) -> None:
    path = put(shelf.directory, "b")
    assert len(shelf.list()) == 1
    path.write_bytes(b"something else")
    assert shelf.list() == []


def test_links_and_what_is_no_file_are_neither_listed_nor_swept_nor_rotated_away(shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outside = put(elsewhere, "old", NOW_MS - DAY_MS)
    (shelf.directory / "old.tar").symlink_to(outside)
    (shelf.directory / "gone.tar").symlink_to(tmp_path / "nothing")
    (shelf.directory / "x.unfinished").symlink_to(elsewhere)
    (shelf.directory / "dir.tar").mkdir()
    os.mkfifo(shelf.directory / "fifo.tar")
    put(shelf.directory, "new")
    before = sorted(path.name for path in shelf.directory.iterdir())
    assert [one.name for one in shelf.list()] == ["new"]
    assert shelf.sweep() == 0
    assert shelf.rotate(BackupsConfig(max_count=1), "new", NOW_MS) == []
    assert sorted(path.name for path in shelf.directory.iterdir()) == before
    assert outside.exists()


def test_what_unfinished_backups_left_is_swept_and_nothing_else(shelf: Shelf, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    stage = shelf.directory / "b.unfinished"
    stage.mkdir()
    (stage / "link").symlink_to(outside)
    (stage / "nexus.db").touch()
    (shelf.directory / "c.unfinished").touch()
    put(shelf.directory, "kept")
    assert shelf.sweep() == 2
    assert [path.name for path in shelf.directory.iterdir()] == ["kept.tar"]
    assert (outside / "precious").exists()


def test_rotation_keeps_the_newest_and_lets_the_oldest_go_first(shelf: Shelf) -> None:
    for number in range(6):
        put(shelf.directory, f"b{number}", NOW_MS + number)
    assert list(shelf.rotate(BackupsConfig(max_count=2), "b5", NOW_MS + 5)) == ["b0", "b1", "b2", "b3"]
    assert [one.name for one in shelf.list()] == ["b5", "b4"]


def test_nothing_goes_unless_the_new_one_is_really_there(shelf: Shelf) -> None:
    for number in range(3):
        put(shelf.directory, f"b{number}", NOW_MS + number)
    assert shelf.rotate(BackupsConfig(max_count=1), "b9", NOW_MS) == []
    assert len(shelf.list()) == 3


def test_a_name_is_free_where_no_file_and_no_unfinished_one_has_it(shelf: Shelf) -> None:
    assert shelf.free_name("b") == "b"
    (shelf.directory / "b.tar").symlink_to("/nowhere")
    (shelf.directory / "b-2.unfinished").mkdir()
    assert shelf.free_name("b") == "b-3"


def keep(days_ago: list[float], **config: int) -> list[float]:
    backups = [(str(days), NOW_MS - int(days * DAY_MS)) for days in days_ago]
    new = min(days_ago, key=abs)
    kept = names_to_keep(backups, BackupsConfig(**config), str(new), NOW_MS)
    return sorted(float(name) for name in kept)


def test_daily_weekly_and_monthly_ones_are_kept_beside_the_newest() -> None:
    days = [float(day) for day in range(400)]
    assert keep(days, max_count=3) == [0, 1, 2]
    assert keep(days, max_count=1, keep_daily=7) == [0, 1, 2, 3, 4, 5, 6]
    assert len(keep(days, max_count=1, keep_weekly=4)) == 4
    assert len(keep(days, max_count=1, keep_monthly=12)) == 12
    several = keep([0, 0.01, 0.02, 1, 1.01, 2], max_count=1, keep_daily=3)
    assert [int(day) for day in several] == [0, 1, 2]  # one a day, the newest of it


def test_what_is_dated_in_the_future_goes_first() -> None:
    assert keep([0, 1, 2, -500, -501], max_count=3) == [0, 1, 2]
    assert keep([0, -500, -501], max_count=2) == [-501, 0]


@given(
    st.lists(st.integers(-3000, 3000), min_size=1, max_size=60, unique=True),
    st.integers(1, 10), st.integers(0, 10), st.integers(0, 10), st.integers(0, 10),
)
def test_the_new_one_always_stays_and_no_more_are_kept_than_was_asked_for(
    hours_ago: list[int], count: int, daily: int, weekly: int, monthly: int
) -> None:
    backups = [(str(hours), NOW_MS - hours * 3_600_000) for hours in hours_ago]
    config = BackupsConfig(max_count=count, keep_daily=daily, keep_weekly=weekly, keep_monthly=monthly)
    kept = names_to_keep(backups, config, backups[0][0], NOW_MS)
    assert backups[0][0] in kept
    assert kept <= {name for name, _ in backups}
    assert min(len(backups), count) <= len(kept) <= count + daily + weekly + monthly
    # letting go of what is not kept, and asking again, lets go of nothing more
    left = [one for one in backups if one[0] in kept]
    assert names_to_keep(left, config, backups[0][0], NOW_MS) == kept
