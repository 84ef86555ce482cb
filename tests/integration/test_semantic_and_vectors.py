"""semantic.* and vectors.* over a real store and a running worker: what they promise, and what they say when they
cannot keep it."""

from __future__ import annotations

import asyncio
import math
import struct
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import apsw
import msgspec
import pytest
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.api.semantic import SemanticApi
from nexusd.api.vectors import VectorsApi
from nexusd.clock import SystemClock
from nexusd.errors import (
    DimensionMismatch,
    EmbedderUnavailable,
    IdempotencyMismatch,
    IndexUnavailable,
    InvalidParams,
    RowNotFound,
    VectorNotFound,
)
from nexusd.model.bulk import ItemError
from nexusd.model.episodes import UpdateEpisode
from nexusd.model.semantic import DeletePoint, SearchPoints, UpsertPoint
from nexusd.model.vectors import (
    DeleteVector,
    GetVector,
    ListVectors,
    SearchVectors,
    StoredText,
    StoreVector,
    StoreVectors,
)
from nexusd.retrieval import similar
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.vectors import count_pending
from nexusd.sync.sources import current_payloads
from nexusd.wire.methods import Call, Principal

pytestmark = pytest.mark.anyio
CALL = Call(Principal("uid:1", "admin"), "request-1")


def axis(number: int, dimension: int = 32) -> list[float]:
    return [float(n == number) for n in range(dimension)]


@dataclass
class Methods:
    """Both resources, called as dispatch calls them."""

    bench: Bench
    semantic: SemanticApi
    vectors: VectorsApi

    async def call(self, name: str, **params: Any) -> Any:
        """The result as a client reads it."""
        api = self.semantic if name.startswith("semantic") else self.vectors
        (method,) = (each for each in api.methods() if each.name == name)
        given = msgspec.convert(params, method.params)
        return msgspec.json.decode(msgspec.json.encode(await method.handler(CALL, given)))


@pytest.fixture
async def methods(tmp_path: Path) -> AsyncIterator[Methods]:
    async with make_bench(tmp_path) as bench:
        find = SimilaritySearch(
            bench.store, bench.index, bench.serving,
            payloads=current_payloads, complete=lambda: bench.worker.complete, patience_s=0.2,
        )
        clock = SystemClock()
        yield Methods(
            bench,
            SemanticApi(bench.store, bench.worker, find, clock),
            VectorsApi(bench.store, bench.worker, find, clock),
        )


# semantic


async def test_what_is_upserted_is_in_the_index_and_leads_back_to_its_row(methods: Methods) -> None:
    bench = methods.bench
    ada = await bench.entity("Ada", notes="tall")
    await bench.entity("Bob")
    bench.start()
    answer = await methods.call("semantic.upsert", collection="entities", id=ada.id, vector=axis(3))
    assert answer == {"collection": "entities", "id": ada.id, "vector": "indexed"}
    (hit,) = (await methods.call("semantic.search", collection="entities", vector=axis(3), topK=1))["items"]
    assert (hit["collection"], hit["id"], hit["score"]) == ("entities", ada.id, pytest.approx(1))
    assert (hit["record"]["name"], hit["record"]["notes"], hit["record"]["vector"]) == ("Ada", "tall", "indexed")


async def test_every_collection_is_searched_by_its_text_with_a_filter(methods: Methods) -> None:
    bench = methods.bench
    ids = {
        "episodes": await bench.add("green tea"),
        "entities": (await bench.entity("green tea")).id,
        "summaries": await bench.summary("green tea"),
        "messages": await bench.message("green tea", metadata={"room": "hall"}),
    }
    await bench.message("green tea", metadata={"room": "attic"})
    bench.start()
    await bench.drained()
    filters: dict[str, Any] = {
        "episodes": {"must": {"key": "sessionId", "match": {"value": bench.session}}},
        "entities": {"must": [{"key": "type", "match": {"any": ["person"]}}]},
        "summaries": {"must_not": [{"key": "createdAt", "range": {"gt": NOW_MS}}]},
        "messages": {"should": [{"key": "metadata.room", "match": {"value": "hall"}}]},
    }
    for collection, where in filters.items():
        found = await methods.call("semantic.search", collection=collection, query="green tea", filter=where)
        assert [hit["id"] for hit in found["items"]] == [ids[collection]]
        assert set(found) == {"items"}
        elsewhere = {"must": [where, {"has_id": [999]}]}
        assert (await methods.call("semantic.search", collection=collection, query="tea", filter=elsewhere)) == {
            "items": []
        }


async def test_delete_takes_the_point_and_leaves_the_row(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    ada = await bench.entity("Ada")
    await bench.drained()
    asked = {"collection": "entities", "id": ada.id}
    assert await methods.call("semantic.delete", **asked) == {"deleted": {}, "pointsQueued": 1, "outboxSeq": ANY}
    assert (bench.holds("entities"), bench.state("entities", ada.id)) == ({}, "none")
    assert await methods.call("semantic.delete", **asked) == {"deleted": {}, "pointsQueued": 0, "outboxSeq": 0}
    assert (await methods.call("semantic.upsert", **asked))["vector"] == "indexed"
    assert bench.holds("entities") == {ada.id: 1}


async def test_a_point_that_is_to_go_is_no_hit_any_more(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    ada = await bench.entity("Ada")
    await bench.drained()
    await bench.stop()  # nobody tells the index
    await methods.call("semantic.delete", collection="entities", id=ada.id, timeoutMs=1)
    assert bench.holds("entities") == {ada.id: 1}
    assert (await methods.call("semantic.search", collection="entities", query="Ada"))["items"] == []


async def test_an_upsert_whose_time_is_up_says_pending(methods: Methods) -> None:
    ada = await methods.bench.entity("Ada")  # nobody works
    answer = await methods.call("semantic.upsert", collection="entities", id=ada.id, timeoutMs=1)
    assert answer["vector"] == "pending"


async def test_the_same_upsert_again_does_nothing_again(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    ada = await bench.entity("Ada")
    await bench.drained()
    asked = {"collection": "entities", "id": ada.id, "idempotencyKey": "once"}
    first = await methods.call("semantic.upsert", **asked)
    calls = len(bench.embedder.document_calls)
    assert await methods.call("semantic.upsert", **asked, timeoutMs=77) == first
    assert len(bench.embedder.document_calls) == calls
    with pytest.raises(IdempotencyMismatch):
        await methods.call("semantic.upsert", **asked, vector=axis(1))


async def test_hits_are_live_rows_that_pass_the_filter_as_they_are_now(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    rows = [await bench.add(f"tea {n}") for n in range(30)]
    await bench.drained()
    await bench.stop()  # the index knows nothing of what follows
    for row_id in rows[:25]:
        await bench.store.write(delete_episode, row_id)
    change = UpdateEpisode(id=rows[25], metadata={"secret": True})
    await bench.store.write(update_episode, change, NOW_MS)
    asked = {"collection": "episodes", "query": "tea", "topK": 3}
    where = {"must_not": [{"key": "metadata.secret", "match": {"value": True}}]}
    every = {hit["id"] for hit in (await methods.call("semantic.search", **{**asked, "topK": 30}))["items"]}
    assert every == set(rows[25:])
    found = {hit["id"] for hit in (await methods.call("semantic.search", **asked, filter=where))["items"]}
    assert len(found) == 3  # looked deeper, past those that are gone
    assert found <= set(rows[26:])
    found = await methods.call("semantic.search", **{**asked, "topK": 5}, filter=where)
    assert {hit["id"] for hit in found["items"]} == set(rows[26:])


async def test_an_answer_holds_only_so_much_text(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(similar.TextBudget):
        def __init__(self) -> None:
            super().__init__(30)

    bench = methods.bench
    bench.start()
    for n in range(5):
        await bench.add(f"tea {n} with milk")
    await bench.drained()
    monkeypatch.setattr(similar, "TextBudget", Small)
    found = await methods.call("semantic.search", collection="episodes", query="tea", topK=5)
    assert (len(found["items"]), found["truncated"]) == (1, True)


async def test_a_part_that_is_down_is_an_error_for_there_is_no_other(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    await bench.add("tea")
    await bench.drained()
    bench.index.down = True
    with pytest.raises(IndexUnavailable):
        await methods.call("semantic.search", collection="episodes", query="tea")
    bench.index.down, bench.embedder.unavailable = False, "down"
    with pytest.raises(EmbedderUnavailable):
        await methods.call("semantic.search", collection="episodes", query="coffee")
    assert (await methods.call("semantic.search", collection="episodes", vector=axis(0)))["items"]
    bench.embedder.unavailable, bench.embedder.gate = "", asyncio.Event()
    with pytest.raises(EmbedderUnavailable, match="longer than"):
        await methods.call("semantic.search", collection="episodes", query="cocoa")


async def test_an_index_that_is_being_filled_again_is_said(methods: Methods) -> None:
    await methods.bench.add("tea")
    methods.bench.start()
    await methods.bench.drained()
    methods.bench.index.incarnation = "another"
    found = await methods.call("semantic.search", collection="episodes", query="tea")
    assert found["degraded"] == ["index"]


@pytest.mark.parametrize(
    ("vector", "error", "path"),
    [
        (axis(0, 31), DimensionMismatch, None),
        (axis(0, 33), DimensionMismatch, None),
        ([0.0] * 32, InvalidParams, "vector"),
        ([-0.0] * 32, InvalidParams, "vector"),
        ([1e-60] * 32, InvalidParams, "vector"),
        ([*axis(0, 31), 1e39], InvalidParams, "vector[31]"),
        ([math.nan, *axis(0, 31)], InvalidParams, "vector[0]"),
        ([math.inf, *axis(0, 31)], InvalidParams, "vector[0]"),
    ],
)
async def test_a_vector_without_a_direction_or_of_another_dimension_is_refused(
    methods: Methods, vector: list[float], error: type[Exception], path: str | None
) -> None:
    ada = await methods.bench.entity("Ada")
    for name, more in (("semantic.upsert", {"id": ada.id}), ("semantic.search", {})):
        with pytest.raises(error) as caught:
            await methods.call(name, collection="entities", vector=vector, **more)
        assert [fault.path for fault in caught.value.fields] == ([] if path is None else [path])  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["semantic.upsert", "semantic.delete"])
async def test_a_row_that_is_not_there_is_not_found(methods: Methods, method: str) -> None:
    with pytest.raises(RowNotFound):
        await methods.call(method, collection="summaries", id=5)


@pytest.mark.parametrize("given", [{}, {"query": "tea", "vector": axis(0)}])
def test_a_search_has_one_question(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="expected one of"):
        msgspec.convert({"collection": "episodes", **given}, SearchPoints)
    with pytest.raises(msgspec.ValidationError, match="expected one of"):
        msgspec.convert({key.replace("vector", "queryEmbedding"): each for key, each in given.items()}, SearchVectors)


def test_only_memories_have_points_of_their_own() -> None:
    for type_, more in ((UpsertPoint, {"id": 1}), (DeletePoint, {"id": 1}), (SearchPoints, {"query": "x"})):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"collection": "vectors", **more}, type_)


# vectors


async def test_a_text_is_found_by_its_own_vector_and_by_what_it_says(methods: Methods) -> None:
    methods.bench.start()
    stored = await methods.call("vectors.store", id="a", text="green tea", embedding=axis(1), waitFor="indexed")
    assert (stored["id"], stored["vector"], stored["version"]) == ("a", "indexed", 1)
    await methods.call("vectors.store", id=5, text="black coffee", metadata={"hot": True}, waitFor="indexed")
    found = await methods.call("vectors.search", queryEmbedding=axis(1))
    assert [hit["id"] for hit in found["items"]] == ["a", 5]
    assert found["items"][0] == {**stored, "similarity": pytest.approx(1)}
    assert set(found) == {"items"}
    by_text = await methods.call("vectors.search", query="black coffee", limit=1)
    assert [(hit["id"], hit["metadata"]) for hit in by_text["items"]] == [(5, {"hot": True})]


async def test_the_parameters_stand_in_the_order_of_the_older_service(methods: Methods) -> None:
    positions = {method.name: method.positions for method in methods.vectors.methods()}
    assert positions["vectors.store"][:3] == ("id", "text", "embedding")
    assert positions["vectors.search"][:2] == ("queryEmbedding", "limit")
    assert SearchVectors(query="x").limit == 5


async def test_five_and_the_text_5_are_two_ids(methods: Methods) -> None:
    methods.bench.start()
    for key in (5, "5"):
        await methods.call("vectors.store", id=key, text=f"{type(key).__name__} tea", waitFor="indexed")
    assert (await methods.call("vectors.get", id=5))["text"] == "int tea"
    assert (await methods.call("vectors.get", id="5"))["text"] == "str tea"
    for wanted, hits in (([5], [5]), (["5"], ["5"]), ([5, "5"], [5, "5"]), ([], [])):
        found = await methods.call("vectors.search", query="tea", filter={"must": {"has_id": wanted}})
        assert sorted((hit["id"] for hit in found["items"]), key=repr) == sorted(hits, key=repr)
    assert await methods.call("vectors.delete", id=5) == {
        "deleted": {"vectors": 1}, "pointsQueued": 1, "outboxSeq": ANY,
    }
    with pytest.raises(VectorNotFound):
        await methods.call("vectors.get", id=5)
    with pytest.raises(VectorNotFound):
        await methods.call("vectors.delete", id=5)
    assert (await methods.call("vectors.get", id="5"))["text"] == "str tea"


async def test_storing_again_replaces_and_storing_the_same_changes_nothing(methods: Methods) -> None:
    first = await methods.call("vectors.store", id="a", text="tea", embedding=axis(1), metadata={"n": 1})
    same = await methods.call("vectors.store", id="a", text="tea", embedding=axis(1), metadata={"n": 1})
    assert same == first
    other = await methods.call("vectors.store", id="a", text="tea")
    assert (other["version"], other["metadata"], other["createdAt"]) == (2, {}, first["createdAt"])
    assert (await methods.call("vectors.get", id="a"))["embedding"] is None


async def test_a_given_embedding_is_told_as_it_was_given(methods: Methods) -> None:
    given = [0.1, -2.5, 1 / 3, 3.4e38, 1e-40, *[0] * 27]
    await methods.call("vectors.store", id="a", text="", embedding=given)
    told = (await methods.call("vectors.get", id="a"))["embedding"]
    assert told[:2] == [0.1, -2.5]
    assert struct.pack("<32f", *told) == struct.pack("<32f", *given)


async def test_texts_that_wait_are_announced_and_not_silently_missing(methods: Methods) -> None:
    bench = methods.bench
    bench.start()
    await methods.call("vectors.store", id="a", text="tea", waitFor="indexed")
    bench.embedder.unavailable = "down"
    await methods.call("vectors.store", id="b", text="more tea")
    found = await methods.call("vectors.search", queryEmbedding=axis(0))
    assert ([hit["id"] for hit in found["items"]], found["pending"]) == (["a"], 1)


async def test_texts_that_wait_are_counted_beside_the_event_loop(
    methods: Methods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is looked at: a large import would hold everybody up at every search."""
    threads = []

    def count(db: apsw.Connection) -> int:
        threads.append(threading.get_ident())
        return count_pending(db)

    monkeypatch.setattr("nexusd.api.vectors.count_pending", count)
    methods.bench.start()
    await methods.call("vectors.store", id="a", text="tea", waitFor="indexed")
    await methods.call("vectors.search", queryEmbedding=axis(0))
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_many_are_stored_each_with_its_row_or_its_error(methods: Methods) -> None:
    methods.bench.start()
    items = [
        {"id": "a", "text": "tea"}, {"id": "b"}, {"id": "c", "text": "x", "embedding": [1]},
        {"id": "d", "text": "", "embedding": axis(2)}, {"id": "e", "text": ""},
    ]
    for _ in range(2):  # the second time it is the kept reply
        answers = await methods.call("vectors.storeMany", items=items, waitFor="indexed", idempotencyKey="k")
        got = [each.get("vector") or each["error"]["data"]["kind"] for each in answers["items"]]
        assert got == ["indexed", "invalid_params", "dimension_mismatch", "indexed", "none"]
    assert methods.bench.worker.status().pending == 0


async def test_events_tell_the_callers_ids(methods: Methods) -> None:
    (many,) = (each for each in methods.vectors.methods() if each.name == "vectors.storeMany")
    answers = await many.handler(CALL, StoreVectors(items=[{"id": 5, "text": "x"}, {"id": "a"}]))
    assert any(isinstance(each, ItemError) for each in answers.items)
    assert many.subject is not None
    assert many.subject(None, answers) == {"ids": [5]}
    (upsert,) = (each for each in methods.semantic.methods() if each.name == "semantic.upsert")
    assert upsert.subject is not None
    assert upsert.subject(UpsertPoint(collection="entities", id=3), None) == {"collection": "entities", "id": 3}


async def test_a_list_goes_page_by_page_newest_first(methods: Methods) -> None:
    for n in range(5):
        await methods.call("vectors.store", id=n, text=f"text {n}")
    seen, cursor = [], None
    while True:
        page = await methods.call("vectors.list", limit=2, **({} if cursor is None else {"cursor": cursor}))
        seen += [item["id"] for item in page["items"]]
        if (cursor := page["nextCursor"]) is None:
            break
    assert seen == [4, 3, 2, 1, 0]
    assert [item["id"] for item in (await methods.call("vectors.list", offset=3))["items"]] == [1, 0]


async def test_filters_reach_into_metadata(methods: Methods) -> None:
    methods.bench.start()
    kinds = {"a": {"size": 0.5}, "b": {"size": 2}, "c": {"tags": ["red", "hot"]}, "d": {"in": {"room": "hall"}}}
    items = [{"id": key, "text": "tea", "metadata": metadata} for key, metadata in kinds.items()]
    await methods.call("vectors.storeMany", items=items, waitFor="indexed")
    for condition, expected in (
        ({"key": "metadata.size", "range": {"gt": 0.4, "lt": 1}}, {"a"}),
        ({"key": "metadata.tags[]", "match": {"value": "hot"}}, {"c"}),
        ({"key": "metadata.in.room", "match": {"any": ["hall"]}}, {"d"}),
        ({"must_not": [{"key": "metadata.size", "range": {"gte": 0}}]}, {"c", "d"}),
    ):
        found = await methods.call("vectors.search", query="tea", filter={"must": [condition]})
        assert {hit["id"] for hit in found["items"]} == expected


@pytest.mark.parametrize("name", ["vectors.store", "vectors.search"])
async def test_a_given_vector_is_checked(methods: Methods, name: str) -> None:
    field = {"vectors.store": "embedding", "vectors.search": "queryEmbedding"}[name]
    more = {"id": 1, "text": "x"} if name == "vectors.store" else {}
    with pytest.raises(DimensionMismatch, match=f"`{field}` has dimension 3"):
        await methods.call(name, **more, **{field: [1, 2, 3]})
    with pytest.raises(InvalidParams) as caught:
        await methods.call(name, **more, **{field: [0] * 32})
    assert [fault.path for fault in caught.value.fields] == [field]


def test_ids_are_texts_or_whole_numbers() -> None:
    for bad in ("", 1.5, True, None, 2**53, "x" * 600):
        for type_, more in ((GetVector, {}), (DeleteVector, {}), (StoreVector, {"text": "x"})):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert({"id": bad, **more}, type_)
    assert ListVectors().limit == 50
    assert "embedding" not in StoredText.__struct_fields__


async def test_an_index_that_is_lost_during_a_search_is_said(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = methods.bench
    await bench.add("tea")
    bench.start()
    await bench.drained()
    found_before = bench.index.search

    async def search_late(*asked: Any) -> Any:
        bench.index.wipe()
        bench.index.incarnation = "another"
        return await found_before(*asked)

    monkeypatch.setattr(bench.index, "search", search_late)
    found = await methods.call("semantic.search", collection="episodes", query="tea")
    assert (found["items"], found["degraded"]) == ([], ["index"])
