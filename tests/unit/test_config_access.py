"""Lists of who may come in: users, groups and networks, as the settings write them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_access import Callers, read_address, read_callers, read_network, read_networks


def test_users_and_groups_go_by_name_or_number() -> None:
    root = pwd.getpwuid(0).pw_name
    group = grp.getgrgid(0).gr_name
    assert read_callers(f" {root}, 1000 ,@{group},@100, ") == Callers(frozenset({0, 1000}), frozenset({0, 100}))
    assert read_callers(None) == read_callers("") == read_callers(" , ") == Callers()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no-such-user", "there is no user no-such-user"),
        ("@no-such-group", "there is no group no-such-group"),
        ("@", "there is no group "),
        ("-1", "there is no user -1"),
        ("4294967295", "there is no user 4294967295"),      # (uid_t) -1, which means nobody in particular
        ("99999999999", "there is no user 99999999999"),
        ("a\0b", "there is no user a\0b"),
    ],
)
def test_who_is_not_there_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_callers(text)


def test_of_networks_in_each_other_the_narrowest_comes_first() -> None:
    found = read_networks("10.0.0.0/8=read, 10.1.2.3=admin, fd00::/8=write, 10.1.0.0/16 = write")
    assert [(str(one.network), one.role) for one in found] == [
        ("10.1.2.3/32", "admin"), ("10.1.0.0/16", "write"), ("10.0.0.0/8", "read"), ("fd00::/8", "write"),
    ]
    assert read_networks(None) == ()


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "10.0.0.0/8=none", "10.0.0.0/8=", "=read", "house=read", "10.0.0.1/8=read"]
)
def test_what_is_no_network_with_a_role_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_networks(text)


def test_an_address_is_compared_as_what_it_is_whatever_socket_it_came_over() -> None:
    assert read_address("::ffff:192.168.1.7") in read_network("192.168.1.0/24")
    assert read_address("fe80::1%eth0") in read_network("fe80::/10")
    assert read_address("192.168.2.7") not in read_network("192.168.1.0/24")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for read in (read_callers, read_networks):
        with contextlib.suppress(ValueError):
            read(text)


def test_the_daemons_own_user_is_one_of_this_system() -> None:
    assert read_callers(str(os.geteuid())).users == {os.geteuid()}
