"""tokens.* and auth.login: who may come in over the network, and coming in.

Owns the way of a token from its making to the store and to those who recognise it, and that nobody makes a token that
may do more than their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from pathlib import Path

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.config_access import Network, read_network
from nexusd.errors import (
    Conflict,
    Forbidden,
    InvalidParams,
    InvalidRequest,
    ReplyErased,
    StartupError,
    TokenNotFound,
    TooLarge,
    Unauthenticated,
)
from nexusd.field_errors import FieldError
from nexusd.model.fields import Listing
from nexusd.model.tokens import CreatedToken, CreateToken, ListTokens, LoggedIn, LogIn, RevokedToken, RevokeToken, Token
from nexusd.store.database import Database
from nexusd.store.tokens import NewToken, all_tokens, delete_token, insert_token, list_tokens
from nexusd.wire.audit import Audit
from nexusd.wire.auth import Authenticator, Credential, TokenGrant, digest_of, id_in, new_token
from nexusd.wire.methods import Call, Method

CREDENTIAL_NAME = "nexusd-token"    # as LoadCredential= calls it
MAX_CREDENTIAL_BYTES = 4096
NOTE = (
    "This is the only time that the token is shown: only its SHA-256 is kept. Whoever has it is let in; "
    "tokens.revoke ends that."
)


class TokensApi:
    """The methods on tokens."""

    def __init__(
        self, store: Database, authenticator: Authenticator, audit: Audit, clock: Clock, *,
        credentials: str | None = None, on_revoked: Callable[[], None],
    ) -> None:
        """`credentials` is the directory of systemd's LoadCredential=; `on_revoked` ends connections."""
        self._store = store
        self._authenticator = authenticator
        self._audit = audit
        self._clock = clock
        self._credentials = credentials
        self._on_revoked = on_revoked
        self._bootstrap: Credential | None = None

    async def load(self) -> None:
        """Recognise the tokens of the store, as it is now, and the one of the credential.

        Raises:
            StartupError: the credential is no token.
        """
        self._bootstrap = None if self._credentials is None else _bootstrap(Path(self._credentials) / CREDENTIAL_NAME)
        kept = [_credential(token, digest) for token, digest in await self._store.read(all_tokens)]
        self._authenticator.adopt([*kept, *([] if self._bootstrap is None else [self._bootstrap])])
        self._on_revoked()

    # --- the methods ---

    async def log_in(self, call: Call, params: LogIn) -> LoggedIn:
        """From now on the connection is the token's."""
        if call.client is None:
            raise InvalidRequest("Over HTTP the token goes with each request: Authorization: Bearer.")
        if call.batched:
            raise InvalidRequest("A login is a request by itself, not one of a batch.")
        principal = await self._authenticator.log_in(params.token, call.client.address(), call.principal.peer)
        call.client.become(principal)
        return LoggedIn(principal=principal.name, role=principal.role)  # type: ignore[arg-type]  # a token's is never none

    async def create(self, call: Call, params: CreateToken) -> CreatedToken:
        """A new token, told this once."""
        now_ms = self._clock.now_ms()
        expires_ms = params.expires_at if params.valid_for_ms is None else now_ms + params.valid_for_ms
        networks = _networks(params.networks)
        if expires_ms is not None and expires_ms <= now_ms:
            raise InvalidParams(fields=(FieldError("expiresAt", "a time that is still to come"),))
        if isinstance(call.principal.grant, TokenGrant):
            _hold_to(call.principal.grant.credential, params, networks, expires_ms)
        token, id_ = new_token()
        new = NewToken(
            id=id_, hash=digest_of(token), name=params.name, role=params.role, methods=params.methods,
            networks=[str(network) for network in networks], expires_at=expires_ms, rate=params.rate,
            created_by=call.principal.name,
        )
        receipt = receipt_for(call, "tokens.create", params)
        kept = await self._store.write(insert_token, receipt, new, now_ms)
        self._authenticator.add(_credential(kept, new.hash))
        self._audit.token_created(principal=call.principal.name, peer=call.principal.peer, id_=id_, name=new.name,
                                  role=new.role)
        return CreatedToken(**msgspec.structs.asdict(kept), token=token, note=NOTE)

    async def page(self, _call: Call, params: ListTokens) -> Listing[Token]:
        """A page of tokens, newest first; the one of the credential before all others."""
        listing = await self._store.read(list_tokens, params)
        items = [self._with_use(token) for token in listing.items]
        if self._bootstrap is not None and params.cursor is None and not params.offset:
            items.insert(0, self._with_use(_shown(self._bootstrap)))
        return Listing(items=items, next_cursor=listing.next_cursor)

    async def revoke(self, call: Call, params: RevokeToken) -> RevokedToken | msgspec.Raw:
        """The token is worth nothing from now on; connections that came in with it are closed."""
        if self._bootstrap is not None and params.id == self._bootstrap.id:
            raise Conflict(f"This token is the credential {CREDENTIAL_NAME}: it ends with its LoadCredential= line.")
        receipt = receipt_for(call, "tokens.revoke", params)
        revoked = await self._store.write_once(receipt, delete_token, params.id)
        self._authenticator.remove(params.id)
        self._on_revoked()
        name = revoked.name if isinstance(revoked, RevokedToken) else ""
        self._audit.token_revoked(principal=call.principal.name, peer=call.principal.peer, id_=params.id, name=name)
        return revoked

    def _with_use(self, token: Token) -> Token:
        grant = self._authenticator.grant_of(token.id)
        return token if grant is None else msgspec.structs.replace(token, used_at=grant.used_ms)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="auth.login",
                summary="Log in with a token; what comes after it on this connection is that token's.",
                params=LogIn,
                result=LoggedIn,
                handler=self.log_in,
                role="none",
                waits=True,     # where the token is wrong: whoever comes from the same address need not
                errors=(Unauthenticated,),
            ),
            Method(
                name="tokens.create",
                summary="Make a token for a caller on the network; it is told this once and kept nowhere.",
                params=CreateToken,
                result=CreatedToken,
                handler=self.create,
                role="admin",
                mutates=True,
                errors=(Forbidden, ReplyErased, TooLarge),
                example={"name": "kitchen", "role": "write", "networks": ["192.168.1.0/24"]},
            ),
            Method(
                name="tokens.list",
                summary="List tokens without their secrets, newest first.",
                params=ListTokens,
                result=Listing[Token],
                handler=self.page,
                role="admin",
                example={"limit": 10},
            ),
            Method(
                name="tokens.revoke",
                summary="Make a token worthless at once, also on connections that are open.",
                params=RevokeToken,
                result=RevokedToken,
                handler=self.revoke,
                role="admin",
                mutates=True,
                errors=(TokenNotFound, Conflict),
            ),
        ]


def _networks(texts: list[str]) -> tuple[Network, ...]:
    found, wrong = [], []
    for place, text in enumerate(texts):
        try:
            found.append(read_network(text))
        except ValueError:
            wrong.append(FieldError(f"networks[{place}]", "a network such as 192.168.1.0/24 or fd00::/8"))
    if wrong:
        raise InvalidParams(fields=tuple(wrong))
    return tuple(found)


def _hold_to(own: Credential, params: CreateToken, networks: tuple[Network, ...], expires_ms: int | None) -> None:
    """Nobody gives away what they do not have. Who calls this has the role admin, so that any role is theirs.

    Raises:
        Forbidden: the new token would reach further than the caller's.
    """
    further = []
    if own.methods and not (params.methods and all(_is_within(glob, own.methods) for glob in params.methods)):
        further.append("methods")
    if own.networks and not (networks and all(_is_inside(one, own.networks) for one in networks)):
        further.append("networks")
    if own.expires_ms is not None and (expires_ms is None or expires_ms > own.expires_ms):
        further.append("expiresAt")
    if own.rate is not None and (params.rate is None or params.rate > own.rate):
        further.append("rate")
    if further:
        raise Forbidden(f"The new token would reach further than your own: {', '.join(further)}.")


def _is_within(glob: str, owned: tuple[str, ...]) -> bool:
    """Whether all that a glob fits is owned: it is one of those, or a plain name that one of those fits."""
    is_plain = not set(glob) & {"*", "?"}
    return glob in owned or (is_plain and any(re.match(translate(one), glob) for one in owned))


def _is_inside(network: Network, owned: tuple[Network, ...]) -> bool:
    return any(
        network.version == one.version and network.network_address in one and network.broadcast_address in one
        for one in owned
    )


def _credential(token: Token, digest: bytes) -> Credential:
    return Credential(
        id=token.id, name=token.name, role=token.role, digest=digest, methods=tuple(token.methods),
        networks=tuple(read_network(text) for text in token.networks), expires_ms=token.expires_at, rate=token.rate,
    )


def _bootstrap(path: Path) -> Credential | None:
    """The token that systemd hands over; None where it hands over none.

    Raises:
        StartupError: it is something else, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CREDENTIAL_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartupError(f"the credential {CREDENTIAL_NAME} cannot be read: {error.strerror}") from error
    id_ = id_in(text)
    if id_ is None:
        raise StartupError(
            f"the credential {CREDENTIAL_NAME} is no token: expected nx1_ID_SECRET, the secret of at least 43 letters "
            "and digits"
        )
    return Credential(id=id_, name=f"credential {CREDENTIAL_NAME}", role="admin", digest=digest_of(text))


def _shown(credential: Credential) -> Token:
    return Token(
        id=credential.id, name=credential.name, role="admin", methods=[], networks=[], expires_at=None, rate=None,
        created_at=None, created_by="systemd",
    )
