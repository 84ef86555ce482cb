"""The journal: what was appended is replayed in order, whatever is left of the file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.index.journal import Journal, replay

OPERATIONS = [("upsert", [[1, 1, b"\x00" * 8, {"a": 1}]]), ("delete", [1, 2]), ("upsert", [[3, 2, b"\x01" * 8, {}]])]


def written(directory: Path) -> Path:
    journal = Journal(directory)
    for op, items in OPERATIONS:
        journal.append(op, items)
    journal.sync()
    journal.close()
    (path,) = directory.iterdir()
    return path


def test_what_was_appended_is_replayed_in_order(tmp_path: Path) -> None:
    written(tmp_path)
    assert list(replay(tmp_path)) == OPERATIONS


@given(st.data())
def test_a_torn_file_replays_whole_operations_from_its_beginning(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    path = written(directory)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))] + data.draw(st.binary(max_size=40)))
    found = list(replay(directory))
    assert found == OPERATIONS[: len(found)]
    assert len(found) < len(OPERATIONS) or path.read_bytes().startswith(content)


def test_a_flipped_bit_ends_the_replay_before_its_operation(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert list(replay(tmp_path)) == OPERATIONS[:2]


def test_files_left_by_a_crash_are_replayed_before_the_newest(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append("delete", [1])
    second = Journal(tmp_path)  # a crash between the flush and the removal leaves both
    second.append("delete", [2])
    for number in range(3, 11):  # ten sorts after nine, not after one
        Journal(tmp_path).append("delete", [number])
    assert [items for _, items in replay(tmp_path)] == [[number] for number in range(1, 11)]


def test_a_renewed_journal_has_nothing_to_replay(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("delete", [1])
    journal.renew()
    assert (list(replay(tmp_path)), journal.size, journal.operations) == ([], 0, 0)
    journal.append("delete", [2])
    journal.sync()
    assert list(replay(tmp_path)) == [("delete", [2])]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_append_that_fails_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append("delete", [1])
    import os  # noqa: PLC0415  the name that is patched

    real = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(fd, data[: len(data) - 5])

    monkeypatch.setattr("nexusd.index.journal.os.write", half)
    with pytest.raises(OSError, match="No space"):
        journal.append("delete", [2])
    monkeypatch.undo()
    journal.append("delete", [3])
    assert [items for _, items in replay(tmp_path)] == [[1], [3]]
