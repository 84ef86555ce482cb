"""Who may come in, as the settings say it: users and groups of this system, and networks with a role.

Owns how these lists are written and read. Asks the system for the ids behind names, and knows no socket.
"""

from __future__ import annotations

import grp
import ipaddress
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

from nexusd.config_sections import Role

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ROLES = ("read", "write", "admin")
MAX_ID = 2**32 - 2  # the last number is no id: (uid_t) -1


@dataclass(frozen=True, slots=True)
class Callers:
    """Users and groups of this system."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TrustedNetwork:
    """Whoever comes from there has this role without a token."""

    network: Network
    role: Role


def read_callers(text: str | None) -> Callers:
    """The ids of `anna, @family, 1000, @100`: users, groups with an @, and numbers.

    Raises:
        ValueError: there is no such user or group; the message says which.
    """
    users, groups = set(), set()
    for name in _items(text):
        if name.startswith("@"):
            groups.add(_group_id(name[1:]))
        else:
            users.add(_user_id(name))
    return Callers(frozenset(users), frozenset(groups))


def read_networks(text: str | None) -> tuple[TrustedNetwork, ...]:
    """The networks of `192.168.1.0/24=read, fd00::/8=write`, the narrowest first: that is the one that holds.

    Raises:
        ValueError: one of them is none; the message says which.
    """
    found = []
    for item in _items(text):
        written, _, role = (part.strip() for part in item.partition("="))
        if role not in ROLES:
            raise ValueError(f"expected NETWORK=ROLE with one of {', '.join(ROLES)}, found {item}")
        found.append(TrustedNetwork(read_network(written), cast("Role", role)))
    return tuple(sorted(found, key=lambda one: one.network.num_addresses))


def read_network(text: str) -> Network:
    """A network such as 192.168.1.0/24, or one address.

    Raises:
        ValueError: it is none.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:  # its words say which bits are too many
        raise ValueError(f"expected a network such as 192.168.1.0/24 or fd00::/8, found {text}: {error}") from error


def read_address(text: str) -> Address:
    """A peer's address as it is compared: one of IPv4 on a socket of IPv6 is one of IPv4, and a zone says nothing."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _items(text: str | None) -> Iterator[str]:
    return (item for part in (text or "").split(",") if (item := part.strip()))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID else None


def _user_id(name: str) -> int:
    number = _number(name)
    if number is not None:
        return number
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: no name could hold that, such as a zero byte
        raise ValueError(f"there is no user {name}") from None


def _group_id(name: str) -> int:
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"there is no group {name}") from None
