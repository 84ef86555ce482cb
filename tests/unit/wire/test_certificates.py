from __future__ import annotations

from typing import Any

import pytest

from nexusd.wire.certificates import principal_of, read_roles
from nexusd.wire.methods import Principal

ROLES = read_roles("kitchen-display=read, backup.local=admin,spiffe://house/phone=write")


def shown(common_name: str | None = None, *alternatives: tuple[str, str]) -> dict[str, Any]:
    """A certificate as the ssl module describes it."""
    subject = () if common_name is None else ((("countryName", "DE"),), (("commonName", common_name),))
    return {"subject": subject, "subjectAltName": alternatives}


def test_roles_are_read_by_name() -> None:
    assert ROLES == {"kitchen-display": "read", "backup.local": "admin", "spiffe://house/phone": "write"}
    assert read_roles("a=b=read") == {"a=b": "read"}    # a name may have the sign in it, a role has not
    assert read_roles(None) == read_roles(" , ") == {}


@pytest.mark.parametrize("text", ["kitchen", "=read", "kitchen=", "kitchen=Read", "kitchen=root", "a=read,b", "a:read"])
def test_what_is_no_role_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=ROLE, the role being read, write, admin"):
        read_roles(text)


def test_a_name_has_one_role() -> None:
    with pytest.raises(ValueError, match="a has two roles"):
        read_roles("a=read, a=admin")


@pytest.mark.parametrize(
    ("certificate", "principal"),
    [
        (shown("kitchen-display"), Principal("cert:kitchen-display", "read")),
        (shown("some phone", ("URI", "spiffe://house/phone")), Principal("cert:spiffe://house/phone", "write")),
        (shown(None, ("DNS", "backup.local")), Principal("cert:backup.local", "admin")),
        (shown("kitchen-display", ("DNS", "backup.local")), Principal("cert:kitchen-display", "read")),
        (shown("Kitchen-Display"), None),
        (shown("unknown", ("IP Address", "kitchen-display")), None),
        (shown(), None),
        ({}, None),
        (None, None),
    ],
)
def test_the_first_name_with_a_role_says_who_shows_a_certificate(
    certificate: dict[str, Any] | None, principal: Principal | None
) -> None:
    assert principal_of(certificate, ROLES) == principal
