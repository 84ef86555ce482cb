"""Tokens: by which callers on the network are known, and what each of them may do."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from nexusd.model.fields import Mutation, Page, Params, Record, TimeMs

TokenRole = Literal["read", "write", "admin"]
TokenId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z]{1,32}\Z", description="The middle part of the token.")]
Glob = Annotated[str, Meta(pattern=r"^[A-Za-z*?.]{1,64}\Z")]
NetworkText = Annotated[str, Meta(min_length=1, max_length=64)]
MAX_YEARS_MS = 100 * 366 * 86_400_000


class Token(Record, frozen=True, kw_only=True):
    """A token, without its secret. `usedAt`: when it was last used since the daemon was started."""

    id: str
    name: str
    role: TokenRole
    methods: list[str]
    networks: list[str]
    expires_at: TimeMs | None
    rate: float | None
    created_at: TimeMs | None
    created_by: str
    used_at: TimeMs | None = None


class CreatedToken(Token, frozen=True, kw_only=True):
    """A new token: the one time that the token itself is told."""

    token: str
    note: str


class RevokedToken(Record, frozen=True, kw_only=True):
    """What was revoked."""

    id: str
    name: str


class CreateToken(Mutation, frozen=True, kw_only=True):
    """Parameters of tokens.create. Without limits it may do all that its role may, from anywhere, until revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="Who or what it is for, for people.")]
    role: Annotated[TokenRole, Meta(description="What it may do: read, write as well, or everything.")]
    methods: Annotated[
        list[Glob],
        Meta(max_length=64, description="Only methods that one of these fits, such as episodes.* or memory.search."),
    ] = []
    networks: Annotated[
        list[NetworkText],
        Meta(max_length=64, description="Only from these networks or addresses, such as 192.168.1.0/24."),
    ] = []
    expires_at: Annotated[TimeMs | None, Meta(description="When it ends (Unix ms); null: never.")] = None
    valid_for_ms: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_YEARS_MS)] | None,
        Meta(description="How long from now it is valid, in milliseconds; in place of expiresAt."),
    ] = None
    rate: Annotated[
        Annotated[float, Meta(ge=0.01, le=100_000)] | None,
        Meta(description="Requests a second; one second's worth may come at once. null: no limit."),
    ] = None

    def __post_init__(self) -> None:
        """It ends once."""
        Mutation.__post_init__(self)
        if self.expires_at is not None and self.valid_for_ms is not None:
            raise ValueError("expected one of `expiresAt` and `validForMs`, got both")


class ListTokens(Page, frozen=True, kw_only=True):
    """Parameters of tokens.list: the newest first."""


class RevokeToken(Mutation, frozen=True, kw_only=True):
    """Parameters of tokens.revoke."""

    id: TokenId


class LogIn(Params, frozen=True, kw_only=True):
    """Parameters of auth.login."""

    token: Annotated[str, Meta(min_length=1, max_length=512, description="nx1_ID_SECRET, as tokens.create told it.")]


class LoggedIn(Record, frozen=True, kw_only=True):
    """Who the connection is from now on."""

    principal: str
    role: TokenRole
