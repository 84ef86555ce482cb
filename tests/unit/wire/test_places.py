from __future__ import annotations

import random

import pytest

from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy
from nexusd.wire.methods import Principal
from nexusd.wire.peers import Peer
from nexusd.wire.places import Places

KNOWN, STRANGER = Principal("uid:1", "read"), Principal("tcp:10.0.0.1", "none")


def places(**limits: int) -> Places:
    return Places(LimitsConfig(**limits))


def test_each_limit_is_held_and_a_refusal_counts_nothing() -> None:
    few = places(max_connections=3, max_connections_per_peer=2)
    few.take(Peer(KNOWN, "a"))
    few.take(Peer(KNOWN, "a"))
    with pytest.raises(Busy, match="a has 2 connections, the most that one peer may have"):
        few.take(Peer(KNOWN, "a"))
    few.take(Peer(KNOWN, "b"))
    with pytest.raises(Busy, match="There are 3 connections, the most that are taken"):
        few.take(Peer(KNOWN, "c"))
    assert (few.taken, few.peers) == (3, 2)
    few.give("a", as_stranger=False)
    few.take(Peer(KNOWN, "c"))


def test_strangers_are_few_until_they_are_known() -> None:
    few = places(max_connections=40, max_connections_per_peer=20, max_unauthenticated_per_peer=2)
    few.take(Peer(STRANGER, "a"))
    few.take(Peer(STRANGER, "a"))
    with pytest.raises(Busy, match="have not logged in yet"):
        few.take(Peer(STRANGER, "a"))
    few.take(Peer(KNOWN, "a"))
    few.known("a")
    few.take(Peer(STRANGER, "a"))
    for number in range(8):
        few.take(Peer(STRANGER, f"b{number}"))
    with pytest.raises(Busy, match="have not logged in yet"):   # a quarter of all
        few.take(Peer(STRANGER, "c"))
    few.take(Peer(KNOWN, "c"))


def test_when_all_are_gone_nothing_is_kept() -> None:
    chance, few = random.Random(7), places(max_connections=30, max_connections_per_peer=8)
    inside: list[tuple[str, bool]] = []
    for _ in range(3000):
        if inside and chance.random() < 0.5:
            key, strange = inside.pop(chance.randrange(len(inside)))
            few.give(key, as_stranger=strange)
            continue
        key, strange = chance.choice("abcdef"), chance.random() < 0.5
        try:
            few.take(Peer(STRANGER if strange else KNOWN, key))
        except Busy:
            continue
        if strange and chance.random() < 0.5:
            few.known(key)
            strange = False
        inside.append((key, strange))
        assert few.taken == len(inside) <= 30
    for key, strange in inside:
        few.give(key, as_stranger=strange)
    assert (few.taken, few.peers, few._all_strangers, few._strangers) == (0, 0, 0, {})
