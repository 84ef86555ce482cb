"""One request to an embedding service, and what became of it.

Owns the client with its connections, the bounds of time and size, and what each way to fail means: the service
is away, it will not take this request, or it faltered over it. Knows no dialect.

What a service says about itself is told to people, but never with a piece of a text in it or the key.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import httpx
import jiter
import msgspec

from nexusd import __version__
from nexusd.clock import Clock
from nexusd.errors import EmbedderUnavailable, NexusError

CONNECT_TIMEOUT_S = 5.0
# Less than the 5 s after which Node closes a connection: one that is closed while it is being used costs a retry.
KEEP_CONNECTION_S = 4.0
MAX_CONNECTIONS = 8  # documents one after another, and searches beside them
MAX_ERROR_BYTES = 64 * 1024
MAX_WORDS = 200  # characters of what a service says
MAX_RETRY_AFTER_S = 3600  # one that asks for more is asked once an hour
SHOWN_AT_MOST = 16  # a piece of a text as long as this must not stand in a message
_TOO_LONG = re.compile(
    r"too (long|large|many tokens)|context (length|window|size)|max\w*[ _](context|length|tokens)|exceed", re.IGNORECASE
)
REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
# What helps, by status; a dialect knows better of some.
ADVICE: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "see embedding.apiKey",
    HTTPStatus.FORBIDDEN: "see embedding.apiKey",
    HTTPStatus.NOT_FOUND: "see embedding.url",
    HTTPStatus.METHOD_NOT_ALLOWED: "see embedding.url",
}
REDIRECTED = "it redirects elsewhere, which is not followed; set embedding.url to where the service is"


class Refused(NexusError):
    """The service does not take this request; another one it may take. `too_long`: by what it says, a shorter one."""

    def __init__(self, message: str, status: int, *, too_long: bool) -> None:
        super().__init__(message)
        self.status = status
        self.too_long = too_long


class Faltered(NexusError):
    """The service failed while it had this request, because of itself or of a text in it. `late`: it took too long."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Exchange:
    """The way to one service. `label` and `origin` are its name and address in messages, `advice` helps by status."""

    def __init__(
        self, endpoint: str, *, label: str, origin: str, api_key: str | None, advice: Mapping[int, str], clock: Clock
    ) -> None:
        self._endpoint = endpoint
        self._advice = {**ADVICE, **advice}
        self._name = f"{label} at {origin}"
        self._key = api_key
        self._clock = clock
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity",
                   "user-agent": f"nexusd/{__version__}"}  # fmt: skip
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            # the system's certificates, so that a household's own authority counts; none are read where none are used
            verify=ssl.create_default_context() if endpoint.startswith("https:") else _no_certificates(),
            trust_env=False,  # a proxy of the environment would read every memory
            follow_redirects=False,  # and so would whoever a redirect names
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the whole has a limit of its own
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_CONNECTION_S,
            ),
        )

    async def close(self) -> None:
        """Close the connections; what is under way fails."""
        await self._client.aclose()

    async def ask(
        self, body: dict[str, object], texts: Sequence[str], *, timeout_s: float, max_bytes: int
    ) -> object:
        """The decoded answer. `texts` are those in the body, which no message may repeat.

        Raises:
            EmbedderUnavailable: the service is not there, or not one.
            Refused: it does not take this request.
            Faltered: it failed over this request, or took too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                status, headers, data = await self._send(msgspec.json.encode(body), max_bytes)
        except TimeoutError:
            raise Faltered(f"{self._name} did not answer within {timeout_s:g} s", late=True) from None
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise Faltered(f"{self._name} broke off before its answer was complete ({_why(error)})") from None
        except httpx.ConnectTimeout:
            raise EmbedderUnavailable(f"{self._name} does not take the connection") from None
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            raise EmbedderUnavailable(f"{self._name} cannot be reached ({_why(error)})") from None
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return self._decoded(data, headers)
        raise self._failure(status, headers, self._words(data), texts)

    async def _send(self, content: bytes, max_bytes: int) -> tuple[int, httpx.Headers, bytes]:
        """Twice where the first connection ends without a word: a service may close one that it had kept."""
        for again in (False, True):
            answered = False
            try:
                async with self._client.stream("POST", self._endpoint, content=content) as response:
                    answered = True
                    limit = max_bytes if response.is_success else MAX_ERROR_BYTES
                    return response.status_code, response.headers, await self._read(response, limit)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if answered or again:
                    raise
        raise AssertionError("unreachable")

    async def _read(self, response: httpx.Response, limit: int) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise EmbedderUnavailable(f"{self._name} compresses its answers, which it was asked not to do")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                if not response.is_success:
                    return b""  # an error that long is a page, and says nothing
                raise EmbedderUnavailable(f"{self._name} answered with more than {limit} bytes: those are no vectors")
        return bytes(data)

    def _decoded(self, data: bytes, headers: httpx.Headers) -> object:
        try:
            return jiter.from_json(data, allow_inf_nan=True)  # NaN is found later, with the text that it is for
        except ValueError:
            kind = _plain(headers.get("content-type", "no content type"))[:60]
            raise EmbedderUnavailable(
                f"{self._name} answered something that is not JSON ({kind}): "
                "is embedding.url the address of an embedding service?"
            ) from None

    def _failure(self, status: int, headers: httpx.Headers, words: str, texts: Sequence[str]) -> NexusError:
        said = f"HTTP {status}: {words}" if words and not _repeats(words, texts) else f"HTTP {status}"
        if status in REFUSALS:
            too_long = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LONG.search(words) is not None
            return Refused(f"{self._name} refused it ({said})", status, too_long=too_long)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return Faltered(f"{self._name} failed ({said})")
        redirect = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
        advice = REDIRECTED if redirect else self._advice.get(status)
        return EmbedderUnavailable(
            f"{self._name} answers {said}" + (f"; {advice}" if advice else ""),
            retry_after_ms=retry_after_ms(headers.get("retry-after", ""), self._clock.now_ms()),
        )

    def _words(self, data: bytes) -> str:
        """What the service says went wrong, on one line and without the key; "" when it says nothing."""
        try:
            told = _message_of(jiter.from_json(data))
        except ValueError:
            told = "" if data.lstrip().startswith(b"<") else data.decode("utf-8", "replace")
        words = _plain(told)
        return (words.replace(self._key, "***") if self._key is not None else words)[:MAX_WORDS]


def retry_after_ms(value: str, now_ms: int) -> int | None:
    """How long a Retry-After asks to wait: seconds, or a date; None where it says neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        wait_ms = int(text[:12]) * 1000
    else:
        try:
            wait_ms = int(email.utils.parsedate_to_datetime(text).timestamp() * 1000) - now_ms
        except (ValueError, OverflowError, TypeError, IndexError):
            return None
    return min(max(0, wait_ms), MAX_RETRY_AFTER_S * 1000)


def _message_of(answer: Any) -> str:
    """The sentence in an error's body: {"error": "..."}, {"error": {"message": "..."}} and their like."""
    for name in ("error", "message", "detail"):
        found = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if isinstance(found, str):
            return found
    return ""


def _repeats(words: str, texts: Sequence[str]) -> bool:
    """Whether the words hold one of the texts, or a piece of one."""
    plain = [" ".join(text.split()) for text in texts]
    whole = "\n".join(plain)
    pieces = (words[start : start + SHOWN_AT_MOST] for start in range(len(words) - SHOWN_AT_MOST + 1))
    return any(piece in whole for piece in pieces) or any(text and text in words for text in plain)


def _plain(text: str) -> str:
    """On one line, without what a terminal would act on."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _why(error: BaseException) -> str:
    """The system's own words where there are some: what httpx says of a refused connection is nothing."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        if isinstance(seen, ssl.SSLError):
            return _plain(str(seen.reason or seen))[:MAX_WORDS]
        if isinstance(seen, OSError) and seen.strerror:
            return _plain(seen.strerror)[:MAX_WORDS]
        seen = seen.__cause__ or seen.__context__
    return _plain(str(error))[:MAX_WORDS] or type(error).__name__


def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
