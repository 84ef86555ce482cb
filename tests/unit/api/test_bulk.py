from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from nexusd.api.bulk import checked_items, ids_of, kept_answers, write_together
from nexusd.errors import InvalidParams, RpcError, SessionNotFound
from nexusd.model.bulk import MAX_ITEMS, Answers, ItemError
from nexusd.model.entities import NewEntity, UpsertEntities
from nexusd.model.projects import Project
from nexusd.store.connection import Connection
from nexusd.wire.methods import Call, Principal
from nexusd.wire.validation import validate

CALL = Call(Principal("uid:1", "admin"), "r-7")
NO_DATABASE = cast("Connection", SimpleNamespace())


def project(id_: int) -> Project:
    return Project(id=id_, name=f"p{id_}", description=None, colour=None, icon=None, created_at=1, updated_at=1)


def test_a_bad_item_is_its_error_named_by_its_place() -> None:
    good = {"name": "Ada", "type": "person"}
    first, second, third = checked_items(NewEntity, [good, {"name": "", "color": 1}, good], CALL)
    assert first == third == NewEntity(name="Ada", type="person")
    assert isinstance(second, ItemError)
    assert (second.error["code"], second.error["data"]["requestId"]) == (InvalidParams.code, "r-7")
    assert {field.path for field in second.error["data"]["fields"]} == {
        "items[1].name", "items[1].type", "items[1].color",
    }


def test_every_answer_stands_where_its_item_stood() -> None:
    bad = ItemError({"code": 1})
    items: list[NewEntity | ItemError] = [bad, NewEntity(name="a", type="t"), bad, NewEntity(name="b", type="t")]

    def write(_db: Connection, good: list[NewEntity], now_ms: int) -> list[Project | RpcError]:
        assert [item.name for item in good] == ["a", "b"]
        return [project(now_ms), SessionNotFound()]

    answers = write_together(NO_DATABASE, items, "r-7", write, 5)
    assert answers.items[:3] == [bad, project(5), bad]
    last = answers.items[3]
    assert isinstance(last, ItemError)
    assert last.error["data"] == {"kind": "not_found", "retryable": False, "requestId": "r-7"}
    assert ids_of(None, answers) == {"ids": [5]}


def test_a_kept_reply_is_read_as_it_was_answered() -> None:
    answers = Answers([project(1), ItemError({"code": 3, "data": {"kind": "x"}}), project(2)])
    assert kept_answers(msgspec.Raw(msgspec.json.encode(answers)), Project) == answers


@pytest.mark.parametrize("items", [[], [{}] * (MAX_ITEMS + 1), ["x"], {}, None])
def test_items_are_objects_and_not_too_many(items: Any) -> None:
    with pytest.raises(InvalidParams):
        validate(UpsertEntities, {"items": items})
