"""What the configuration means for the models that the store knows of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
from fakes.clock import ManualClock
from fakes.embedder import FakeEmbedder
from harness.database import open_database

from nexusd.config_sections import EmbeddingConfig
from nexusd.errors import ConfigError
from nexusd.model.vectors import NewVector
from nexusd.store.database import Database
from nexusd.store.embeddings import save_vectors
from nexusd.store.meta import get_meta, set_meta
from nexusd.store.models import StoredModel, select_models
from nexusd.store.outbox import count_outbox
from nexusd.store.vectors import upsert_vector
from nexusd.sync.models import Models

pytestmark = pytest.mark.anyio
NOW_MS = 1_700_000_000_000


class Made(FakeEmbedder):
    """Remembers what it was made of."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__(config.dimension or 32, model=config.model_name)
        self.config = config


class Bench:
    """A store, and models over it with one configuration after another."""

    def __init__(self, store: Database) -> None:
        self.store = store
        self.clock = ManualClock(NOW_MS)
        self.made: list[Made] = []
        self.tell: list[Callable[[bool], None]] = []
        self.heard: list[tuple[str, bool]] = []

    def _make(self, config: EmbeddingConfig, on_answering: Callable[[bool], None]) -> Made:
        if config.model == "gone":
            raise ConfigError("there is no model gone")
        self.made.append(Made(config))
        self.tell.append(on_answering)
        return self.made[-1]

    async def open(self, model: str = "one", **embedding: object) -> Models:
        config = EmbeddingConfig(**{"provider": "ollama", "model": model, **embedding})  # type: ignore[arg-type]  # made of keywords
        models = Models(
            self.store, config, self.clock, self._make,
            on_answering=lambda role, up: self.heard.append((role, up)), retire_after_s=10,
        )  # fmt: skip
        await models.open()
        await models.start()
        self.clock.advance(1)
        return models

    async def rows(self) -> dict[str, StoredModel]:
        return {row.model: row for row in await self.store.read(select_models)}

    async def states(self) -> dict[str, str]:
        return {name: row.state for name, row in (await self.rows()).items()}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_database(tmp_path / "nexus.db") as store:
        yield Bench(store)


def key_of(model: str, dimension: int = 32) -> str:
    return FakeEmbedder(dimension, model=model).fingerprint.short


async def test_the_first_model_serves_at_once(bench: Bench) -> None:
    models = await bench.open("one")
    assert models.serving.model.key == key_of("one")
    assert (models.next, models.kept()) == (None, [])
    assert await bench.states() == {"one": "serving"}


async def test_another_one_comes_next_and_the_first_is_made_again_of_what_it_was(bench: Bench) -> None:
    await bench.open("one", timeout_s=7.0, document_prefix="passage: ")
    models = await bench.open("two", dimension=48)
    assert (models.serving.model.key, models.next.key if models.next else None) == (key_of("one"), key_of("two", 48))
    again = bench.made[-1].config
    assert (again.model, again.dimension, again.timeout_s, again.document_prefix) == ("one", 32, 7.0, "passage: ")
    assert await bench.states() == {"one": "serving", "two": "next"}
    assert all(embedder.started for embedder in bench.made[1:])


async def test_a_default_that_changes_later_does_not_make_another_model_of_it(bench: Bench) -> None:
    await bench.open("nomic-embed-text")
    settings = json.loads((await bench.rows())["nomic-embed-text"].settings)
    assert (settings["documentPrefix"], settings["queryPrefix"]) == ("search_document: ", "search_query: ")
    assert settings["dimension"] == 32


@pytest.mark.parametrize(
    ("present", "key"),
    [
        ({"url": "http://box:11434"}, "new-key"), ({"url": "http://box:1"}, "new-key"),
        ({"url": "http://elsewhere:11434"}, None), ({"url": None}, None),
        ({"url": "http://box:11434", "provider": "openai"}, None),
    ],
)  # fmt: skip
async def test_no_key_is_kept_and_the_present_one_goes_to_the_same_service_alone(
    bench: Bench, present: dict[str, object], key: str | None
) -> None:
    await bench.open("one", url="http://user:hush@box:11434", api_key="old-key")
    settings = (await bench.rows())["one"].settings
    assert "old-key" not in settings
    assert "hush" not in settings
    assert json.loads(settings)["url"] == "http://box:11434"
    await bench.open("two", api_key="new-key", **present)
    assert bench.made[-1].config.model == "one"
    assert bench.made[-1].config.api_key == key


async def test_a_service_that_moved_is_the_same_model(bench: Bench) -> None:
    await bench.open("one", url="http://here:1")
    models = await bench.open("one", url="http://there:2")
    assert models.next is None
    assert len(bench.made) == 2
    assert json.loads((await bench.rows())["one"].settings)["url"] == "http://there:2"


@pytest.mark.parametrize("settings", ["{}", '{"provider": "telepathy"}', '{"model": "gone"}', "[]"])
async def test_one_that_cannot_be_made_again_is_away_and_says_so(bench: Bench, settings: str) -> None:
    await bench.open("one")
    await bench.store.write(lambda db: db.execute("UPDATE models SET settings = ?", (settings,)) and None)
    models = await bench.open("two")
    embedder = models.serving.model.embedder
    assert embedder.fingerprint == FakeEmbedder(model="one").fingerprint
    assert embedder.health().state == "unavailable"
    assert embedder.health().detail.startswith("one, which served before, cannot be used any more: ")
    assert models.info(models.serving.model).answers is False


async def test_settings_that_a_newer_program_wrote_are_understood_as_far_as_they_go(bench: Bench) -> None:
    await bench.open("one")
    await bench.store.write(
        lambda db: db.execute("UPDATE models SET settings = json_set(settings, '$.novelty', 1)") and None
    )
    models = await bench.open("two")
    assert models.serving.model.embedder.health().state != "unavailable"


async def test_a_next_one_that_is_not_wanted_any_more_is_kept_and_the_first_serves_on(bench: Bench) -> None:
    await bench.open("one")
    await bench.open("two", keep_old_s=60)
    models = await bench.open("one", keep_old_s=60)
    assert (models.serving.model.key, models.next) == (key_of("one"), None)
    (kept,) = models.kept()
    assert (kept.model, kept.keep_until) == ("two", NOW_MS + 2000 + 60_000)
    assert models.kept_collections("episodes")[0].name == f"episodes-{key_of('two')}"
    assert [row.model for row in models.due()] == []
    bench.clock.advance(60)
    assert [row.model for row in models.due()] == ["two"]


async def test_who_answers_is_told_by_its_part_in_it(bench: Bench) -> None:
    await bench.open("one")
    models = await bench.open("two")
    second, first_again = bench.tell[1], bench.tell[2]
    first_again(True)
    second(True)
    assert bench.heard == [("serving", True), ("next", True)]
    await models.close()
    assert all(embedder.closed for embedder in bench.made[1:])


async def test_changed_weights_are_asked_through_an_embedder_of_their_own(bench: Bench) -> None:
    """The one that serves remembers questions, and may have the weights of before in memory."""
    models = await bench.open("one")
    begun = await bench.store.write(models.begin_anew, NOW_MS)
    assert begun is not None
    await models.look_again()
    assert models.next is not None
    assert models.next.key == f"{key_of('one')}-2"
    assert models.next.embedder is not models.serving.model.embedder
    again = await bench.open("one")
    assert again.next is not None
    assert again.next.embedder is not again.serving.model.embedder
    assert (again.serving.model.key, again.next.key) == (key_of("one"), f"{key_of('one')}-2")


# --- a database from before there was the table ---


def formerly(db: apsw.Connection, key: str) -> None:
    for collection in ("episodes", "entities", "summaries", "messages", "vectors"):
        set_meta(db, f"collection.{collection}", f"{collection}-{key}")
        set_meta(db, f"incarnation.{collection}", f"made once for {collection}")
    new = NewVector(id="mine", text="of my own")
    upsert_vector(db, new, b"1234", "nobody", NOW_MS)
    db.execute("UPDATE vectors SET embedding_model = NULL")
    db.execute("DELETE FROM outbox")
    save_vectors(db, "vectors", key, 1, [(1, 1, b"0123456789abcdef", b"1234")])


def whose(db: apsw.Connection) -> list[str]:
    return [model for (model,) in db.execute("SELECT embedding_model FROM vectors")]


async def test_the_model_that_a_database_of_before_names_serves_on_as_it_is(bench: Bench) -> None:
    await bench.store.write(formerly, key_of("one"))
    models = await bench.open("one")
    assert models.next is None
    assert await bench.states() == {"one": "serving"}
    assert (await bench.store.read(count_outbox)).pending == 0
    assert await bench.store.read(get_meta, f"incarnation.episodes-{key_of('one')}") == "made once for episodes"
    assert await bench.store.read(get_meta, "collection.episodes") is None
    assert await bench.store.read(whose) == [key_of("one")]


async def test_where_a_database_of_before_names_another_one_all_rows_are_queued_for_the_configured_one(
    bench: Bench,
) -> None:
    await bench.store.write(formerly, key_of("other"))
    models = await bench.open("one", keep_old_s=60)
    assert (models.serving.model.key, models.next) == (key_of("one"), None)
    assert (await bench.store.read(count_outbox)).pending == 1
    assert await bench.store.read(whose) == [key_of("other")]
    (kept,) = models.kept()
    assert (kept.key, kept.dimension, kept.keep_until) == (key_of("other"), 1, NOW_MS + 60_000)
