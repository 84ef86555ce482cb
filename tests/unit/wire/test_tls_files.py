from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from harness.certificates import Household

from nexusd.config_sections import Config, ServerConfig, TcpConfig, TlsConfig
from nexusd.wire.tls_files import UnusableFiles, load, stamp_of, tls_complaints


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    return Household(tmp_path_factory.mktemp("tls"))


def complaints(tls: TlsConfig) -> list[tuple[str, str]]:
    return list(tls_complaints(Config(server=ServerConfig(tcp=TcpConfig(tls=tls)))))


def test_what_the_command_made_can_be_used(household: Household) -> None:
    loaded = load(household.settings(roles="kitchen=read"))
    assert {"localhost", "127.0.0.1", "::1"} <= set(loaded.names)
    assert 820 < (loaded.not_after_s - datetime.now(UTC).timestamp()) / 86_400 < 826
    assert loaded.roles == {"kitchen": "read"}
    assert complaints(household.settings(roles="kitchen=read")) == []


def test_without_a_certificate_nothing_is_read_and_nothing_may_be_named() -> None:
    assert complaints(TlsConfig()) == []
    names = [name for name, _ in complaints(TlsConfig(key_file="/no", client_ca_file="/no", client_roles="a=read"))]
    assert names == [f"server.tcp.tls.{key}" for key in ("keyFile", "clientCaFile", "clientRoles")]


def test_a_certificate_that_is_out_of_date_can_be_read(household: Household) -> None:
    loaded = load(household.outdated())
    assert datetime.fromtimestamp(loaded.not_after_s, UTC) == datetime(2025, 5, 31, tzinfo=UTC)


def other_key(household: Household, place: Path) -> TlsConfig:
    return msgspec.structs.replace(household.settings(), key_file=household.client("other")[1])


def no_key(household: Household, place: Path) -> TlsConfig:
    return msgspec.structs.replace(household.settings(), key_file=None)


def missing_key(household: Household, place: Path) -> TlsConfig:
    return msgspec.structs.replace(household.settings(), key_file=str(place / "server.key"))


def missing_certificate(household: Household, place: Path) -> TlsConfig:
    return msgspec.structs.replace(household.settings(), cert_file=str(place / "server.crt"))


def open_key(household: Household, place: Path) -> TlsConfig:
    (copy := place / "open.key").write_bytes(Path(household.key_file).read_bytes())
    copy.chmod(0o644)
    return msgspec.structs.replace(household.settings(), key_file=str(copy))


def encrypted_key(household: Household, place: Path) -> TlsConfig:
    locked = place / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", household.key_file, "-aes256", "-passout", "pass:secret", "-out", str(locked)],
        check=True, capture_output=True,
    )
    locked.chmod(0o600)
    return msgspec.structs.replace(household.settings(), key_file=str(locked))


def nonsense(household: Household, place: Path) -> TlsConfig:
    (file := place / "nonsense.crt").write_text("not a certificate\n")
    return msgspec.structs.replace(household.settings(), cert_file=str(file))


def clients_certificate(household: Household, place: Path) -> TlsConfig:
    cert_file, key_file = household.client("kitchen")
    return TlsConfig(cert_file=cert_file, key_file=key_file)


def nonsense_authorities(household: Household, place: Path) -> TlsConfig:
    (file := place / "nonsense.crt").write_text("not a certificate\n")
    return msgspec.structs.replace(household.settings(), client_ca_file=str(file))


def wrong_roles(household: Household, place: Path) -> TlsConfig:
    return household.settings(roles="kitchen=owner")


def roles_without_authorities(household: Household, place: Path) -> TlsConfig:
    return msgspec.structs.replace(household.settings(), client_roles="kitchen=read")


@pytest.mark.parametrize(
    ("made", "key", "says"),
    [
        (other_key, "keyFile", "is not the key of the certificate in"),
        (no_key, "keyFile", "expected the file with the key"),
        (missing_key, "keyFile", "No such file"),
        (missing_certificate, "certFile", "No such file"),
        (open_key, "keyFile", r"every user of this machine can get at .*0644.*chmod o-rwx"),
        (encrypted_key, "keyFile", "is encrypted"),
        (nonsense, "certFile", "are no certificate and its key in PEM"),
        (clients_certificate, "certFile", "is of no use to a server: unsuitable certificate purpose"),
        (nonsense_authorities, "clientCaFile", "holds no certificates in PEM"),
        (wrong_roles, "clientRoles", "expected NAME=ROLE"),
    ],
)
def test_what_cannot_be_used_names_its_setting_and_what_is_wrong(
    household: Household, tmp_path: Path, made: Callable[[Household, Path], TlsConfig], key: str, says: str
) -> None:
    tls = made(household, tmp_path)
    with pytest.raises(UnusableFiles, match=says) as caught:
        load(tls)
    assert caught.value.message.startswith(f"server.tcp.tls.{key}: ")
    assert complaints(tls) == [(f"server.tcp.tls.{key}", caught.value.complaint)]


def test_roles_mean_nothing_without_authorities(household: Household, tmp_path: Path) -> None:
    [(name, complaint)] = complaints(roles_without_authorities(household, tmp_path))
    assert (name, complaint[:40]) == ("server.tcp.tls.clientRoles", "means nothing without server.tcp.tls.cli")


def test_a_key_that_a_group_may_read_is_taken(household: Household, tmp_path: Path) -> None:
    (copy := tmp_path / "group.key").write_bytes(Path(household.key_file).read_bytes())
    copy.chmod(0o640)
    assert complaints(msgspec.structs.replace(household.settings(), key_file=str(copy))) == []


def test_a_file_that_is_replaced_or_gone_changes_the_stamp(household: Household, tmp_path: Path) -> None:
    (file := tmp_path / "ca.crt").write_bytes(Path(household.ca_file).read_bytes())
    tls = msgspec.structs.replace(household.settings(), client_ca_file=str(file))
    stamps = [stamp_of(tls), stamp_of(tls)]
    (fresh := tmp_path / "fresh").write_bytes(file.read_bytes())
    fresh.replace(file)
    stamps.append(stamp_of(tls))
    file.unlink()
    stamps.append(stamp_of(tls))
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3
