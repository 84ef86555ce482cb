"""Storage that speaks S3 as far as Litestream needs it, in memory, in a thread of its own.

Objects with their metadata: put (whole or in parts, plain or in signed chunks), get (whole or a range), head, list
(version 2, in pages), delete (one or many). Signatures are not looked at. `down` makes every request fail, `asked`
has what was asked, by kind.
"""

from __future__ import annotations

import hashlib
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 100  # fewer than S3 lists at once, so that pages are followed


class Stored:
    """An object."""

    def __init__(self, content: bytes, metadata: dict[str, str]) -> None:
        self.content = content
        self.metadata = metadata
        self.etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        self.changed_s = time.time()


class S3Server:
    """A context manager; `url` while it runs. Any bucket is there."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}  # by /bucket/key
        self.uploads: dict[str, tuple[dict[int, bytes], dict[str, str]]] = {}
        self.asked: Counter[str] = Counter()
        self.down = False
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.owner = self  # type: ignore[attr-defined] - where the handler finds it
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="s3")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> S3Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body together: else the second waits for the acknowledgement of the first
    timeout = 5  # a connection that is kept for nothing must not outlive the test

    @property
    def owner(self) -> S3Server:
        return self.server.owner  # type: ignore[attr-defined,no-any-return] - set by S3Server

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_DELETE = do_GET  # noqa: N815 - names of the standard library

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", "0")))
        if "aws-chunked" in self.headers.get("content-encoding", "") or self.headers.get(
            "x-amz-content-sha256", ""
        ).startswith("STREAMING-"):
            content = _unchunked(content)
        self._answer(content)

    do_POST = do_PUT  # noqa: N815 - a name of the standard library

    def _answer(self, content: bytes) -> None:
        url = urlsplit(self.path)
        self._query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self._key = unquote(url.path)
        if self.owner.down:
            self.owner.asked["refused"] += 1
            self._send(503, _error("ServiceUnavailable"))
            return
        kind = self._kind()
        with self.owner.lock:
            self.owner.asked[kind] += 1
            getattr(self, f"_{kind}")(content)

    def _kind(self) -> str:
        match self.command:
            case "PUT":
                return "part" if "uploadId" in self._query else "put"
            case "POST":
                kinds = {"delete": "delete_many", "uploads": "begin", "uploadId": "complete"}
                return next(kind for name, kind in kinds.items() if name in self._query)
            case "GET":
                return "location" if "location" in self._query else "list" if "list-type" in self._query else "get"
        return str(self.command).lower()

    # --- objects ---

    def _metadata(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _put(self, content: bytes) -> None:
        stored = self.owner.objects[self._key] = Stored(content, self._metadata())
        self._send(200, b"", ETag=stored.etag)

    def _get(self, _content: bytes) -> None:
        stored = self.owner.objects.get(self._key)
        if stored is None:
            self._send(404, _error("NoSuchKey"))
            return
        content, more = stored.content, {}
        if wanted := self.headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
            more["Content-Range"] = f"bytes {first}-{int(first) + len(content) - 1}/{len(stored.content)}"
        changed = formatdate(stored.changed_s, usegmt=True)
        headers = {"ETag": stored.etag, "Last-Modified": changed, **stored.metadata, **more}
        self._send(206 if more else 200, content, **headers)

    _head = _get

    def _delete(self, _content: bytes) -> None:
        self.owner.objects.pop(self._key, None)
        self._send(204, b"")

    def _delete_many(self, content: bytes) -> None:
        keys = [element.text or "" for element in ET.fromstring(content).iter() if element.tag.endswith("Key")]  # noqa: S314 - ours
        for key in keys:
            self.owner.objects.pop(f"{self._key.rstrip('/')}/{key}", None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._send(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    # --- in parts ---

    def _begin(self, _content: bytes) -> None:
        upload = f"upload-{len(self.owner.uploads)}"
        self.owner.uploads[upload] = {}, self._metadata()
        said = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        self._send(200, said.encode())

    def _part(self, content: bytes) -> None:
        self.owner.uploads[self._query["uploadId"]][0][int(self._query["partNumber"])] = content
        self._send(200, b"", ETag=Stored(content, {}).etag)

    def _complete(self, _content: bytes) -> None:
        parts, metadata = self.owner.uploads.pop(self._query["uploadId"])
        whole = b"".join(parts[number] for number in sorted(parts))
        stored = self.owner.objects[self._key] = Stored(whole, metadata)
        said = f"<CompleteMultipartUploadResult><ETag>{stored.etag}</ETag></CompleteMultipartUploadResult>"
        self._send(200, said.encode())

    # --- the bucket ---

    def _location(self, _content: bytes) -> None:
        self._send(200, b"<LocationConstraint>us-east-1</LocationConstraint>")

    def _list(self, _content: bytes) -> None:
        root = f"{self._key.rstrip('/')}/"
        prefix, delimiter = self._query.get("prefix", ""), self._query.get("delimiter", "")
        after = max(self._query.get("continuation-token", ""), self._query.get("start-after", ""))
        names: dict[str, Stored | None] = {}  # None: all that begins so
        for key in sorted(self.owner.objects):
            name = key.removeprefix(root)
            if key.startswith(root) and name.startswith(prefix) and name > after:
                head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
                names[prefix + head + found if found else name] = None if found else self.owner.objects[key]
        page = list(names.items())[: min(PAGE, int(self._query.get("max-keys", PAGE)))]
        said = "".join(_listed(name, stored) for name, stored in page)
        more = len(page) < len(names)
        said += f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            said += f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>"
        self._send(200, f"<ListBucketResult>{said}</ListBucketResult>".encode())

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *_args: object) -> None:  # noqa: A002 - a name of the standard library
        """Nothing: the test says what it wants to know."""


def _listed(name: str, stored: Stored | None) -> str:
    if stored is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.changed_s))
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>{changed}</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.content)}</Size></Contents>"
    )


def _unchunked(content: bytes) -> bytes:
    """The payload of chunks: each a line with its length in hex, and its signature, which nobody looks at."""
    whole = b""
    while True:
        line, _, content = content.partition(b"\r\n")
        length = int(line.partition(b";")[0], 16)
        if not length:
            return whole
        whole, content = whole + content[:length], content[length + 2 :]


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as it was told to</Message></Error>".encode()
