from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from harness.certificates import Household
from harness.nexusctl import in_pipe as run

from nexusd.cli import authority
from nexusd.cli.tls_command import machine_names


@pytest.fixture
def household(tmp_path: Path) -> Household:
    return Household(tmp_path / "tls")


def content(household: Household) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in household.directory.iterdir()}


def modes(household: Household) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in household.directory.iterdir()}


def test_keys_are_closed_and_certificates_are_open_whatever_the_umask(household: Household) -> None:
    household.client("kitchen")
    kinds = {"crt": 0o644, "key": 0o600}
    names = ("ca", "server", "kitchen")
    assert modes(household) == {f"{name}.{kind}": mode for name in names for kind, mode in kinds.items()}


def test_the_authority_signs_for_servers_and_clients_and_for_no_authority(household: Household) -> None:
    described = ssl.create_default_context(cafile=household.ca_file).get_ca_certs()
    assert len(described) == 1
    lasting_s = ssl.cert_time_to_seconds(described[0]["notAfter"]) - datetime.now(UTC).timestamp()
    assert 3649 < lasting_s / 86_400 < 3651
    fake = authority.make_client(household.signer(), "kitchen", 10, datetime.now(UTC))
    with pytest.raises(ValueError, match="is not that of its certificate"):
        authority.make_client(authority.Signed(fake.certificate, household.signer().key), "x", 1, datetime.now(UTC))


def test_nothing_that_is_there_is_overwritten(household: Household) -> None:
    before = content(household)
    done = run("tls", "init", "--dir", str(household.directory))
    assert (done.code, done.output) == (3, "")
    assert "ca.crt is there already and is left alone; --renew" in done.errors
    household.client("kitchen")
    again = run("tls", "client", "kitchen", "--dir", str(household.directory))
    assert (again.code, "kitchen.crt is there already" in again.errors) == (3, True)
    assert {name: before[name] for name in before} == {name: content(household)[name] for name in before}


def test_renewing_keeps_the_authority_and_the_names_and_makes_the_rest_anew(household: Household) -> None:
    directory = str(household.directory)
    assert run("tls", "init", "--renew", "--dir", directory, "--name", "attic.local", "--name", "10.9.8.7").code == 0
    before = content(household)
    done = run("tls", "init", "--renew", "--dir", directory, "--days", "30")
    assert (done.code, done.errors) == (0, "")
    after = content(household)
    assert [name for name in sorted(after) if after[name] == before[name]] == ["ca.crt", "ca.key"]
    names = authority.names_of(after["server.crt"])
    assert (names[:2], "localhost" in names) == (["attic.local", "10.9.8.7"], True)     # the first stays the first
    assert "nexusctl reload" in done.output


def test_renewing_needs_the_authority(tmp_path: Path) -> None:
    done = run("tls", "init", "--renew", "--dir", str(tmp_path / "tls"))
    assert (done.code, "ca.crt is not there" in done.errors) == (3, True)
    done = run("tls", "client", "kitchen", "--dir", str(tmp_path / "tls"))
    assert (done.code, "ca.crt is not there" in done.errors) == (3, True)


@pytest.mark.parametrize("name", ["", "ca", "server", "../x", "a b", "-x", "a" * 65])
def test_a_client_has_a_name_that_a_file_can_have(household: Household, name: str) -> None:
    assert run("tls", "client", "--dir", str(household.directory), "--", name).code == 3


@pytest.mark.parametrize("name", ["", "a b", "a..b", "http://a", "-a", "1.2.3.4.5.6/7", "a" * 64])
def test_a_name_that_no_host_has_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    done = run("tls", "init", "--dir", str(tmp_path / "tls"), f"--name={name}")
    assert (done.code, (tmp_path / "tls").exists()) == (3, False)


def test_what_is_said_can_be_put_into_the_settings(household: Household) -> None:
    settings = household.said.partition("restart nexusd:\n")[2].partition("\nClients")[0]
    assert yaml.safe_load(settings) == {
        "server": {"tcp": {"tls": {"certFile": household.cert_file, "keyFile": household.key_file}}}
    }


def test_the_machine_is_known_by_its_name_its_addresses_and_on_itself() -> None:
    names = machine_names()
    assert names[-3:] == ["localhost", "127.0.0.1", "::1"]
    assert os.uname().nodename in names
    assert len(set(names)) == len(names)
