"""The process that reranks: `python -m nexusd.embedding.rerank_process FD DIRECTORY THREADS`.

One request after another, at normal priority: each is a search that waits. A model that cannot be loaded is an answer,
not a death.

    load   null               ->  null
    score  [query, [text]]    ->  [number]
    refusal: `unavailable`
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexusd.child_channel import ChildChannel, become_child
from nexusd.embedding.model import ModelUnavailable

if TYPE_CHECKING:
    from nexusd.embedding.cross_encoder import CrossEncoder


def load_cross_encoder(directory: str, threads: int) -> CrossEncoder:
    """The model in the directory.

    Raises:
        ModelUnavailable: a package or file is missing or wrong.
    """
    importlib.invalidate_caches()   # what was missing may have been installed since
    # The runtime keeps figures for its maker, in a file in the home directory, and sends them: not from here.
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
    try:
        from nexusd.embedding.cross_encoder import CrossEncoder  # noqa: PLC0415  its absence is an answer, not an end
    except ImportError as error:
        raise ModelUnavailable(
            f"the reranker needs the package {error.name}, which cannot be imported ({error}): "
            "pip install nexusd[builtin]"
        ) from None
    return CrossEncoder(Path(directory).expanduser(), threads)


def serve(channel: ChildChannel, directory: str, threads: int) -> None:
    """Serve until the daemon closes the pipe."""
    model: CrossEncoder | None = None
    while True:
        try:
            message = channel.receive()
        except (EOFError, ConnectionError):     # the daemon closed the pipe, or is no more
            return
        if message is None:
            continue
        request_id, op, payload = message
        try:
            model = model or load_cross_encoder(directory, threads)
            answer: Any = model.score(*payload) if op == "score" else None
        except ModelUnavailable as error:
            channel.fail(request_id, "unavailable", error.message)
        else:
            channel.reply(request_id, answer)


def main() -> None:
    """Serve the daemon that started this process."""
    fd, directory, threads = sys.argv[1:]
    become_child()
    serve(ChildChannel(int(fd)), directory, int(threads))
    os._exit(0)     # threads of the runtime do not survive an orderly exit; nothing is to be saved


if __name__ == "__main__":
    main()
