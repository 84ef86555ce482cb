"""Presets: what people do to the files, what programs do through calls, and what a crash does to both."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness.files import Desk, desk
from structlog.testing import capture_logs

from nexusd.errors import (
    BadContent,
    BadName,
    Conflict,
    DiskFull,
    IdempotencyMismatch,
    InvalidParams,
    OutcomeUnknown,
    PresetNotFound,
    ReadOnly,
    RpcError,
)
from nexusd.files.names import check_name
from nexusd.files.shelf import BATCH_FILES
from nexusd.model.presets import ListPresets, Preset
from nexusd.store.idempotency import Receipt
from nexusd.store.presets import delete_preset, select_preset, select_preset_names, upsert_preset

pytestmark = pytest.mark.anyio

CHEF = {"prompt": "You cook.", "temperature": 0.7}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as made:
        yield made


def receipt(key: str, parameters: bytes = b"x") -> Receipt:
    return Receipt(key=key, principal="test", method="presets.put", parameters_hash=parameters)


async def put(at: Desk, name: str, content: dict[str, Any], want: Any = "put", key: str | None = None) -> Preset:
    stored = await at.presets.put(name, content, receipt(key) if key else None, want)
    return msgspec.json.decode(stored, type=Preset) if isinstance(stored, msgspec.Raw) else stored


async def rows(at: Desk) -> dict[str, Any]:
    names = await at.store.read(select_preset_names)
    return {name: at.store.peek(select_preset, name).content for name in names}


async def listed(at: Desk) -> dict[str, str]:
    return {one.name: one.state for one in (await at.presets.page(ListPresets())).items}


# ---- calls


async def test_a_preset_is_a_file_and_a_row(at: Desk) -> None:
    made = await put(at, "Chef", CHEF, "create")
    assert at.text("presets/Chef.yaml") == "prompt: You cook.\ntemperature: 0.7\n"
    assert await rows(at) == {"Chef": CHEF}
    assert at.presets.get(name="Chef") == at.presets.get(preset_id=made.id) == made
    assert (made.state, made.problem, made.created_at) == ("ok", None, at.clock.now_ms())


async def test_create_wants_none_update_wants_one_put_wants_neither(at: Desk) -> None:
    with pytest.raises(PresetNotFound):
        await put(at, "Chef", CHEF, "update")
    made = await put(at, "Chef", CHEF, "create")
    with pytest.raises(Conflict):
        await put(at, "Chef", {}, "create")
    changed = await put(at, "Chef", {"a": 1}, "update")
    assert (changed.id, changed.content) == (made.id, {"a": 1})     # replaced, not merged
    await put(at, "Other", {})
    assert await rows(at) == {"Chef": {"a": 1}, "Other": {}}


async def test_create_and_update_see_the_disk_and_not_the_last_look(at: Desk) -> None:
    at.edit("presets/a.yaml", "x: 1")
    with pytest.raises(Conflict):
        await put(at, "a", {}, "create")
    assert (await put(at, "a", {"x": 2}, "update")).content == {"x": 2}
    (at.root / "presets/a.yaml").unlink()
    with pytest.raises(PresetNotFound):
        await put(at, "a", {}, "update")


async def test_a_file_that_says_the_same_keeps_its_comments(at: Desk) -> None:
    text = "# mine\ntemperature: 0.7   # warm\n"
    at.edit("presets/a.yaml", text)
    await at.files.scan()
    before = at.presets.get(name="a")
    at.clock.advance(60)
    assert await put(at, "a", {"temperature": 0.7}) == before
    assert at.text("presets/a.yaml") == text
    await put(at, "a", {"temperature": 0.8})
    assert "mine" not in at.text("presets/a.yaml")


async def test_delete_takes_file_and_row(at: Desk) -> None:
    await put(at, "Chef", CHEF)
    gone = await at.presets.delete("Chef", None)
    assert not isinstance(gone, msgspec.Raw)
    assert gone.deleted == {"presets": 1, "files": 1}
    assert (at.there("presets"), await rows(at)) == (set(), {})
    with pytest.raises(PresetNotFound):
        await at.presets.delete("Chef", None)
    with pytest.raises(PresetNotFound):
        at.presets.get(name="Chef")


@pytest.mark.parametrize("name", ["../nexus", "a/b", ".hidden", "a\0b", "x" * 65, "", "-rf", "a\n"])
async def test_a_name_that_is_none_reaches_no_file(at: Desk, name: str) -> None:
    for call in (put(at, name, CHEF), at.presets.delete(name, None)):
        with pytest.raises(BadName):
            await call
    with pytest.raises(BadName):
        at.presets.get(name=name)
    assert at.there("presets") == set()
    assert at.there(".") == {"presets", "tools"}


async def test_one_name_in_two_forms_is_one_preset(at: Desk) -> None:
    first = await put(at, "Ku\u0308che", CHEF)
    assert first.name == "K\u00fcche"
    assert (await put(at, "K\u00fcche", {})).id == first.id


async def test_what_no_file_can_say_is_refused(at: Desk) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    for content in (deep, {"a": "x" * 2**20}):
        with pytest.raises(BadContent):
            await put(at, "a", content)
    assert (at.there("presets"), await rows(at)) == (set(), {})


# ---- a call sent twice


async def test_a_call_sent_again_is_not_done_again(at: Desk) -> None:
    first = await put(at, "a", {"n": 1}, key="k1")
    await put(at, "a", {"n": 2})
    assert await put(at, "a", {"n": 1}, key="k1") == first
    assert at.text("presets/a.yaml") == "n: 2\n"
    assert await rows(at) == {"a": {"n": 2}}
    with pytest.raises(IdempotencyMismatch):
        await at.presets.put("b", {}, receipt("k1", b"other"), "put")
    assert at.there("presets") == {"a.yaml"}


async def test_a_create_and_a_delete_sent_again_succeed_again(at: Desk) -> None:
    first = await put(at, "a", CHEF, "create", key="k1")
    assert await put(at, "a", CHEF, "create", key="k1") == first
    gone = await at.presets.delete("a", receipt("k2"))
    again = await at.presets.delete("a", receipt("k2"))
    assert isinstance(again, msgspec.Raw)
    assert msgspec.json.decode(again) == msgspec.to_builtins(gone)
    await put(at, "a", {"new": 1})
    await at.presets.delete("a", receipt("k2"))     # late, and about the one that went
    assert at.there("presets") == {"a.yaml"}


async def test_the_same_call_twice_at_once_is_done_once(at: Desk) -> None:
    calls = [at.presets.put("a", CHEF, receipt("k1"), "create") for _ in range(2)]
    stored = await asyncio.gather(*calls)
    assert sorted(type(one).__name__ for one in stored) == ["Preset", "Raw"]


# ---- hands


async def test_edits_by_hand_are_found(at: Desk) -> None:
    at.edit("presets/a.yaml", "x: 1")
    await at.files.scan()
    assert await rows(at) == {"a": {"x": 1}}
    at.edit("presets/a.yaml", "x: 2")
    await at.files.scan()
    at.replace("presets/b.yaml", "y: 1")
    await at.files.scan()
    assert await rows(at) == {"a": {"x": 2}, "b": {"y": 1}}
    before = at.presets.get(name="a")
    (at.root / "presets/b.yaml").unlink()
    (at.root / "presets/a.yaml").rename(at.root / "presets/c.yaml")
    await at.files.scan()
    assert await rows(at) == {"c": {"x": 2}}
    assert at.presets.get(name="c").id != before.id
    assert at.news() == [
        ("preset", "a", "changed"), ("preset", "a", "changed"), ("preset", "b", "changed"),
        ("preset", "c", "changed"), ("preset", "a", "removed"), ("preset", "b", "removed"),
    ]


async def test_a_look_that_finds_nothing_new_reads_nothing_and_writes_nothing(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.edit("presets/a.yaml", "x: 1")
    at.edit("presets/broken.yaml", "x: [")
    (at.root / "presets/link.yaml").symlink_to("a.yaml")
    at.edit("presets/large.yaml", "x" * 2**21)
    await at.files.scan()
    at.news()
    commits = at.store.progress().writes

    def no_reading(_file: str) -> bytes:
        raise AssertionError("it was read")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(at.presets.shelf.directory, "read", no_reading)
        await at.files.scan()
    assert (at.news(), logs, at.store.progress().writes) == ([], [], commits)


async def test_a_touch_is_no_change(at: Desk) -> None:
    path = at.edit("presets/a.yaml", "x: 1")
    await at.files.scan()
    at.news()
    os.utime(path)
    await at.files.scan()
    assert at.news() == []


async def test_a_change_in_the_same_tick_of_the_disks_clock_is_found(at: Desk) -> None:
    path = at.edit("presets/a.yaml", "x: 1")
    at.clock.jump(days=(path.stat().st_ctime_ns // 1_000_000 - at.clock.now_ms()) / 86_400_000)
    await at.files.scan()
    inode = path.stat()
    path.write_text("x: 2")
    state = at.presets.shelf.states["a"]
    assert state.stamp is None      # nothing is made of how it looks: had it changed unseen, it would look the same
    assert path.stat().st_size == inode.st_size
    await at.files.scan()
    assert await rows(at) == {"a": {"x": 2}}


async def test_a_broken_file_that_is_read_again_is_told_once(at: Desk) -> None:
    path = at.edit("presets/a.yaml", "x: [")
    at.clock.jump(days=(path.stat().st_ctime_ns // 1_000_000 - at.clock.now_ms()) / 86_400_000)
    with capture_logs() as logs:
        for _ in range(3):
            await at.files.scan()
    assert len(logs) == 1
    assert at.news() == [("preset", "a", "broken")]
    path.write_text("x: {")
    with capture_logs() as logs:
        await at.files.scan()
    assert len(logs) == 1       # broken in another way: that is news


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x: [", "line 1: not valid YAML"),
        ("", "it is empty"),
        ("x: 1\nx: 2", "line 2: the key 'x' stands here again"),
        ("x: !!python/name:os.system y", "line 1: tags"),
        (b"x: \xff", "line 1: not UTF-8 text"),
        ("x" * 2**21, "has 2,097,152 bytes; at most 1,048,576 are taken"),
    ],
)
async def test_a_file_that_breaks_is_told_and_left_alone_and_its_last_content_stays(
    at: Desk, text: str | bytes, problem: str
) -> None:
    good = await put(at, "a", CHEF)
    path = at.edit("presets/a.yaml", text)
    with capture_logs() as logs:
        await at.files.scan()
        await at.files.scan()
    assert [(log["log_level"], log["file"]) for log in logs] == [("warning", "presets/a.yaml")]
    assert at.news() == [("preset", "a", "broken")]
    served = at.presets.get(name="a")
    assert (served.id, served.content, served.state) == (good.id, CHEF, "broken")
    assert (served.problem or "").startswith(problem)
    assert list(at.files.broken()) == ["presets/a.yaml"]
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    at.edit("presets/a.yaml", "x: 1")
    await at.files.scan()
    assert at.presets.get(name="a").state == "ok"
    assert (at.news(), at.files.broken()) == ([("preset", "a", "changed")], {})


async def test_a_file_that_is_mended_to_what_it_was_is_told(at: Desk) -> None:
    at.edit("presets/a.yaml", "x: 1")
    await at.files.scan()
    at.edit("presets/a.yaml", "x: [")
    await at.files.scan()
    at.edit("presets/a.yaml", "x: 1")
    await at.files.scan()
    assert at.news()[-1] == ("preset", "a", "changed")
    assert await listed(at) == {"a": "ok"}


async def test_a_file_that_was_never_good_is_listed_and_can_be_replaced_and_deleted(at: Desk) -> None:
    at.edit("presets/a.yaml", "x: [")
    await at.files.scan()
    assert await listed(at) == {"a": "broken"}
    with pytest.raises(BadContent, match=r"presets/a\.yaml: line 1"):
        at.presets.get(name="a")
    with pytest.raises(Conflict):
        await put(at, "a", CHEF, "create")
    assert (await put(at, "a", CHEF)).state == "ok"
    at.edit("presets/b.yaml", "x: [")
    await at.files.scan()
    gone = await at.presets.delete("b", None)
    assert not isinstance(gone, msgspec.Raw)
    assert gone.deleted == {"presets": 0, "files": 1}
    assert await listed(at) == {"a": "ok"}


async def test_a_link_in_place_of_a_file_is_told_and_not_followed(at: Desk, tmp_path: Path) -> None:
    await put(at, "a", CHEF)
    (tmp_path / "secret.yaml").write_text("password: 1")
    path = at.root / "presets/a.yaml"
    path.unlink()
    path.symlink_to(tmp_path / "secret.yaml")
    await at.files.scan()
    assert (at.presets.get(name="a").content, at.presets.get(name="a").state) == (CHEF, "broken")
    with pytest.raises(BadContent):
        await put(at, "a", {})
    assert (tmp_path / "secret.yaml").read_text() == "password: 1"
    await at.presets.delete("a", None)
    assert (tmp_path / "secret.yaml").exists()


async def test_files_of_other_names_are_passed_over_and_told_once(at: Desk) -> None:
    for name in ("a.yml", " b.yaml", "Ku\u0308che.yaml", "tab\there.yaml"):
        at.edit(f"presets/{name}", "x: 1")
    for name in ("README.md", ".swp.yaml", "c.yaml~", "4913"):
        at.edit(f"presets/{name}", "x: 1")
    with capture_logs() as logs:
        await at.files.scan()
        await at.files.scan()
    assert sorted(log["file"] for log in logs) == [
        "presets/ b.yaml", "presets/Ku\u0308che.yaml", "presets/a.yml", "presets/tab?here.yaml",
    ]
    assert at.files.broken()["presets/a.yml"] == "is not read: rename it to end in .yaml"
    assert (await rows(at), await listed(at)) == ({}, {})


async def test_names_are_judged_off_the_loop_and_good_ones_once(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[tuple[str, bool]] = []

    def judge(name: str) -> str:
        judged.append((name, threading.current_thread() is threading.main_thread()))
        return check_name(name)

    monkeypatch.setattr("nexusd.files.shelf.check_name", judge)
    for name in ("a", "b"):
        at.edit(f"presets/{name}.yaml", "x: 1")
    for _ in range(3):  # thousands of names at every look would hold up the loop
        await at.files.scan()
    assert judged == [("a", False), ("b", False)]


async def test_a_file_name_that_is_no_text_is_told_as_one(at: Desk) -> None:
    with (at.root / os.fsdecode(b"presets/caf\xe9.yaml")).open("wb") as file:
        file.write(b"x: 1")
    at.edit("presets/red\x1b[31m.yaml", "x: 1")
    await at.files.scan()
    told = at.files.broken()
    assert sorted(told) == ["presets/caf?.yaml", "presets/red?[31m.yaml"]
    msgspec.json.encode(told)   # as system.status does


async def test_a_directory_that_becomes_a_link_takes_no_preset_away(at: Desk, tmp_path: Path) -> None:
    await put(at, "a", CHEF)
    (at.root / "presets").rename(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    (at.root / "presets").symlink_to(tmp_path / "empty")
    await at.files.scan()
    assert await rows(at) == {"a": CHEF}
    assert "link" in at.files.broken()["presets"]
    with pytest.raises(ReadOnly, match="link"):
        await put(at, "b", {})
    assert list((tmp_path / "empty").iterdir()) == []
    (at.root / "presets").unlink()
    (tmp_path / "elsewhere").rename(at.root / "presets")
    await at.files.scan()
    assert at.files.broken() == {}


async def test_more_files_than_are_read_at_once(at: Desk) -> None:
    for n in range(BATCH_FILES * 2 + 5):
        at.edit(f"presets/p{n:03}.yaml", f"n: {n}")
    await at.files.scan()
    assert len(await rows(at)) == BATCH_FILES * 2 + 5


async def test_pages_go_on_by_name_whatever_comes_and_goes(at: Desk) -> None:
    for name in ("b", "d", "é", "日本"):
        await put(at, name, {"n": name})
    at.edit("presets/c.yaml", "[")
    await at.files.scan()
    first = await at.presets.page(ListPresets(limit=2))
    await at.presets.delete("c", None)      # the one that the cursor stands on
    await put(at, "a", {})
    second = await at.presets.page(ListPresets(limit=2, cursor=first.next_cursor))
    third = await at.presets.page(ListPresets(limit=2, cursor=second.next_cursor))
    assert [one.name for page in (first, second, third) for one in page.items] == ["b", "c", "d", "é", "日本"]
    assert third.next_cursor is None
    assert [one.name for one in (await at.presets.page(ListPresets(limit=2, offset=3))).items] == ["é", "日本"]
    for cursor in ("nonsense", "", "\u00e9"):
        with pytest.raises(InvalidParams):
            await at.presets.page(ListPresets(cursor=cursor))


# ---- starts, and what happened before them


async def test_a_start_reads_what_is_there(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await put(at, "stays", CHEF)
        await put(at, "goes", {})
        identity = at.presets.get(name="stays").id
    (tmp_path / "files/presets/goes.yaml").unlink()
    async with desk(tmp_path, before=lambda at: at.edit("presets/new.yaml", "x: 1") and None) as at:
        assert await rows(at) == {"stays": CHEF, "new": {"x": 1}}
        assert at.presets.get(name="stays").id == identity
        assert at.news() == [("preset", "new", "changed"), ("preset", "goes", "removed")]


async def test_a_file_that_broke_while_nobody_looked_keeps_its_row(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await put(at, "a", CHEF)
    async with desk(tmp_path, before=lambda at: at.edit("presets/a.yaml", "x: [") and None) as at:
        assert (at.presets.get(name="a").content, at.presets.get(name="a").state) == (CHEF, "broken")


async def test_a_crash_between_file_and_row_is_mended_by_the_next_start(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for name in ("put", "deleted"):
            await put(at, name, CHEF)
    # the file of the one was written, that of the other removed, and then the power went
    (tmp_path / "files/presets/put.yaml").write_text("x: 1")
    (tmp_path / "files/presets/deleted.yaml").unlink()
    (tmp_path / "files/presets/.nexusd-00ff.tmp").write_text("half")
    (tmp_path / "files/.nexusd-00ff.tmp").write_text("half")
    async with desk(tmp_path) as at:
        assert await rows(at) == {"put": {"x": 1}}
        assert at.there("presets") == {"put.yaml"}
        assert at.there(".") == {"presets", "tools"}


async def test_a_call_given_up_between_file_and_row_is_mended_by_the_next_look(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(at, "deleted", CHEF)

    async def never(*_args: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(at.store, "write_once", never)
        for call in (put(at, "a", CHEF), at.presets.delete("deleted", None)):
            with pytest.raises(asyncio.CancelledError):
                await call
    assert await rows(at) == {"deleted": CHEF}
    await at.files.scan()
    assert await rows(at) == {"a": CHEF}


@pytest.mark.parametrize("error", [DiskFull, ReadOnly])
async def test_a_database_that_takes_nothing_does_not_lose_what_files_say(
    at: Desk, monkeypatch: pytest.MonkeyPatch, error: type[RpcError]
) -> None:
    await put(at, "gone", {})

    async def refuse(*_args: object) -> None:
        raise error

    at.edit("presets/hand.yaml", "x: 1")
    (at.root / "presets/gone.yaml").unlink()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(at.store, "write_once", refuse)
        patch.setattr(at.store, "write", refuse)
        with pytest.raises(OutcomeUnknown, match="is written"):
            await put(at, "a", CHEF)
        await at.files.scan()
        await at.files.scan()
    assert len(logs) == 1
    await at.files.scan()
    assert await rows(at) == {"a": CHEF, "hand": {"x": 1}}


async def test_a_full_disk_leaves_file_and_row_as_they_were(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(at, "a", CHEF)

    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFull) as refused:
            await put(at, "a", {"x": 1})
        assert refused.value.retryable
    await at.files.scan()
    assert (await rows(at), at.there("presets")) == ({"a": CHEF}, {"a.yaml"})


async def test_a_directory_that_is_gone_is_made_anew_from_the_rows(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for n in range(3):
            await put(at, f"p{n}", {"n": n})
    for path in (tmp_path / "files/presets").iterdir():
        path.unlink()
    (tmp_path / "files/presets").rmdir()    # as after a restore of the database on a new machine
    with capture_logs() as logs:
        async with desk(tmp_path) as at:
            assert await rows(at) == {f"p{n}": {"n": n} for n in range(3)}
            assert at.there("presets") == {"p0.yaml", "p1.yaml", "p2.yaml"}
            assert at.there(".") == {"presets", "tools"}
    assert [log["files"] for log in logs if "files" in log] == [3]


async def test_a_crash_while_the_directory_is_made_anew_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as at:
        for n in range(3):
            await put(at, f"p{n}", {"n": n})
    for path in (tmp_path / "files/presets").iterdir():
        path.unlink()
    (tmp_path / "files/presets").rmdir()
    count = 0
    real = os.rename

    def crash(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.EIO, "the power went")
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        async with desk(tmp_path) as at:
            assert not (at.root / "presets").exists()
            assert len(await rows(at)) == 3
    async with desk(tmp_path) as at:
        assert len(await rows(at)) == 3
        assert at.there("presets") == {"p0.yaml", "p1.yaml", "p2.yaml"}


async def test_a_root_that_cannot_be_used_is_told_and_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file")
    with capture_logs() as logs:
        async with desk(tmp_path) as at:
            assert await listed(at) == {}
            with pytest.raises(ReadOnly):
                await put(at, "a", CHEF)
            assert {"presets", "tools"} <= at.files.broken().keys()
    assert logs


async def test_rows_without_files_go_only_when_the_directory_could_be_read(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await put(at, "a", CHEF)
        await at.store.write(upsert_preset, "orphan", "{}", 1)
    (tmp_path / "files/presets").rename(tmp_path / "files/kept")
    (tmp_path / "files/presets").symlink_to("kept")
    async with desk(tmp_path) as at:
        assert set(await rows(at)) == {"a", "orphan"}
        assert at.presets.get(name="a").content == CHEF
        (at.root / "presets").unlink()
        (at.root / "kept").rename(at.root / "presets")
        await at.files.scan()
        assert set(await rows(at)) == {"a"}


async def test_a_row_that_somebody_took_away_does_not_stop_a_delete(at: Desk) -> None:
    await put(at, "a", CHEF)
    await at.store.write(delete_preset, "a")
    gone = await at.presets.delete("a", None)
    assert not isinstance(gone, msgspec.Raw)
    assert gone.deleted == {"presets": 0, "files": 1}
