from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from harness.certificates import Household

from nexusd.client.address import TlsAddress, Trust
from nexusd.client.security import tls_context, why


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    return Household(tmp_path_factory.mktemp("tls"))


def test_names_and_signatures_are_always_looked_at(household: Household) -> None:
    for trust in (Trust(), Trust(household.ca_file), Trust(household.ca_file, *household.client("kitchen"))):
        context = tls_context(TlsAddress("a", 1, trust))
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_with_a_file_of_authorities_those_of_the_system_are_not_believed(household: Household) -> None:
    assert len(tls_context(TlsAddress("a", 1, Trust(household.ca_file))).get_ca_certs()) == 1


def test_files_that_are_missing_or_something_else_are_named(household: Household, tmp_path: Path) -> None:
    (nonsense := tmp_path / "nonsense").write_text("nonsense")
    cert_file, key_file = household.client("kitchen")
    for trust, says in (
        (Trust("/nowhere"), "/nowhere: No such file"),
        (Trust(str(nonsense)), "expected certificates in PEM, got .*nonsense"),
        (Trust(household.ca_file, str(nonsense)), "expected a certificate and its key in PEM, got .*nonsense"),
        (Trust(household.ca_file, cert_file, household.key_file), "expected a certificate and its key in PEM"),
        (Trust(household.ca_file, None, key_file), "expected a certificate with the key .*kitchen.key, got none"),
    ):
        with pytest.raises(ValueError, match=says):
            tls_context(TlsAddress("a", 1, trust))


def test_a_failure_is_told_in_words() -> None:
    assert why(ConnectionRefusedError(111, "Connection refused")) == "Connection refused"
    assert why(TimeoutError("timed out")) == "timed out"
    plain = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
    plain.reason = "WRONG_VERSION_NUMBER"
    assert why(plain) == "no TLS is spoken there"


def test_a_program_on_a_socket_does_not_pay_for_tls() -> None:
    program = "import nexusd.client, sys; nexusd.client.Client('/run/x'); sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    program = "import nexusd.cli.main, sys; nexusd.cli.main.make_app(); sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
