"""Tokens: what a caller shows to be let in, and what it may do then.

Owns the form of a token, how one is recognised, what it grants from call to call, and how long somebody who showed a
wrong one waits for the answer. The store keeps tokens; here they are in memory, so that one that is revoked is worth
nothing from the same moment on. Knows no method and no socket.

A token is `nx1_<id>_<secret>`, the secret 256 bits of chance. Such a secret cannot be guessed: a plain SHA-256 of the
token is as good as any slower hash of it, and costs a request nothing. Whatever is wrong with a token, the answer is
the same, so that nobody learns which ids there are.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import string
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from ipaddress import IPv6Address, ip_network
from math import ceil

from nexusd.clock import Clock
from nexusd.config_access import Network, read_address
from nexusd.errors import Forbidden, RateLimited, Unauthenticated
from nexusd.wire.audit import Audit
from nexusd.wire.methods import Principal, Role

PREFIX = "nx1_"
ID_BYTES = 6
SECRET_BITS = 256
SECRET_DIGITS = 43      # of 62 different ones each: short enough for a line of a terminal
_DIGITS = string.digits + string.ascii_letters
_TOKEN = re.compile(r"nx1_([0-9A-Za-z]{1,32})_([0-9A-Za-z]{43,128})")
# A client needs these to know what there is and how it is called; they tell nothing that is remembered.
ALWAYS_GRANTED = frozenset({"auth.login", "health", "help", "rpc.discover"})
REFUSAL = "The token was not accepted."
MISSING = "Log in first: auth.login with a token, or over HTTP the header Authorization: Bearer."

FIRST_DELAY_S = 0.1     # before a wrong token is answered; twice as long each time, for the same address
LONGEST_DELAY_S = 3.0   # below the time that a connection has to log in
FORGOTTEN_AFTER_S = 300.0
MAX_REMEMBERED = 1024   # addresses that showed wrong tokens; of more the oldest is forgotten
SAID_AGAIN_AFTER_S = 60.0   # a token over HTTP is shown with every request, and noted so often
_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class Credential:
    """A token as it is kept: all but the secret."""

    id: str
    name: str
    role: Role
    digest: bytes                           # SHA-256 of the whole token
    methods: tuple[str, ...] = ()           # globs; none: all that the role may
    networks: tuple[Network, ...] = ()      # none: from anywhere
    expires_ms: int | None = None
    rate: float | None = None               # requests a second


def new_token() -> tuple[str, str]:
    """A fresh token, and the id in it."""
    id_ = secrets.token_hex(ID_BYTES)
    number, digits = secrets.randbits(SECRET_BITS), []
    for _ in range(SECRET_DIGITS):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return f"{PREFIX}{id_}_{''.join(digits)}", id_


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def id_in(token: str) -> str | None:
    """The id in a token; None where it has not the form of one."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


class TokenGrant:
    """What one token allows, as long as it is valid. All connections that showed it share it."""

    def __init__(self, credential: Credential, clock: Clock) -> None:
        self.credential = credential
        self.used_ms: int | None = None     # since the start of the daemon
        self._clock = clock
        self._revoked = False
        self._expires_ms = credential.expires_ms
        self._rate = credential.rate
        self._globs = [re.compile(translate(glob)) for glob in credential.methods]
        self._known: dict[str, bool] = {}   # by method; asked of methods that there are alone
        self._burst = max(1.0, credential.rate or 0.0)
        self._filled = self._burst
        self._filled_s = clock.monotonic_s()
        self._noted: tuple[str | None, float] | None = None

    @property
    def ended(self) -> bool:
        """Whether it is worth nothing any more."""
        return self._revoked or (self._expires_ms is not None and self._expires_ms <= self._clock.now_ms())

    def revoke(self) -> None:
        """From now on it is worth nothing."""
        self._revoked = True

    def check(self, method: str) -> None:
        """Pass if this method may be called now.

        Raises:
            Unauthenticated: the token was revoked, or has expired.
            Forbidden: it is not for this method.
            RateLimited: it is used more often than it may be.
        """
        now_ms = self._clock.now_ms()
        if self._revoked or (self._expires_ms is not None and self._expires_ms <= now_ms):
            raise Unauthenticated(REFUSAL)
        if self._globs and not self._is_granted(method):
            raise Forbidden(f"The token is not for {method}; tokens.list says for which methods it is.")
        if self._rate is not None:
            self._take_one(self._rate)
        self.used_ms = now_ms

    def is_worth_noting(self, address: str | None) -> bool:
        """Whether the trail should have this use of it."""
        now_s = self._clock.monotonic_s()
        if self._noted is not None and self._noted[0] == address and now_s - self._noted[1] < SAID_AGAIN_AFTER_S:
            return False
        self._noted = (address, now_s)
        return True

    def _is_granted(self, method: str) -> bool:
        granted = self._known.get(method)
        if granted is None:
            granted = method in ALWAYS_GRANTED or any(glob.match(method) for glob in self._globs)
            self._known[method] = granted
        return granted

    def _take_one(self, rate: float) -> None:
        """One of the requests that come in every second; at most one second's worth of them is saved up."""
        now_s = self._clock.monotonic_s()
        self._filled = min(self._burst, self._filled + (now_s - self._filled_s) * rate)
        self._filled_s = now_s
        if self._filled < 1.0:
            raise RateLimited(
                f"The token is for {rate:g} requests a second.",
                retry_after_ms=ceil((1.0 - self._filled) / rate * 1000),
            )
        self._filled -= 1.0


class Authenticator:
    """Knows all tokens, and recognises one that is shown. Used on one event loop."""

    def __init__(self, clock: Clock, audit: Audit) -> None:
        self._clock = clock
        self._audit = audit
        self._grants: dict[str, TokenGrant] = {}    # by the id in the token
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how often, and when last

    def adopt(self, credentials: Iterable[Credential]) -> None:
        """These are all tokens from now on. A token that stays the same keeps what is known of it."""
        old, self._grants = self._grants, {}
        for credential in credentials:
            held = old.pop(credential.id, None)
            if held is None or held.credential != credential:
                if held is not None:
                    held.revoke()
                held = TokenGrant(credential, self._clock)
            self._grants[credential.id] = held
        for gone in old.values():
            gone.revoke()

    def add(self, credential: Credential) -> None:
        """One more."""
        self._grants[credential.id] = TokenGrant(credential, self._clock)

    def remove(self, id_: str) -> None:
        """One less: whoever came in with it is nobody from now on."""
        grant = self._grants.pop(id_, None)
        if grant is not None:
            grant.revoke()

    def grant_of(self, id_: str) -> TokenGrant | None:
        """What the token of this id allows."""
        return self._grants.get(id_)

    def recognise(self, token: str, address: str | None, peer: str) -> Principal | None:
        """Whose token it is, or None: it is none, or not valid from there, or not any more."""
        grant = self._grants.get(id_in(token) or "")
        digest = _NO_DIGEST if grant is None else grant.credential.digest
        is_same = secrets.compare_digest(digest_of(token), digest)
        if grant is None or not is_same or grant.ended or not _is_from(address, grant.credential.networks):
            return None
        return Principal(f"token:{grant.credential.id}", grant.credential.role, peer, grant)

    async def log_in(self, token: str, address: str | None, peer: str) -> Principal:
        """Whose token it is.

        Raises:
            Unauthenticated: nobody's, or it is not valid; after a while.
        """
        principal = self.recognise(token, address, peer)
        if principal is None:
            await asyncio.sleep(self.failed(peer))
            raise Unauthenticated(REFUSAL)
        self._audit.logged_in(principal=principal.name, peer=peer, role=principal.role, way="auth.login")
        return principal

    def noted(self, principal: Principal, address: str | None) -> None:
        """A token was accepted with a request over HTTP."""
        if isinstance(principal.grant, TokenGrant) and principal.grant.is_worth_noting(address):
            self._audit.logged_in(principal=principal.name, peer=principal.peer, role=principal.role, way="Bearer")

    def failed(self, peer: str) -> float:
        """A wrong token was shown: how many seconds its sender is to wait for the answer.

        Whoever shows the right one never waits: an address that strangers share with its owner locks nobody out.
        """
        self._audit.refused("token not accepted", principal=peer, peer=peer)
        neighbourhood = _neighbourhood(peer)
        now_s = self._clock.monotonic_s()
        count, last_s = self._failures.pop(neighbourhood, (0, now_s))
        count = 1 if now_s - last_s >= FORGOTTEN_AFTER_S else count + 1
        self._failures[neighbourhood] = (count, now_s)
        if len(self._failures) > MAX_REMEMBERED:
            self._failures.popitem(last=False)
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count - 1, 16))


def _is_from(address: str | None, networks: tuple[Network, ...]) -> bool:
    """Whether an address, None on the Unix socket, is in one of the networks; in any if there are none."""
    if not networks:
        return True
    return address is not None and any(read_address(address) in network for network in networks)


def _neighbourhood(peer: str) -> str:
    """What failures are counted by: of IPv6 the /64, all of which one machine may use."""
    if not peer.startswith("ip:"):
        return peer
    address = read_address(peer.removeprefix("ip:"))
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)
