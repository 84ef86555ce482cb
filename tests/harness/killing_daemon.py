"""A daemon that kills itself at a step of its outbox worker: `python killing_daemon.py --data DIR`.

The step is the content of DIR/kill-at, which may be written at any time. Its embedder is a fake that refuses texts with
"poison" and dies over those with "deadly" while a kill is armed. Whenever the worker comes to rest, what the index
holds is written to DIR/held.json: versions by id, by collection.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))
from fakes.embedder import FakeEmbedder

from nexusd.__main__ import main
from nexusd.embedding.embedder import EmbedderDied, RejectedText, Vector
from nexusd.sync.worker import OutboxWorker, tell_nothing

DATA = Path(sys.argv[sys.argv.index("--data") + 1])
KILL_AT = DATA / "kill-at"
HELD = DATA / "held.json"


def reached(step: str) -> None:
    """Die here, as in a power cut, if this is the step."""
    if KILL_AT.exists() and KILL_AT.read_text() == step:
        os.kill(os.getpid(), signal.SIGKILL)


class TellingWorker(OutboxWorker):
    """Says what the index holds whenever there is nothing to do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        also = kwargs.pop("reached", tell_nothing)

        def followed(step: str) -> None:
            also(step)
            reached(step)

        super().__init__(*args, reached=followed, **kwargs)

    async def _rest(self, due_ms: int | None) -> None:
        held: dict[str, dict[int, int]] = {}
        for collection in self._collections.logical:
            after, found = 0, held.setdefault(collection, {})
            while page := await self._index.scroll(self._collections.physical(collection), after, 1000):
                found.update({point.id: point.version for point in page})
                after = page[-1].id
        fresh = HELD.with_suffix(".new")
        fresh.write_text(json.dumps(held))
        fresh.replace(HELD)
        await super()._rest(due_ms)


class FragileEmbedder(FakeEmbedder):
    """Refuses some texts and dies over others, while a kill is armed."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        if KILL_AT.exists():
            if any("deadly" in text for text in texts):
                raise EmbedderDied("died before it answered")
            for position, text in enumerate(texts):
                if "poison" in text:
                    raise RejectedText("the model refuses this text", position)
        return await super().embed_documents(texts)


with (
    mock.patch("nexusd.parts.OutboxWorker", TellingWorker),
    mock.patch("nexusd.parts.make_embedder", return_value=FragileEmbedder()),
    mock.patch("nexusd.sync.preparing.PATIENCE_S", 0.0),  # so that large claims give rows back
):
    sys.exit(main())
