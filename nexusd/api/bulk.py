"""Many items in one call: checked one by one, written in one transaction, answered in their order.

Owns how an item's error takes the place of its row. Knows no resource; each brings the struct of an item and
the function that writes one, or many at once where that is faster.

    items = checked_items(NewEntity, params.items, call)
    answers = await store.write_once(receipt, write_each, items, call.request_id, upsert_entity, now_ms)

An event tells the `ids_of` such a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import msgspec

from nexusd.errors import InvalidParams, RpcError
from nexusd.model.bulk import Answers, ItemError
from nexusd.store.bulk import write_one_by_one
from nexusd.wire.methods import Call
from nexusd.wire.replies import error_object
from nexusd.wire.validation import validate

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)


def checked_items(type_: type[S], items: Sequence[Mapping[str, Any]], call: Call) -> list[S | ItemError]:
    """Each item as `type_`, or what is wrong with it, its path beginning with its place in the list."""
    return [_checked(type_, item, f"items[{place}]", call) for place, item in enumerate(items)]


def _checked(type_: type[S], item: Mapping[str, Any], path: str, call: Call) -> S | ItemError:
    try:
        return validate(type_, item, path=path)
    except InvalidParams as error:
        return ItemError(error_object(error, call.request_id))


def write_each(
    db: apsw.Connection,
    items: Sequence[S | ItemError],
    request_id: str,
    function: Callable[Concatenate[apsw.Connection, S, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Answers[R]:
    """Write the good items one by one; one that the store refuses is undone alone, any other error undoes all."""
    return _in_their_places(items, request_id, write_one_by_one(db, _good(items), function, *args, **kwargs))


def write_together(
    db: apsw.Connection,
    items: Sequence[S | ItemError],
    request_id: str,
    function: Callable[Concatenate[apsw.Connection, list[S], P], Sequence[R | RpcError]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Answers[R]:
    """As `write_each` for a function that takes all of them and answers each with its row or its error."""
    return _in_their_places(items, request_id, function(db, _good(items), *args, **kwargs))


def _good(items: Sequence[S | ItemError]) -> list[S]:
    return [item for item in items if not isinstance(item, ItemError)]


def _in_their_places(
    items: Sequence[S | ItemError], request_id: str, written: Sequence[R | RpcError]
) -> Answers[R]:
    rest = iter(written)
    return Answers([item if isinstance(item, ItemError) else _told(next(rest), request_id) for item in items])


def _told(result: R | RpcError, request_id: str) -> R | ItemError:
    return ItemError(error_object(result, request_id)) if isinstance(result, RpcError) else result


def kept_answers(reply: msgspec.Raw, record: type[R]) -> Answers[R]:
    """The reply of a repeated call as records; told apart by the key `error`, which no record has."""
    items = msgspec.json.decode(reply)["items"]
    return Answers([
        msgspec.convert(item, ItemError) if "error" in item else msgspec.convert(item, record) for item in items
    ])


def ids_of(_params: Any, result: Answers[Any]) -> Mapping[str, Any]:
    """What an event says of such a call: the ids of the rows that were written."""
    return {"ids": [item.id for item in result.items if not isinstance(item, ItemError)]}
