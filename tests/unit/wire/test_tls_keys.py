from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.clock import ManualClock
from harness.certificates import Household
from structlog.testing import capture_logs
from structlog.typing import EventDict

from nexusd.clock import SystemClock
from nexusd.config_sections import Config, ServerConfig, TcpConfig, TlsConfig
from nexusd.errors import ConfigError
from nexusd.wire.tls_keys import TlsKeys

pytestmark = pytest.mark.anyio


@pytest.fixture
def household(tmp_path: Path) -> Household:
    return Household(tmp_path / "tls")


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def keys(logs: list[EventDict], household: Household) -> TlsKeys:
    return TlsKeys(household.settings(), SystemClock())


def config(tls: TlsConfig) -> Config:
    return Config(server=ServerConfig(tcp=TcpConfig(tls=tls)))


async def test_files_that_did_not_change_are_not_read(keys: TlsKeys, logs: list[EventDict]) -> None:
    held = keys.context
    await keys.look()
    assert keys.context is held
    assert logs == []


async def test_a_new_certificate_is_taken_and_told(keys: TlsKeys, household: Household, logs: list[EventDict]) -> None:
    held = keys.context
    household.renew()
    await keys.look()
    assert keys.context is not held
    [entry] = logs
    assert (entry["event"], entry["file"]) == ("certificate taken", household.cert_file)
    assert "localhost" in entry["names"]


async def test_a_bad_one_is_refused_once_the_old_stays_and_a_good_one_is_taken_after(
    keys: TlsKeys, household: Household, logs: list[EventDict]
) -> None:
    held = keys.context
    Path(household.cert_file).write_text("half of a certificate")
    for _ in range(3):
        await keys.look()
    assert keys.context is held
    assert [entry["event"] for entry in logs] == ["certificate refused; the old one holds"]
    assert "no certificate and its key in PEM" in (keys.state().refusal or "")
    household.renew()
    await keys.look()
    assert keys.context is not held
    assert keys.state().refusal is None


async def test_between_the_new_key_and_the_new_certificate_the_old_pair_is_shown(
    keys: TlsKeys, household: Household, tmp_path: Path
) -> None:
    held, other = keys.context, Household(tmp_path / "other")
    Path(household.key_file).write_bytes(Path(other.key_file).read_bytes())
    await keys.look()
    assert keys.context is held
    Path(household.cert_file).write_bytes(Path(other.cert_file).read_bytes())
    await keys.look()
    assert keys.context is not held


async def test_one_that_is_out_of_date_takes_the_place_of_none_that_is_good(
    keys: TlsKeys, household: Household, logs: list[EventDict]
) -> None:
    held, outdated = keys.context, household.outdated()
    assert outdated.cert_file is not None
    assert outdated.key_file is not None
    Path(household.key_file).write_bytes(Path(outdated.key_file).read_bytes())
    Path(household.cert_file).write_bytes(Path(outdated.cert_file).read_bytes())
    await keys.look()
    assert keys.context is held
    assert "is out of date since 2025-05-31" in logs[-1]["problems"]


async def test_other_settings_are_taken_or_refused_whole(keys: TlsKeys, household: Household, tmp_path: Path) -> None:
    other = Household(tmp_path / "other")
    keys.take(config(other.settings(roles="kitchen=read")))
    held = keys.context
    assert (keys.state().file, keys.roles) == (other.cert_file, {"kitchen": "read"})
    with pytest.raises(ConfigError, match=r"server\.tcp\.tls\.keyFile: .* is not the key"):
        keys.take(config(TlsConfig(cert_file=household.cert_file, key_file=other.key_file)))
    assert (keys.context, keys.state().file) == (held, other.cert_file)


async def test_tls_is_not_left_while_the_daemon_runs(keys: TlsKeys) -> None:
    with pytest.raises(ConfigError, match="TLS is left by a restart"):
        keys.take(config(TlsConfig()))


async def test_a_certificate_that_was_out_of_date_already_is_followed_by_any_other(
    household: Household, logs: list[EventDict]
) -> None:
    clock = ManualClock(4_000_000_000_000)   # the year 2096
    keys = TlsKeys(household.settings(), clock)
    assert logs[0]["log_level"] == "warning"
    held = keys.context
    household.renew()
    await keys.look()
    assert keys.context is not held
