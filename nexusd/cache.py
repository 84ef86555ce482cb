"""Values under keys, for a while: in memory only, bounded, the least recently used goes first.

Owns the bounds, the time to live and the figures. A value is the bytes of its JSON: what is read is what was
encoded once, when it was set. Knows no method, and no disk: after a start it is empty.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import TLRUCache

from nexusd.clock import Clock
from nexusd.config_sections import CacheConfig
from nexusd.errors import TooLarge
from nexusd.model.cache import CacheStats
from nexusd.model.fields import Key

SWEEP_INTERVAL_S = 10.0  # what has expired is not found from then on; this is only how long its memory is held
NUMBER_KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A value with the moment (monotonic) from which on it is not found any more."""

    value: bytes
    expires_s: float
    size: int


class _Entries(TLRUCache[Key, Entry, float]):
    """cachetools' cache with a time to live for each entry, counting what goes by itself."""

    def __init__(self, clock: Clock) -> None:
        self.evictions = 0
        self.expirations = 0
        super().__init__(math.inf, _expires_s, clock.monotonic_s, _size)    # its bound could not be changed: ours can

    def popitem(self) -> tuple[Key, Entry]:
        """Room is needed: the entry that was not used for the longest time goes."""
        gone = super().popitem()
        self.evictions += 1
        return gone

    def expire(self, time: float | None = None) -> list[tuple[Key, Entry]]:
        """Everything that has had its time goes."""
        gone = super().expire(time)
        self.expirations += len(gone)
        return gone


def _expires_s(_key: Key, entry: Entry, _now_s: float) -> float:
    return entry.expires_s


def _size(entry: Entry) -> int:
    return entry.size


class Cache:
    """The TTL cache. Used on one event loop."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._entries = _Entries(clock)
        self._hits = 0
        self._misses = 0

    def set_bounds(self, config: CacheConfig) -> None:
        """Hold so much, and each entry for so long where its writer does not say, from now on."""
        self._config = config
        self._make_room(0, 0)

    def get(self, key: Key) -> tuple[bytes, int] | None:
        """The value and the milliseconds that it has left, or None. It counts as used."""
        try:
            entry = self._entries[key]
        except KeyError:
            self._misses += 1
            return None
        self._hits += 1
        return entry.value, max(1, round((entry.expires_s - self._clock.monotonic_s()) * 1000))

    def set(self, key: Key, value: bytes, ttl_ms: int | None = None) -> int:
        """Keep a value; answers how many milliseconds. What is there under the key gives way.

        Raises:
            TooLarge: with its key it is larger than the whole cache may be. What is there stays.
        """
        size = len(value) + (len(key.encode()) if isinstance(key, str) else NUMBER_KEY_BYTES)
        if size > self._config.max_bytes:
            raise TooLarge(f"The value has {size:,} bytes with its key; the cache holds {self._config.max_bytes:,}.")
        ttl_ms = self._config.ttl_ms if ttl_ms is None else ttl_ms
        entry = Entry(value, self._clock.monotonic_s() + ttl_ms / 1000, size)
        self._entries.pop(key, None)    # first, so that nothing else makes room for what goes anyway
        self._make_room(1, size)
        self._entries[key] = entry
        return ttl_ms

    def _make_room(self, entries: int, size: int) -> None:
        """For so many more."""
        held = self._entries
        while held and (
            len(held) + entries > self._config.max_entries or held.currsize + size > self._config.max_bytes
        ):
            held.popitem()

    def delete(self, key: Key) -> bool:
        """Forget a value; whether there was one."""
        return self._entries.pop(key, None) is not None

    def clear(self) -> int:
        """Forget everything; how many values that were."""
        count = len(self._entries)
        self._entries.clear()
        return count

    def sweep(self) -> None:
        """Give back the memory of what has expired."""
        self._entries.expire()

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Sweep now and then; writes do as well."""
        while True:
            await sleep(SWEEP_INTERVAL_S)
            self.sweep()

    def stats(self) -> CacheStats:
        """The figures of now."""
        return CacheStats(
            entries=len(self._entries),
            bytes=int(self._entries.currsize),
            hits=self._hits,
            misses=self._misses,
            evictions=self._entries.evictions,
            expirations=self._entries.expirations,
            max_entries=self._config.max_entries,
            max_bytes=self._config.max_bytes,
            ttl_ms=self._config.ttl_ms,
        )
