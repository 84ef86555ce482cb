"""Tokens: recognised or not, and what they grant from call to call."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_access import read_network
from nexusd.errors import Forbidden, RateLimited, Unauthenticated
from nexusd.wire.audit import Audit
from nexusd.wire.auth import (
    ALWAYS_GRANTED,
    LONGEST_DELAY_S,
    MAX_REMEMBERED,
    Authenticator,
    Credential,
    TokenGrant,
    digest_of,
    id_in,
    new_token,
)

PEER = "ip:192.168.1.7"
ADDRESS = "192.168.1.7"


def credential(token: str, **limits: Any) -> Credential:
    return Credential(id_in(token) or "", "kitchen", "write", digest_of(token), **limits)


class House:
    """One token, and somebody who recognises it."""

    def __init__(self, **limits: Any) -> None:
        self.clock = ManualClock()
        self.door = Authenticator(self.clock, Audit(self.clock))
        self.token, self.id = new_token()
        self.door.add(credential(self.token, **limits))

    def role(self, token: str | None = None, address: str | None = ADDRESS) -> str | None:
        principal = self.door.recognise(self.token if token is None else token, address, PEER)
        return None if principal is None else principal.role

    @property
    def grant(self) -> TokenGrant:
        found = self.door.grant_of(self.id)
        assert found is not None
        return found


def test_a_token_has_an_id_and_256_bits_and_no_two_are_the_same() -> None:
    tokens = {new_token()[0] for _ in range(50)}
    assert len(tokens) == 50
    for token in tokens:
        prefix, id_, secret = token.split("_")
        assert (prefix, id_in(token), len(secret)) == ("nx1", id_, 43)
    seen = "".join(token.split("_")[2] for token in tokens)
    assert 62**43 >= 2**256
    assert len(set(seen)) > 55, "all of the digits are used"


def test_the_right_token_is_somebody_and_its_name_is_its_id() -> None:
    house = House()
    found = house.door.recognise(house.token, ADDRESS, PEER)
    assert found is not None
    assert (found.name, found.role, found.peer) == (f"token:{house.id}", "write", PEER)


def test_every_other_token_is_nobody() -> None:
    house = House()
    prefix, id_, secret = house.token.split("_")
    other = new_token()[0].split("_")[2]
    for wrong in (
        "", "nx1_", f"nx1_{id_}_", f"{prefix}_{id_}_{other}", f"{prefix}_other_{secret}", house.token + "0",
        house.token[:-1], house.token.swapcase(), f" {house.token}", f"{house.token}\n", new_token()[0],
        house.token.replace("nx1", "nx2"),
    ):
        assert house.role(wrong) is None, wrong


@given(st.text(max_size=200))
def test_no_text_is_a_token_by_chance_or_breaks_anything(text: str) -> None:
    assert House().role(text) is None


def test_it_ends_when_it_expires_and_when_it_is_revoked_also_for_who_holds_its_grant() -> None:
    house = House(expires_ms=ManualClock().now_ms() + 1000)
    grant = house.grant
    grant.check("episodes.get")
    house.clock.advance(1.0)
    assert (house.role(), grant.ended) == (None, True)
    with pytest.raises(Unauthenticated):
        grant.check("episodes.get")
    house = House()
    grant = house.grant
    house.door.remove(house.id)
    assert (house.role(), grant.ended) == (None, True)


def test_it_holds_only_from_its_networks_and_so_never_on_the_unix_socket() -> None:
    house = House(networks=(read_network("192.168.1.0/24"), read_network("fd00::/8")))
    assert [house.role(address=one) for one in ("192.168.1.200", "::ffff:192.168.1.7", "fd00::1")] == ["write"] * 3
    assert [house.role(address=one) for one in ("192.168.2.1", "::1", None)] == [None] * 3
    assert House().role(address=None) == "write"


def test_it_grants_only_what_its_globs_fit_and_what_everybody_needs() -> None:
    grant = House(methods=("episodes.*", "memory.search")).grant
    for method in ("episodes.create", "memory.search", *ALWAYS_GRANTED):
        grant.check(method)
        grant.check(method)
    for method in ("memory.context", "episodes", "xepisodes.get", "tokens.create"):
        with pytest.raises(Forbidden, match=r"tokens\.list"):
            grant.check(method)


def test_a_rate_saves_up_one_seconds_worth_and_says_when_to_come_again() -> None:
    house = House(rate=2.0)
    grant = house.grant
    for _ in range(2):
        grant.check("episodes.get")
    with pytest.raises(RateLimited) as refused:
        grant.check("episodes.get")
    assert refused.value.retry_after_ms == 500
    house.clock.advance(0.5)
    grant.check("episodes.get")
    with pytest.raises(RateLimited):
        grant.check("episodes.get")
    house.clock.advance(3600)
    for _ in range(2):
        grant.check("episodes.get")
    with pytest.raises(RateLimited):
        grant.check("episodes.get")


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_pattern_of_calls_gets_more_than_the_rate_and_one_second(rate: float, pauses: list[float]) -> None:
    house = House(rate=rate)
    grant, passed, waits = house.grant, 0, []
    for pause in pauses:
        house.clock.advance(pause)
        try:
            grant.check("episodes.get")
        except RateLimited as refused:
            waits.append(refused.retry_after_ms or 0)
        else:
            passed += 1
    assert all(wait >= 1 for wait in waits)
    assert passed <= max(1.0, rate) + sum(pauses) * rate + 1e-6


def test_what_comes_from_the_store_again_keeps_what_is_known_of_a_token_and_ends_the_others() -> None:
    house = House()
    kept, gone = house.grant.credential, new_token()[0]
    house.door.add(credential(gone))
    held, ended = house.grant, house.door.grant_of(id_in(gone) or "")
    house.door.adopt([kept])
    assert house.grant is held
    assert ended is not None
    assert ended.ended
    house.door.adopt([credential(house.token, rate=1.0)])   # narrowed in a copy that was restored
    assert held.ended
    assert house.grant.credential.rate == 1.0


def test_each_wrong_token_of_an_address_is_answered_later_than_the_one_before() -> None:
    house = House()
    delays = [house.door.failed(PEER) for _ in range(8)]
    assert delays == sorted(delays)
    assert delays[:3] == [0.1, 0.2, 0.4]
    assert delays[-1] == LONGEST_DELAY_S
    assert house.door.failed("ip:10.0.0.1") == 0.1
    house.clock.advance(301)
    assert house.door.failed(PEER) == 0.1


def test_of_ipv6_the_whole_network_of_a_machine_counts_as_one() -> None:
    house = House()
    assert [house.door.failed(f"ip:2001:db8::{n:x}") for n in range(3)] == [0.1, 0.2, 0.4]
    assert house.door.failed("ip:2001:db8:0:1::1") == 0.1


def test_only_so_many_addresses_are_remembered() -> None:
    house = House()
    for number in range(MAX_REMEMBERED * 2):
        house.door.failed(f"ip:10.{number >> 8}.{number & 255}.1")
    assert len(house.door._failures) == MAX_REMEMBERED
