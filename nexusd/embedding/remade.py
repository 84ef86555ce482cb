"""An embedding model that served before, made again from what was written down of it.

Owns what is written down: the settings as they were understood, so that a default which changes later changes nothing,
and without secrets. Knows no store.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.http_settings import describe_service
from nexusd.embedding.model_files import PROVIDER as BUILTIN


def settings_to_keep(config: EmbeddingConfig, dimension: int) -> str:
    """The settings as JSON: no key, no user and no password."""
    plain = msgspec.structs.replace(config, api_key=None, model=config.model_name, dimension=dimension)
    if config.provider != BUILTIN:
        service = describe_service(config)
        plain = msgspec.structs.replace(
            plain, url=None if config.url is None else _without_user(config.url),
            document_prefix=service.document_prefix, query_prefix=service.query_prefix,
        )  # fmt: skip
    return msgspec.json.encode(plain).decode()


def kept_settings(settings: str, present: EmbeddingConfig) -> EmbeddingConfig:
    """The settings that were kept; with the present key, where it is the same service on the same host.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: this program understands them no more.
    """
    known = {field.encode_name for field in msgspec.structs.fields(EmbeddingConfig)}
    kept: dict[str, Any] = msgspec.json.decode(settings, type=dict[str, Any])
    config = msgspec.convert({name: value for name, value in kept.items() if name in known}, EmbeddingConfig)
    if (config.provider, _host(config)) == (present.provider, _host(present)):
        return msgspec.structs.replace(config, api_key=present.api_key)
    return config


def _host(config: EmbeddingConfig) -> str | None:
    return None if config.url is None else urlsplit(config.url).hostname


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
