"""The child's half, in this process: a real pipe and real threads, a model that does what the test says."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from nexusd.child_channel import ChildChannel, pack_frame
from nexusd.embedding import model_process
from nexusd.embedding.model import ModelUnavailable, TextRefused
from nexusd.embedding.model_process import RELOAD_AFTER_S, ModelProcess


class SteppedModel:
    """Texts starting with "wait" block until `go`; what was computed, in order, is in `done`."""

    dimension = 1

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.done: list[str] = []

    def embed(self, texts: Sequence[str]) -> list[bytes]:
        for position, text in enumerate(texts):
            if text == "refused":
                raise TextRefused(position, "not this one")
            if text == "gone":
                raise ModelUnavailable("the model is gone")
            if text.startswith("wait"):
                self.begun.set()
                assert self.go.wait(30)
            self.done.append(text)
        return [struct.pack("<f", len(text)) for text in texts]

    def count_tokens(self, words: Sequence[str]) -> list[int]:
        return [len(word) for word in words]


class MovedClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class Daemon:
    """The other end of the pipe."""

    def __init__(self, load: Callable[[], Any], *, threads: int = 2) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._socket.settimeout(30)
        self._stream = ours.makefile("rb")
        self.clock = MovedClock()
        process = ModelProcess(ChildChannel(theirs.detach()), load, threads=threads, clock=self.clock)
        self.process = threading.Thread(target=process.run)
        self.process.start()

    def ask(self, request_id: int, op: str, payload: object) -> None:
        self._socket.sendall(pack_frame([request_id, op, payload]))

    def answer(self) -> list[Any]:
        (length,) = struct.unpack("<I", self._stream.read(4))
        answer: list[Any] = msgspec.msgpack.decode(self._stream.read(length))
        return answer

    def hang_up(self) -> None:
        self._stream.close()
        self._socket.close()
        self.process.join(30)
        assert not self.process.is_alive()


Start = Callable[..., Daemon]


@pytest.fixture
def model() -> Iterator[SteppedModel]:
    model = SteppedModel()
    yield model
    model.go.set()


@pytest.fixture
def start() -> Iterator[Start]:
    daemons: list[Daemon] = []

    def start(load: Callable[[], Any], **options: int) -> Daemon:
        daemons.append(Daemon(load, **options))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.hang_up()


def test_a_query_overtakes_every_document_that_waits(model: SteppedModel, start: Start) -> None:
    daemon = start(lambda: model, threads=2)
    for request_id in range(10):
        daemon.ask(request_id, "documents", [f"wait {request_id}"])
    assert model.begun.wait(30)  # both background threads are taken, eight requests wait
    daemon.ask(99, "query", ["quick"])
    assert daemon.answer()[:2] == [99, True]
    assert model.done == ["quick"]
    model.go.set()
    assert sorted(daemon.answer()[0] for _ in range(10)) == list(range(10))


def test_words_are_counted_while_documents_are_computed(model: SteppedModel, start: Start) -> None:
    daemon = start(lambda: model, threads=1)
    daemon.ask(1, "documents", ["wait"])
    assert model.begun.wait(30)
    daemon.ask(2, "tokens", ["a", "bcd"])
    assert daemon.answer() == [2, True, [1, 3]]
    model.go.set()
    assert daemon.answer()[0] == 1


def test_background_threads_lower_their_own_priority_and_the_query_thread_keeps_its(
    model: SteppedModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered: queue.Queue[tuple[str, int]] = queue.Queue()

    def lower(niceness: int) -> None:
        lowered.put((threading.current_thread().name, niceness))

    monkeypatch.setattr(model_process, "lower_priority", lower)
    daemon = start(lambda: model, threads=2)
    daemon.ask(1, "documents", ["a"])
    daemon.ask(2, "query", ["b"])
    assert {daemon.answer()[0], daemon.answer()[0]} == {1, 2}
    assert sorted(lowered.get(timeout=30) for _ in range(2)) == [("documents-0", 15), ("documents-1", 15)]
    assert lowered.empty()


def test_a_refused_text_is_an_answer_with_its_place(model: SteppedModel, start: Start) -> None:
    daemon = start(lambda: model)
    daemon.ask(1, "documents", ["a", "refused"])
    assert daemon.answer() == [1, False, {"kind": "rejected", "message": "not this one", "position": 1}]
    daemon.ask(2, "documents", ["gone"])
    assert daemon.answer() == [2, False, {"kind": "unavailable", "message": "the model is gone"}]
    daemon.ask(3, "documents", ["a"])
    assert daemon.answer() == [3, True, [struct.pack("<f", 1)]]


def test_nothing_is_loaded_before_the_first_request(model: SteppedModel, start: Start) -> None:
    loads: list[int] = []

    def load() -> SteppedModel:
        loads.append(1)
        return model

    daemon = start(load)
    assert loads == []
    daemon.ask(1, "load", None)
    assert daemon.answer() == [1, True, {"dimension": 1}]
    daemon.ask(2, "query", ["a"])
    daemon.answer()
    assert loads == [1]


def test_a_model_that_cannot_be_loaded_is_answered_and_tried_again_later(
    model: SteppedModel, start: Start
) -> None:
    attempts: list[int] = []
    installed = threading.Event()

    def load() -> SteppedModel:
        attempts.append(1)
        if not installed.is_set():
            raise ModelUnavailable("not installed")
        return model

    daemon = start(load)
    for request_id in range(5):
        daemon.ask(request_id, "query", ["a"])
        assert daemon.answer() == [request_id, False, {"kind": "unavailable", "message": "not installed"}]
    assert attempts == [1]

    installed.set()
    daemon.clock.now_s += RELOAD_AFTER_S
    daemon.ask(6, "query", ["a"])
    assert daemon.answer()[:2] == [6, True]
    assert attempts == [1, 1]
