"""What is asked of a daemon behind TLS before anything is said to it.

Owns whose signature is believed, and in what words a failure is told. There is no way to ask for less: a certificate of
one's own making is believed by naming it, or its authority, as the file of authorities. Connects nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexusd.client.address import TlsAddress

if TYPE_CHECKING:
    import ssl


def tls_context(address: TlsAddress) -> ssl.SSLContext:
    """How to connect there: the certificate must be signed by who is trusted, and be for this host.

    Raises:
        ValueError: a file that was named is missing, or is not what it should be.
    """
    import ssl  # noqa: PLC0415 (it takes 10 ms, and on a Unix socket there is no use for it)

    trust = address.trust
    for path in (trust.ca_file, trust.cert_file, trust.key_file):
        _hold_readable(path)
    try:
        context = ssl.create_default_context(cafile=trust.ca_file)
    except ssl.SSLError as error:
        raise ValueError(f"expected certificates in PEM, got {trust.ca_file}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if trust.cert_file is not None:
        try:
            context.load_cert_chain(trust.cert_file, trust.key_file)
        except ssl.SSLError as error:
            files = " and ".join(path for path in (trust.cert_file, trust.key_file) if path is not None)
            raise ValueError(f"expected a certificate and its key in PEM, got {files}") from error
    elif trust.key_file is not None:
        raise ValueError(f"expected a certificate with the key {trust.key_file}, got none")
    return context


def why(error: OSError) -> str:
    """In words what a connection failed of."""
    unbelieved = getattr(error, "verify_message", None)
    if unbelieved:
        hint = "; name who signed it: ca_file, or NEXUSD_CA_FILE" if "certificate" in unbelieved else ""
        return f"its certificate is not believed: {unbelieved}{hint}"
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return "no TLS is spoken there"
    return error.strerror or str(error)


def _hold_readable(path: str | None) -> None:
    if path is None:
        return
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
