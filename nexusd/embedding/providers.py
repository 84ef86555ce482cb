"""Which embedder the settings choose.

Knows all of them, and imports the HTTP client only where it is wanted: it costs memory and time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nexusd.clock import Clock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.builtin import BuiltinEmbedder
from nexusd.embedding.model_files import PROVIDER as BUILTIN

if TYPE_CHECKING:
    from nexusd.embedding.http_embedder import HttpEmbedder


def make_embedder(
    config: EmbeddingConfig, clock: Clock, *, on_answering: Callable[[bool], None]
) -> BuiltinEmbedder | HttpEmbedder:
    """The embedder of `embedding.provider`, not started.

    Raises:
        ConfigError: there is no such model, or the configured dimension is not the model's.
    """
    if config.provider == BUILTIN:
        return BuiltinEmbedder(config, clock, on_answering=on_answering)
    from nexusd.embedding.http_embedder import HttpEmbedder  # noqa: PLC0415

    return HttpEmbedder(config, clock, on_answering=on_answering)
