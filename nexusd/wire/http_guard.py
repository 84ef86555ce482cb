"""What is let in over HTTP: no page that a browser shows, and nothing but JSON.

Owns the checks of a request's headers that keep web pages out. A page of any site may send requests to a port of
the machine that it is shown on, and a site may let its own name point there; such requests are known by the
headers that the browser adds, by a body that is not declared as JSON (anything else can be sent without asking
first), and by the name that they call us. Pure; knows no route.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection

from nexusd.wire.http_errors import forbidden, malformed, not_taken
from nexusd.wire.http_heads import Head

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_JSON = re.compile(r'application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)


class Guard:
    """Checks the head of a request: who sends it first, then in what form its body comes."""

    def __init__(self, host_names: Collection[str]) -> None:
        self._host_names = {"localhost", *(name.lower() for name in host_names)}

    def check_sender(self, head: Head, local_address: Callable[[], str | None]) -> None:
        """Pass, or say why not. `local_address` is where the client reached us; None on the Unix socket.

        Raises:
            HttpRefusal: it is refused.
        """
        if head.header(b"origin") is not None:
            raise forbidden("Web pages are not let in: a request with an Origin is one of theirs.")
        if head.headers.get(b"sec-fetch-site", b"none").lower() not in {b"none", b"same-origin"}:
            raise forbidden("Web pages are not let in: Sec-Fetch-Site says that this is a request of one.")
        host = head.header(b"host")
        if host is not None:    # HTTP/1.0 needs none, and no browser speaks it
            self._check_host(host, local_address)

    def check_body(self, head: Head) -> None:
        """Pass, or say why not.

        Raises:
            HttpRefusal: it is refused.
        """
        if head.verb not in {"POST", "PUT", "PATCH"} and not (head.verb == "DELETE" and head.has_body):
            return
        if head.length is None and not head.is_chunked:
            raise not_taken(411, f"{head.verb} needs a Content-Length, or a chunked body.")
        content_type = head.header(b"content-type")
        if content_type is None or _JSON.fullmatch(content_type) is None:
            raise not_taken(415, "A body is JSON in UTF-8, with Content-Type: application/json.")
        if head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise not_taken(415, "A body is taken as it is, without a Content-Encoding.")

    def _check_host(self, host: str, local_address: Callable[[], str | None]) -> None:
        match = _HOST.fullmatch(host)
        if match is None and host:
            raise malformed("bad Host")
        name = match[1].strip("[]").lower() if match is not None else ""
        if name in self._host_names:
            return
        address = local_address()
        if address is None or name == address or _is_loopback(name):
            return
        raise forbidden("This is not a name of this machine: server.tcp.hostNames in the settings adds names.")


def _is_loopback(name: str) -> bool:
    """Whether it is an address of this machine itself. No name is: names can be made to point anywhere."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
