"""The process that computes embeddings: `python -m nexusd.embedding.model_process FD MODEL DIM THREADS`.

Owns its threads and their priorities: documents are computed in the background, queries in a thread of
their own at normal priority, so that a search never waits behind a backlog. A model that cannot be loaded
is an answer, not a death; loading is tried again when somebody asks later. Knows a model by its protocol.

    load       null     ->  {dimension}
    documents  [text]   ->  [vector]
    query      [text]   ->  [vector]
    tokens     [word]   ->  [number], 0 for a word that the tokenizer does not know
    refusals: `unavailable` (nothing can be embedded now), `rejected` with `position` (this text never can)
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from nexusd.child_channel import ChildChannel, become_child, lower_priority
from nexusd.clock import Clock, SystemClock
from nexusd.embedding.model import Model, ModelUnavailable, TextRefused
from nexusd.embedding.model_files import locate

DOCUMENT_NICENESS = 15  # a thirtieth of a core beside anything that answers somebody, all of an idle one
IDLE_AFTER_S = 5.0  # without a request for this long, freed memory goes back to the system
RELOAD_AFTER_S = 10.0  # a model that could not be loaded is tried again this much later, when asked

Jobs = queue.SimpleQueue[tuple[int, Callable[[], list[Any]]]]


class ModelProcess:
    """Requests from the channel to threads, their answers back."""

    def __init__(
        self, channel: ChildChannel, load: Callable[[], Model], *, threads: int, clock: Clock
    ) -> None:
        """`load` is called at the first request; it raises ModelUnavailable where there is no model."""
        self._channel = channel
        self._load_model = load
        self._threads = threads
        self._clock = clock
        self._model: Model | None = None
        self._trouble = ""
        self._tried_s = 0.0
        self._queries: Jobs = queue.SimpleQueue()
        self._documents: Jobs = queue.SimpleQueue()

    def run(self) -> None:
        """Serve until the daemon closes the pipe."""
        self._start_thread("query", self._queries, niceness=0)
        for number in range(self._threads):
            self._start_thread(f"documents-{number}", self._documents, niceness=DOCUMENT_NICENESS)
        wait_s: float | None = None
        while True:
            try:
                message = self._channel.receive(wait_s)
                if message is not None:
                    self._take(*message)
            except (EOFError, ConnectionError):  # the daemon closed the pipe, or is no more
                return
            if message is None:
                _give_memory_back()
            wait_s = None if message is None else IDLE_AFTER_S

    def _take(self, request_id: int, op: str, payload: list[str]) -> None:
        try:
            model = self._loaded()
        except ModelUnavailable as error:
            self._channel.fail(request_id, "unavailable", error.message)
            return
        if op == "query":
            self._queries.put((request_id, partial(model.embed, payload)))
        elif op == "tokens":  # a query's answer waits for them, too
            self._queries.put((request_id, partial(model.count_tokens, payload)))
        elif op == "documents":
            self._documents.put((request_id, partial(model.embed, payload)))
        else:  # "load"
            self._channel.reply(request_id, {"dimension": model.dimension})

    def _loaded(self) -> Model:
        """The model; only the main thread comes here.

        Raises:
            ModelUnavailable: it cannot be loaded, or could not moments ago.
        """
        if self._model is None:
            now_s = self._clock.monotonic_s()
            if self._trouble and now_s - self._tried_s < RELOAD_AFTER_S:
                raise ModelUnavailable(self._trouble)
            self._tried_s = now_s
            try:
                self._model = self._load_model()
            except ModelUnavailable as error:
                self._trouble = error.message
                raise
        return self._model

    def _start_thread(self, name: str, jobs: Jobs, *, niceness: int) -> None:
        threading.Thread(target=self._work, args=(jobs, niceness), name=name, daemon=True).start()

    def _work(self, jobs: Jobs, niceness: int) -> None:
        if niceness:
            lower_priority(niceness)
        while True:
            request_id, work = jobs.get()
            try:
                answer = work()
            except TextRefused as refused:
                self._channel.fail(request_id, "rejected", refused.message, position=refused.position)
            except ModelUnavailable as error:
                self._channel.fail(request_id, "unavailable", error.message)
            else:
                self._channel.reply(request_id, answer)


def load_model(name: str, dimension: int) -> Model:
    """The model that `embedding.model` names, checked.

    Raises:
        ModelUnavailable: a package or file is missing or wrong, or the dimension is another.
    """
    importlib.invalidate_caches()  # what was missing may have been installed since
    # The runtime keeps figures for its maker, in a file in the home directory, and sends them: not from here.
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
    try:
        from nexusd.embedding.onnx_model import OnnxModel  # noqa: PLC0415  its absence is an answer, not an end
    except ImportError as error:
        raise ModelUnavailable(
            f"the built-in model needs the package {error.name}, which cannot be imported ({error}): "
            "pip install nexusd[builtin]"
        ) from None
    model = OnnxModel(locate(name))
    if model.dimension != dimension:
        raise ModelUnavailable(
            f"the model {name} gives {model.dimension} dimensions, not {dimension}: "
            f"set embedding.dimension to {model.dimension}"
        )
    return model


def _give_memory_back() -> None:
    """Return what is free to the system: half of what a long batch leaves behind.

    Here and not by a lower mmap threshold, which does it at once but costs a tenth of the throughput.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _die_whole(failed: threading.ExceptHookArgs) -> None:
    """Without this the process would live on with a thread less, and its calls would wait for nothing."""
    if issubclass(failed.exc_type, ConnectionError):  # the daemon closed the pipe
        os._exit(0)
    sys.excepthook(failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    os._exit(70)


def main() -> None:
    """Serve the daemon that started this process."""
    fd, name, dimension, threads = sys.argv[1:]
    become_child()
    threading.excepthook = _die_whole
    ModelProcess(
        ChildChannel(int(fd)),
        lambda: load_model(name, int(dimension)),
        threads=int(threads),
        clock=SystemClock(),
    ).run()
    # Threads may be inside the runtime, which does not survive an orderly exit; nothing is to be saved.
    os._exit(0)


if __name__ == "__main__":
    main()
