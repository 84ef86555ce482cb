"""A session as people name it on the command line.

Owns that option and how the name becomes an id.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import NotFound
from nexusd.model.sessions import Session

SessionName = Annotated[
    str | None,
    typer.Option(
        "--session", "-s", metavar="SESSION", help="A session's external id, or its row id: id:1, or '#1' in quotes."
    ),
]
ROW_ID = re.compile(r"(?:#|id:)([0-9]+)")  # id: for shells, to which a bare # begins a comment


def session_id_of(nexus: Client, name: str) -> int:
    """The id of an existing session; asked for also where it is given, since a search in none finds nothing."""
    if by_id := ROW_ID.fullmatch(name):
        find = Request("sessions.get", {"id": int(by_id[1])}, Session, mutates=False)
        missing = f"No session has the id {by_id[1]}."
    else:
        find = Request("sessions.getByExternalId", {"externalId": name}, Session, mutates=False)
        missing = f"No session is called {name!r}."
    try:
        return nexus.execute(find).id
    except NotFound as exc:
        exc.args = (missing,)
        raise
