"""The server's certificate and key as they lie on disk, read and tried.

Owns what is asked of these files, which versions and ciphers are spoken, and what is wrong with the settings that name
them. Reads when it is called and remembers nothing.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexusd.config_sections import Config, Role, TlsConfig
from nexusd.errors import ConfigError
from nexusd.wire.certificates import read_roles

SECTION = "server.tcp.tls"
# Of TLS 1.2, for clients that know no 1.3, whose own are all of this kind: forward secrecy, and nothing to pad.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
OTHERS = 0o006
ROUNDS = 4      # of a handshake with itself; version 1.3 takes two
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for: what is out of date can be read all the
# same, and is told as such
_ANY_TIME = 0x200000

# of each file: when it was written and changed, which file it is and how long
Stamp = tuple[tuple[int, int, int, int] | None, ...]


class UnusableFiles(ConfigError):
    """The certificate, its key or the clients' authorities cannot be used."""

    def __init__(self, key: str, complaint: str) -> None:
        super().__init__(f"{SECTION}.{key}: {complaint}")
        self.key = f"{SECTION}.{key}"
        self.complaint = complaint


@dataclass(frozen=True, slots=True)
class Loaded:
    """What new connections are given."""

    context: ssl.SSLContext
    roles: Mapping[str, Role]
    names: tuple[str, ...]      # host names and addresses that the certificate is for
    not_after_s: float
    stamp: Stamp


def stamp_of(config: TlsConfig) -> Stamp:
    """How the files look from outside: another stamp, another content."""
    return tuple(_stamp(path) for path in (config.cert_file, config.key_file, config.client_ca_file))


def load(config: TlsConfig) -> Loaded:
    """Read the files, and make one handshake with them.

    Raises:
        UnusableFiles: a file is missing, is none of these, does not fit the others, or is open to everybody.
    """
    stamp = stamp_of(config)    # before they are read: what changes meanwhile is read again
    assert config.cert_file is not None  # noqa: S101 - asked of nobody who has none
    if config.key_file is None:
        raise UnusableFiles("keyFile", "expected the file with the key of the certificate")
    _hold_private(config.key_file)
    context = _context()
    _take_certificate(context, config.cert_file, config.key_file)
    if config.client_ca_file is not None:
        _take_authorities(context, config.client_ca_file)
    shown = _shown(context, config.cert_file)
    return Loaded(
        context=context,
        roles=_roles(config),
        names=tuple(_name(kind, value) for kind, value in shown.get("subjectAltName", ())),
        not_after_s=ssl.cert_time_to_seconds(shown["notAfter"]),
        stamp=stamp,
    )


def tls_complaints(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with the settings and the files that they name."""
    tls = config.server.tcp.tls
    if tls.cert_file is None:
        named = {"keyFile": tls.key_file, "clientCaFile": tls.client_ca_file, "clientRoles": tls.client_roles}
        for key, value in named.items():
            if value is not None:
                yield f"{SECTION}.{key}", f"means nothing without a certificate: set {SECTION}.certFile"
        return
    if tls.client_roles is not None and tls.client_ca_file is None:
        yield f"{SECTION}.clientRoles", f"means nothing without {SECTION}.clientCaFile, who signs for the clients"
    try:
        load(tls)
    except UnusableFiles as error:
        yield error.key, error.complaint


def _roles(config: TlsConfig) -> dict[str, Role]:
    try:
        return read_roles(config.client_roles)
    except ValueError as error:
        raise UnusableFiles("clientRoles", str(error)) from error


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0     # connections are kept open here; what is never resumed is verified anew each time
    context.set_alpn_protocols(["http/1.1"])
    return context


def _take_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    def refuse() -> str:    # else OpenSSL asks the terminal
        raise UnusableFiles("keyFile", f"{key_file} is encrypted, and nobody is there to be asked for its password")

    for key, path in (("certFile", cert_file), ("keyFile", key_file)):
        _hold_readable(key, path)
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFiles("keyFile", f"{key_file} is not the key of the certificate in {cert_file}") from error
        said = f": {error.reason.replace('_', ' ').lower()}" if error.reason else ""
        why = f"{cert_file} and {key_file} are no certificate and its key in PEM{said}"
        raise UnusableFiles("certFile", why) from error


def _take_authorities(context: ssl.SSLContext, path: str) -> None:
    _hold_readable("clientCaFile", path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise UnusableFiles("clientCaFile", f"{path} holds no certificates in PEM") from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _hold_readable(key: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UnusableFiles(key, f"{path}: {error.strerror}") from error


def _hold_private(path: str) -> None:
    """A key that everybody may read is nobody's; the group may be the daemon's own."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError as error:
        raise UnusableFiles("keyFile", f"{path}: {error.strerror}") from error
    if mode & OTHERS:
        why = f"every user of this machine can get at {path} (mode {mode:04o}): chmod o-rwx {path}"
        raise UnusableFiles("keyFile", why)


def _shown(context: ssl.SSLContext, cert_file: str) -> dict[str, Any]:
    """The certificate as a client sees it that trusts just this one.

    The ssl module tells of a certificate nothing but to a peer that verified it. So one handshake is made in memory,
    which proves besides that the files are good for one.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(cafile=cert_file)
        trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_ANY_TIME)
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(ROUNDS):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return client.getpeercert() or {}
    except ssl.SSLError as error:
        said = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
        raise UnusableFiles("certFile", f"{cert_file} is of no use to a server: {said}") from error


def _name(kind: str, value: str) -> str:
    return str(ipaddress.ip_address(value)) if kind == "IP Address" else value  # OpenSSL writes all the zeros


def _stamp(path: str | None) -> tuple[int, int, int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 - of three files every few seconds, for which no Path need be made
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
