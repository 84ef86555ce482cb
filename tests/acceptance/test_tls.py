"""TLS as the house sees it: curl, nexusctl, both clients, and certificates that change while everybody asks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.certificates import Household
from harness.daemon import Daemon
from harness.nexusctl import Done, in_pipe

from nexusd.client import AsyncClient, Client, ConnectionFailed, Retry

ONE_TRY = Retry(tries=1)


class House:
    """A daemon that speaks TLS, and what its clients need."""

    def __init__(self, daemon: Daemon, household: Household) -> None:
        self.daemon = daemon
        self.household = household
        [self.port] = map(int, re.findall(r"event=listening .* tcp=127\.0\.0\.1:(\d+) tls=true", daemon.log_tail(400)))

    @property
    def url(self) -> str:
        return f"tls://localhost:{self.port}"

    def client(self, **options: str) -> Client:
        return Client(self.url, retry=ONE_TRY, **{"ca_file": self.household.ca_file, **options})

    def nexusctl(self, *arguments: str) -> Done:
        return in_pipe("--url", self.url, "--ca-file", self.household.ca_file, *arguments)

    def curl(self, path: str, *arguments: str, ca_file: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["curl", "-sS", "--max-time", "20", "--cacert", ca_file or self.household.ca_file, *arguments]
        return subprocess.run(
            [*command, f"https://localhost:{self.port}{path}"], capture_output=True, text=True, check=False
        )

    def serial(self) -> str:
        """Of the certificate that is shown now."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 20) as plain,
            self.household.trusting().wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            shown = wrapped.getpeercert()
            assert shown is not None
            return str(shown["serialNumber"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    place = tmp_path_factory.mktemp("tls")
    household = Household(place / "tls")
    (place / "config.yaml").write_text(f"""
server:
  tcp:
    tls:
      certFile: tls/server.crt
      keyFile: {household.key_file}
      clientCaFile: {household.ca_file}
      clientRoles: kitchen-display=read, backup-box=admin
""")
    settings = {"NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0"}
    with Daemon(place / "data", settings=settings).start() as daemon:
        yield House(daemon, household)


def test_curl_speaks_rest_with_the_authoritys_file_and_not_without(house: House, tmp_path: Path) -> None:
    made = house.curl("/sessions", "-H", "Content-Type: application/json", "-d", '{"externalId": "curl"}')
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["externalId"] == "curl"
    assert house.curl("/health", "--fail").returncode == 0
    stranger = Household(tmp_path / "strangers")
    assert house.curl("/health", ca_file=stranger.ca_file).returncode == 60     # of curl: it cannot be authenticated


def test_nexusctl_takes_the_authority_as_an_option_and_from_the_environment(
    house: House
) -> None:
    assert house.nexusctl("status").code == 0
    https = house.url.replace("tls:", "https:")
    assert in_pipe("--url", https, "--ca-file", house.household.ca_file, "status").code == 0
    refused = in_pipe("--url", house.url, "status")
    assert (refused.code, refused.output) == (2, "")
    assert "its certificate is not believed: " in refused.errors
    assert "name who signed it: ca_file, or NEXUSD_CA_FILE" in refused.errors
    cert_file, key_file = house.household.client("kitchen-display")
    assert house.nexusctl("--cert-file", cert_file, "--key-file", key_file, "status").code == 0
    assert "No such file" in in_pipe("--url", house.url, "--ca-file", "/nowhere", "status").errors
    plain = in_pipe("--url", f"tcp://localhost:{house.port}", "status")
    assert (plain.code, "closed by the daemon" in plain.errors or "reset" in plain.errors) == (2, True)


def test_nexusctl_on_a_socket_has_no_use_for_the_authority(house: House) -> None:
    done = in_pipe("--ca-file", "/nowhere", "--socket", str(house.daemon.socket_path), "status")
    assert (done.code, done.errors) == (0, "")


def test_the_blocking_client_speaks_and_listens(house: House) -> None:
    with house.client() as nexus:
        with nexus.events(["episodes"]) as events:
            nexus.remember("Where is the ladder?", "In the shed.", session="blocking")
            assert next(events).topic == "episodes"
        assert nexus.search("ladder", mode="keyword").items
        large = "x" * 400_000
        nexus.call("cache.set", key="large", value=large)
        assert nexus.call("cache.get", key="large")["value"] == large


def test_a_blocking_client_that_is_closed_by_another_thread_wakes_up(house: House) -> None:
    with house.client() as nexus, nexus.events(["users"]) as events:
        waiting = threading.Timer(0.1, events.close)
        waiting.start()
        assert list(events) == []
        waiting.join()


def test_the_asyncio_client_speaks_and_listens(house: House) -> None:
    async def speak() -> None:
        async with AsyncClient(house.url, retry=ONE_TRY, ca_file=house.household.ca_file) as nexus:
            async with nexus.events(["episodes"]) as events:
                await nexus.remember("Where is the rake?", "In the shed.", session="asyncio")
                assert (await anext(events)).topic == "episodes"
            answers = await asyncio.gather(*(nexus.call("cache.set", key=f"{n}", value=n) for n in range(50)))
            assert len(answers) == 50

    asyncio.run(speak())


def test_neither_client_believes_a_stranger(house: House, tmp_path: Path) -> None:
    stranger = Household(tmp_path / "strangers")
    async def speak(url: str, ca_file: str) -> None:
        async with AsyncClient(url, retry=ONE_TRY, ca_file=ca_file) as nexus:
            await nexus.status()

    for url, ca_file in ((house.url, stranger.ca_file), (house.url, None)):
        with (
            Client(url, retry=ONE_TRY, ca_file=ca_file) as nexus,
            pytest.raises(ConnectionFailed, match="its certificate is not believed: "),
        ):
            nexus.status()
    with pytest.raises(ConnectionFailed, match="its certificate is not believed: "):
        asyncio.run(speak(house.url, stranger.ca_file))


def test_a_client_with_a_certificate_is_known_by_it(house: House) -> None:
    cert_file, key_file = house.household.client("backup-box")
    with house.client(cert_file=cert_file, key_file=key_file) as nexus:
        nexus.call("cache.set", key="by", value=1)
    assert house.curl("/health", "--cert", cert_file, "--key", key_file).returncode == 0


def test_certificates_that_change_under_load_cost_nobody_an_error(house: House) -> None:
    errors: list[BaseException] = []
    enough = threading.Event()
    answered = [0] * 4
    serials = {house.serial()}

    def ask(number: int) -> None:
        try:
            with house.client() as lasting:
                while not enough.is_set():
                    with house.client() as fresh:
                        fresh.call("cache.set", key=f"{number}", value=answered[number])
                    assert lasting.call("cache.get", key=f"{number}")["value"] == answered[number]
                    answered[number] += 1
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test fails with it
            errors.append(error)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(answered))]
    for thread in asking:
        thread.start()
    try:
        for _ in range(8):
            house.household.renew()
            os.kill(house.daemon.pid, signal.SIGHUP)
            assert house.nexusctl("reload").code == 0
            serials.add(house.serial())
    finally:
        enough.set()
        for thread in asking:
            thread.join(60)
    assert errors == []
    assert len(serials) == 9
    assert min(answered) > 8, answered


def test_a_bad_certificate_is_refused_at_a_reload_and_the_old_one_stays(house: House) -> None:
    good, shown = Path(house.household.cert_file).read_bytes(), house.serial()
    try:
        Path(house.household.cert_file).write_bytes(good[:200])
        refused = house.nexusctl("reload")
        assert (refused.code, "server.tcp.tls.certFile" in refused.errors) == (1, True)
        assert house.serial() == shown
        assert house.curl("/health", "--fail").returncode == 0
    finally:
        Path(house.household.cert_file).write_bytes(good)
    assert house.nexusctl("reload").code == 0


def test_the_doctor_looks_at_the_certificate(house: House) -> None:
    [found] = [one for one in json.loads(house.nexusctl("doctor").output)["checks"] if one["check"] == "certificate"]
    assert found["state"] == "ok"
    assert "localhost" in found["says"]


def test_a_start_is_refused_with_files_that_cannot_be_used_and_the_check_says_so(tmp_path: Path) -> None:
    (key := tmp_path / "server.key").write_text("no key")
    key.chmod(0o644)
    settings = {"NEXUSD_SERVER__TCP__TLS__CERT_FILE": str(key), "NEXUSD_SERVER__TCP__TLS__KEY_FILE": str(key)}
    daemon = Daemon(tmp_path / "data", settings=settings)
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 78
    assert "server.tcp.tls.keyFile" in daemon.log_tail()
    assert "every user of this machine can get at" in daemon.log_tail()
