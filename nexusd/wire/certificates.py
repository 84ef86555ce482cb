"""Clients that show a certificate: which name has which role.

Owns how the setting is written, and what of a certificate counts as its name. That the certificate is signed by an
authority which the settings trust was proved in the handshake already. Knows no socket and no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from nexusd.config_sections import Role
from nexusd.wire.methods import Principal

PRINCIPAL = "nexusd.principal"      # what a transport is asked for: the principal that was proved in its handshake
# The names that a certificate may have beside that of its subject. A common name stands in it first.
_NAMES = frozenset({"DNS", "email", "URI"})


def read_roles(text: str | None) -> dict[str, Role]:
    """`kitchen-display=read, backup-box=admin` as names and their roles.

    Raises:
        ValueError: it is written in another way; the message says what was expected.
    """
    roles: dict[str, Role] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, role = (one.strip() for one in part.rpartition("="))
        if not equals or not name or role not in get_args(Role):
            raise ValueError(f"found {part.strip()!r}, expected NAME=ROLE, the role being {', '.join(get_args(Role))}")
        if name in roles:
            raise ValueError(f"{name} has two roles")
        roles[name] = cast("Role", role)
    return roles


def principal_of(certificate: Mapping[str, Any] | None, roles: Mapping[str, Role]) -> Principal | None:
    """Who shows this certificate, as the ssl module describes one; None where none of its names has a role."""
    for name in _names(certificate or {}):
        if name in roles:
            return Principal(f"cert:{name}", roles[name])
    return None


def proved(transport: asyncio.BaseTransport) -> Principal | None:
    """The principal of a connection whose client showed a certificate that has a role."""
    principal: Principal | None = transport.get_extra_info(PRINCIPAL)
    return principal


def _names(certificate: Mapping[str, Any]) -> Iterator[str]:
    for attributes in certificate.get("subject", ()):
        yield from (value for key, value in attributes if key == "commonName")
    yield from (value for kind, value in certificate.get("subjectAltName", ()) if kind in _NAMES)
