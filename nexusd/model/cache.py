"""The cache: values under keys, for a while."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from nexusd.model.fields import Key, Mutation, Params, Record, TimeMs

MAX_TTL_MS = 366 * 86_400_000  # a year: what is to stay longer belongs into a table

CacheKey = Annotated[Key, Meta(description='What the value is kept under; 5 and "5" are two.')]


class CachedValue(Record, frozen=True, kw_only=True):
    """What cache.get answers; `value` is null where nothing was found, and may be null where something was."""

    found: bool
    value: Annotated[msgspec.Raw, Meta(description="The value as it was set.")]
    expires_in_ms: int | None


class CacheReceipt(Record, frozen=True, kw_only=True):
    """What cache.set answers: when the value goes, unless it has to make room before."""

    expires_at: TimeMs
    ttl: int


class CacheDeletion(Record, frozen=True, kw_only=True):
    """What cache.delete answers."""

    deleted: bool


class CacheClearance(Record, frozen=True, kw_only=True):
    """What cache.clear answers: how many values went."""

    deleted: int


class CacheStats(Record, frozen=True, kw_only=True):
    """The cache in figures, since the start. `evictions` made room, `expirations` had had their time."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int
    max_entries: int
    max_bytes: int
    ttl_ms: int


class GetCached(Params, frozen=True, kw_only=True):
    """Parameters of cache.get."""

    key: CacheKey


class SetCached(Mutation, frozen=True, kw_only=True):
    """Parameters of cache.set."""

    key: CacheKey
    value: Annotated[Any, Meta(description="Any JSON.")]
    ttl: Annotated[
        int | None,
        Meta(description="How long it is kept, in milliseconds, at most 366 days; if not given, as cache.ttlMs says."),
    ] = None

    def __post_init__(self) -> None:
        """Hold the bounds here: a constraint on a union of int and None binds to neither."""
        super().__post_init__()
        if self.ttl is not None and not 1 <= self.ttl <= MAX_TTL_MS:
            raise ValueError(f"expected `ttl` from 1 to {MAX_TTL_MS}")


class DeleteCached(Mutation, frozen=True, kw_only=True):
    """Parameters of cache.delete."""

    key: CacheKey


class ClearCache(Mutation, frozen=True, kw_only=True):
    """Parameters of cache.clear."""
