"""The data directory: what the check says is what the start would say, and it leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusd.data_directory import make_data_directory, try_data_directory
from nexusd.errors import DataDirectoryError


def test_it_is_made_with_the_directories_above_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    make_data_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700
    make_data_directory(path)  # and again: it is there


def test_trying_it_out_leaves_nothing_behind(tmp_path: Path) -> None:
    try_data_directory(tmp_path / "a" / "b")
    try_data_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [make_data_directory, try_data_directory])
@pytest.mark.parametrize("place", ["/proc/nowhere", "/proc/version/below"])
def test_one_that_cannot_be_made_is_refused_by_name(function: Callable[[Path], None], place: str) -> None:
    with pytest.raises(DataDirectoryError, match=f"^the data directory {re.escape(place)} cannot be made: "):
        function(Path(place))


@pytest.mark.parametrize("function", [make_data_directory, try_data_directory])
def test_a_file_in_its_place_is_refused(function: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("mine")
    with pytest.raises(DataDirectoryError, match=f"^the data directory {re.escape(str(file))} cannot be "):
        function(file)
    assert file.read_text() == "mine"


def test_one_that_is_there_and_takes_nothing_is_refused() -> None:
    with pytest.raises(DataDirectoryError, match=r"^the data directory /proc cannot be written to: "):
        try_data_directory(Path("/proc"))
