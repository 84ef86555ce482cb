"""Certificates of the household's own making: an authority, the server's, and clients'.

Owns what stands in them. Takes and gives PEM; touches no file, and asks no clock. Loading this module loads the
cryptography library, so it is loaded when one is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650           # to give another one to every device is a day's work
SKEW = timedelta(hours=1)       # a device that was switched on just now may be so far behind


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, now: datetime) -> Signed:
    """An authority that signs certificates and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = (
        _builder(subject, key, now, now + timedelta(days=AUTHORITY_DAYS))
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return _signed(builder, key, key)


def make_server(authority: Signed, names: Sequence[str], days: int, now: datetime) -> Signed:
    """The certificate of a server that is reached by these host names and addresses.

    Raises:
        ValueError: a name is none, or the authority is not one.
    """
    alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
    return _issued(authority, names[0], ExtendedKeyUsageOID.SERVER_AUTH, days, now, alternatives)


def make_client(authority: Signed, name: str, days: int, now: datetime) -> Signed:
    """The certificate of a client that goes by this name.

    Raises:
        ValueError: the authority is not one.
    """
    return _issued(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, days, now, None)


def names_of(certificate: bytes) -> list[str]:
    """The host names and addresses that a certificate is for; none where it is broken."""
    try:
        extensions = x509.load_pem_x509_certificate(certificate).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return []
    return [str(one.value) for one in found.value]


def last_day(certificate: bytes) -> str:
    """Until when it is good, as people write it."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.date().isoformat()


def _issued(
    authority: Signed,
    name: str,
    usage: x509.ObjectIdentifier,
    days: int,
    now: datetime,
    alternatives: x509.SubjectAlternativeName | None,
) -> Signed:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey) or issuer_key.public_key() != issuer.public_key():
        raise ValueError("the key of the authority is not that of its certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)  # later nobody would believe it
    builder = (
        _builder(_subject(name), key, now, until)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    return _signed(builder, key, issuer_key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
) -> Signed:
    return Signed(
        builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
