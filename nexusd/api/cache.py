"""cache.*: values under keys, for a while.

Every method is immediate. An idempotencyKey is taken, as by all that changes something, and has no further effect:
setting, deleting and clearing twice is the same as once, and what is gone with the memory needs no receipt on disk.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexusd.cache import Cache
from nexusd.clock import Clock
from nexusd.errors import TooLarge
from nexusd.model.cache import (
    CacheClearance,
    CacheDeletion,
    CachedValue,
    CacheReceipt,
    CacheStats,
    ClearCache,
    DeleteCached,
    GetCached,
    SetCached,
)
from nexusd.model.fields import Key, NoParams
from nexusd.wire.methods import Call, Method

NULL = msgspec.Raw(b"null")


class CacheApi:
    """The methods on the cache."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._absent = CachedValue(found=False, value=NULL, expires_in_ms=None)

    def get(self, _call: Call, params: GetCached) -> CachedValue:
        """The value under a key."""
        found = self._cache.get(params.key)
        if found is None:
            return self._absent
        return CachedValue(found=True, value=msgspec.Raw(found[0]), expires_in_ms=found[1])

    def set(self, _call: Call, params: SetCached) -> CacheReceipt:
        """Keep a value."""
        ttl_ms = self._cache.set(params.key, msgspec.json.encode(params.value), params.ttl)
        return CacheReceipt(expires_at=self._clock.now_ms() + ttl_ms, ttl=ttl_ms)

    def delete(self, _call: Call, params: DeleteCached) -> CacheDeletion:
        """Forget a value."""
        return CacheDeletion(deleted=self._cache.delete(params.key))

    def clear(self, _call: Call, _params: ClearCache) -> CacheClearance:
        """Forget all values."""
        return CacheClearance(deleted=self._cache.clear())

    def stats(self, _call: Call, _params: NoParams) -> CacheStats:
        """The cache in figures."""
        return self._cache.stats()

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="cache.get",
                summary="Get the value that is kept under a key; where there is none, null and found false.",
                params=GetCached,
                result=CachedValue,
                handler=self.get,
                role="read",
                immediate=True,
                example={"key": "weather"},
            ),
            Method(
                name="cache.set",
                summary="Keep a value under a key for a while, in memory only.",
                params=SetCached,
                result=CacheReceipt,
                handler=self.set,
                role="write",
                immediate=True,
                mutates=True,
                errors=(TooLarge,),
                example={"key": "weather", "value": {"outside": 12.5}, "ttl": 60_000},
                subject=_key,
            ),
            Method(
                name="cache.delete",
                summary="Forget the value under a key.",
                params=DeleteCached,
                result=CacheDeletion,
                handler=self.delete,
                role="write",
                immediate=True,
                mutates=True,
                example={"key": "weather"},
                subject=_key,
            ),
            Method(
                name="cache.clear",
                summary="Forget all values; answers how many there were.",
                params=ClearCache,
                result=CacheClearance,
                handler=self.clear,
                role="write",
                immediate=True,
                mutates=True,
                example={},
                subject=_nothing,
            ),
            Method(
                name="cache.stats",
                summary="Show the cache in figures: what it holds, hits, misses, and its limits.",
                params=NoParams,
                result=CacheStats,
                handler=self.stats,
                role="read",
                immediate=True,
                example={},
            ),
        ]


def _key(params: SetCached | DeleteCached, _result: object) -> Mapping[str, Key]:
    return {"key": params.key}


def _nothing(_params: ClearCache, _result: CacheClearance) -> Mapping[str, Key]:
    return {}
