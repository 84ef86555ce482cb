"""nexusctl tls init, client: certificates for a household that has no authority to ask.

Owns where they lie, that no key is readable by others for a moment and none is overwritten unasked, under which names
this machine is reached, and the words on what to do with them. Talks to no daemon. What stands in a certificate is
`authority`'s.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import pwd
import re
import socket
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexusd.cli.params import ParameterError

if TYPE_CHECKING:
    from types import ModuleType

    from nexusd.cli.authority import Signed

SYSTEM_DIRECTORY = Path("/etc/nexusd")
DAEMON_USER = "nexusd"          # of the system's unit, who has to read the server's key
DAYS = 825                      # what telephones believe at most of an authority that was put in by hand
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\Z")
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TAKEN = frozenset({"ca", "server"})
_SIOCGIFADDR = 0x8915

Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Where they lie; else /etc/nexusd/tls, or data/tls for a daemon here."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, metavar="N", help="How long it is good.")]
Renew = Annotated[bool, typer.Option("--renew", help="In place of one that is there.")]


def init(
    *,
    directory: Directory = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further name or address that clients use; may be given again."),
    ] = None,
    days: Days = DAYS,
    renew: Annotated[
        bool, typer.Option("--renew", help="Keep the authority, make the server's certificate anew.")
    ] = False,
) -> None:
    """Make an authority of this household, and the certificate of this server."""
    made = authority()
    place = _place(directory)
    for one in name or []:
        _hold_host(one)
    now = datetime.now(UTC)
    _make_directory(place)
    names = name or []
    if renew:
        signer = _signer(place)
        names += made.names_of(_read(place / "server.crt")) if (place / "server.crt").exists() else []
    else:
        _hold_free(place, "ca", "server")
        signer = made.make_authority(f"nexusd household authority ({socket.gethostname()})", now)
        _write(place, "ca", signer)
    names = list(dict.fromkeys([*names, *machine_names()]))
    server = made.make_server(signer, names, days, now)
    _write(place, "server", server)
    _give_to_daemon(place / "server.key")
    print(f"{place}/server.crt is good until {made.last_day(server.certificate)}, for {', '.join(names)}")
    print(_RENEWED if renew else _how_to_use(place, names[0], made.last_day(signer.certificate)))


def client(
    *,
    name: Annotated[str, typer.Argument(help="What the daemon will know it by, such as kitchen-display.")],
    directory: Directory = None,
    days: Days = DAYS,
    renew: Renew = False,
) -> None:
    """Make the certificate of a client, signed by the authority of this household."""
    if not _CLIENT_NAME.match(name) or name in _TAKEN:
        raise ParameterError(f"expected a name of letters, digits, dots and dashes that is no server's, got {name}")
    made = authority()
    place = _place(directory)
    signer = _signer(place)
    if not renew:
        _hold_free(place, name)
    signed = made.make_client(signer, name, days, datetime.now(UTC))
    _write(place, name, signed)
    print(f"{place}/{name}.crt is good until {made.last_day(signed.certificate)}; {name}.key is its key")
    print(_how_to_know(place, name))


def tls_group() -> typer.Typer:
    """The commands."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make certificates for TLS on the LAN.")
    app.command()(init)
    app.command()(client)
    return app


def authority() -> ModuleType:
    """The module that makes certificates, loaded for it."""
    import nexusd.cli.authority  # noqa: PLC0415 (cryptography takes 100 ms that no other command needs)

    return nexusd.cli.authority


def machine_names() -> list[str]:
    """What this machine is called and the addresses that it has, those that stay the longest first."""
    own = socket.gethostname()
    names = [own] if _HOST_NAME.match(own) else []
    if names and "." not in own:
        names.append(f"{own}.local")    # as it is announced to those in the house
    return [*names, *sorted(_addresses()), "localhost", "127.0.0.1", "::1"]


def _addresses() -> Iterator[str]:
    """Of every interface, as the kernel tells; without those that hold on one link alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, interface in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
            except OSError:     # it has none
                continue
            address = ipaddress.ip_address(answer[20:24])
            if not address.is_loopback:
                yield str(address)
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:     # a kernel without it
        return
    for line in lines:
        six = ipaddress.ip_address(bytes.fromhex(line.split()[0]))
        if not six.is_loopback and not six.is_link_local:
            yield str(six)


def _place(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    system = SYSTEM_DIRECTORY.is_dir() and os.access(SYSTEM_DIRECTORY, os.W_OK)
    return SYSTEM_DIRECTORY / "tls" if system else Path("data/tls").absolute()


def _hold_host(name: str) -> None:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if not _HOST_NAME.match(name) or len(name) > 253:
            raise ParameterError(f"expected --name with a host name or an address, got {name}") from None


def _hold_free(place: Path, *names: str) -> None:
    for file in (place / f"{name}.{kind}" for name in names for kind in ("crt", "key")):
        if file.exists():
            raise ParameterError(f"{file} is there already and is left alone; --renew makes a new certificate")


def _make_directory(place: Path) -> None:
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)    # the daemon and clients read certificates in it
    except OSError as error:
        raise ParameterError(f"{place}: {error.strerror}") from error


def _signer(place: Path) -> Signed:
    signer: Signed = authority().Signed(_read(place / "ca.crt"), _read(place / "ca.key"))
    return signer


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ParameterError(f"{file} is not there; nexusctl tls init makes the authority") from None
    except OSError as error:
        raise ParameterError(f"{file}: {error.strerror}") from error


def _write(place: Path, name: str, signed: Signed) -> None:
    """The key before the certificate: a daemon that looks in between refuses the pair, and looks again."""
    _write_file(place / f"{name}.key", signed.key, 0o600)
    _write_file(place / f"{name}.crt", signed.certificate, 0o644)


def _write_file(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and closed to others from its first byte."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:  # noqa: PTH123  a mode
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            os.fsync(stream.fileno())
        fresh.replace(file)
    except OSError as error:
        raise ParameterError(f"{file}: {error.strerror}") from error


def _give_to_daemon(key: Path) -> None:
    """Where root makes it for the system's daemon, that one's user must be able to read it."""
    if os.geteuid() != 0 or not key.is_relative_to(SYSTEM_DIRECTORY):
        return
    try:
        user = pwd.getpwnam(DAEMON_USER)
    except KeyError:    # not installed yet
        return
    os.chown(key, user.pw_uid, -1)


_RENEWED = "A daemon that uses it takes it within ten seconds, or at once: nexusctl reload"


def _how_to_use(place: Path, host: str, last_day: str) -> str:
    return f"""
In config.yaml, then restart nexusd:

server:
  tcp:
    tls:
      certFile: {place}/server.crt
      keyFile: {place}/server.key

Clients believe whom {place}/ca.crt signs for, until {last_day}. Copy that file to them:

  nexusctl --url tls://{host}:3002 --ca-file ca.crt status
  curl --cacert ca.crt https://{host}:3002/health

Nobody else gets {place}/ca.key: who has it can pose as this server."""


def _how_to_know(place: Path, name: str) -> str:
    return f"""
In config.yaml, the role being read, write or admin, then: nexusctl reload

server:
  tcp:
    tls:
      clientCaFile: {place}/ca.crt
      clientRoles: {name}=read

The client gets {name}.crt, {name}.key and ca.crt, over a way that nobody listens on:

  nexusctl --url tls://HOST:3002 --ca-file ca.crt --cert-file {name}.crt --key-file {name}.key status
  curl --cacert ca.crt --cert {name}.crt --key {name}.key https://HOST:3002/health"""
