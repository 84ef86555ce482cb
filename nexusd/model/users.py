"""Users: settings under the caller's own ids."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.fields import Key, Metadata, Mutation, Page, Params, Record, TimeMs

MAX_SETTINGS = 1024 * 1024  # characters of JSON; merges add up, and every page of users carries them


class User(Record, frozen=True, kw_only=True):
    """A user's settings."""

    id: Key
    settings: Metadata
    created_at: TimeMs
    updated_at: TimeMs


class GetUser(Params, frozen=True, kw_only=True):
    """Parameters of users.get."""

    id: Annotated[Key, Meta(description="The caller's own id; 5 and \"5\" are two.")]


class SetUser(Mutation, frozen=True, kw_only=True):
    """Parameters of users.set."""

    id: Annotated[Key, Meta(description="The caller's own id; 5 and \"5\" are two.")]
    settings: Annotated[Metadata, Meta(description="The settings, or with `merge` what changes in them.")]
    merge: Annotated[
        bool,
        Meta(description="false replaces the settings; true merges into them (RFC 7396), where null takes away."),
    ] = False


class ListUsers(Page, frozen=True, kw_only=True):
    """Parameters of users.list: the newest first."""


class DeleteUser(Mutation, frozen=True, kw_only=True):
    """Parameters of users.delete."""

    id: Annotated[Key, Meta(description="The caller's own id; 5 and \"5\" are two.")]
