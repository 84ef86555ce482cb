"""What is fuzzed: each target takes any bytes, and fails if they do what no input may.

Owns, of each part that reads what others wrote, how bytes become its input and what must hold whatever they are: an
answer or a refusal that is foreseen, within a bound of memory, without a path or a traceback in it. Hypothesis, the
coverage-guided fuzzer and the corpus run the same targets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from harness.methods import real_table

from nexusd.backup.unpacking import read_manifest, unpack
from nexusd.cli.export_reading import ExportFile, ExportFileError
from nexusd.cli.transfer_progress import Silent
from nexusd.config import load_settings
from nexusd.errors import BackupInvalid, ConfigError, InvalidParams, ParseError, RpcError, TooLarge
from nexusd.wire.envelope import NO_ID, Refused, Request, parse_json, read_message
from nexusd.wire.frames import FrameReader
from nexusd.wire.http_errors import HttpRefusal
from nexusd.wire.http_requests import RequestReader
from nexusd.wire.replies import error_reply
from nexusd.wire.validation import validate

CORPUS = Path(__file__).parents[1] / "corpus"
MAX_FRAME, MAX_HEAD, MAX_BODY = 4096, 2048, 4096
MAX_DEPTH, MAX_BATCH, MAX_VALUES = 16, 20, 2000
METHODS = sorted(real_table(), key=lambda method: method.name)
ENVIRON = ("NEXUSD_LOG__LEVEL", "NEXUSD_SERVER__TCP__PORT", "NEXUSD_SERVER__SOCKET__MODE", "NEXUSD_NO__SUCH",
           "EMBEDDING_SERVICE_URL", "NEXUSD_SERVER__TCP__TRUSTED_NETWORKS", "NEXUSD_INDEX__URL", "STATE_DIRECTORY")

MEMORY = Path("/dev/shm")  # noqa: S108 - a fresh directory in it, with files of a few KB
_TABLE = re.compile(rb'"table": ?"([A-Za-z]+)"')


def told(error: RpcError) -> None:
    """What a client would read of this refusal; it must say neither where it was raised nor from which file."""
    reply = error_reply(None, error, "r-1")
    assert len(reply) < 32_768, "a refusal is short, whatever was sent"
    assert b"Traceback" not in reply
    assert b".py" not in reply
    assert error.kind != "internal_error"


def said(complaint: str, longest: int) -> None:
    """What a person would read of this refusal."""
    assert 0 < len(complaint) <= longest
    assert "Traceback" not in complaint


def _chunks(data: bytes) -> Iterator[bytes]:
    """The bytes in pieces whose lengths they say themselves, so that a fuzzer finds those that matter."""
    place = 0
    while place < len(data):
        length = 1 + data[place] % 97
        yield data[place : place + length]
        place += length


def fuzz_frames(data: bytes) -> None:
    """Lines come out whole, in order, none too long, however they are cut; and little is kept."""
    reader, whole = FrameReader(MAX_FRAME), FrameReader(MAX_FRAME)
    frames: list[bytes] = []
    for chunk in _chunks(data):
        reader.feed(chunk)
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
        assert len(reader._partial) <= MAX_FRAME + 1
    whole.feed(data)
    at_once = []
    while (frame := whole.next_frame()) is not None:
        at_once.append(frame)
    assert frames == at_once
    assert reader.overflowed == whole.overflowed
    assert all(0 < len(frame.rstrip(b"\r")) <= MAX_FRAME for frame in frames)


def fuzz_http(data: bytes) -> None:
    """Requests come out, or the stream is refused; a body never past its limit."""
    reader = RequestReader(MAX_HEAD, MAX_BODY, lambda head: head)
    ended = False
    for chunk in _chunks(data):
        if ended:
            break
        reader.feed(chunk)
        try:
            while (request := reader.next_request()) is not None:
                assert len(request.body) <= MAX_BODY
                assert request.head.verb
        except HttpRefusal as refusal:
            told(refusal.error)
            ended = refusal.ends
        assert len(reader._rest) <= MAX_HEAD + MAX_BODY + 97
        assert len(reader._body) <= MAX_BODY


def fuzz_envelope(data: bytes) -> None:
    """A request with its parts, or a refusal under its own id."""
    try:
        message = read_message(data, max_depth=MAX_DEPTH, max_batch=MAX_BATCH, max_values=MAX_VALUES)
    except RpcError as error:
        told(error)
        return
    elements = message if isinstance(message, list) else [message]
    assert 0 < len(elements) <= MAX_BATCH
    for element in elements:
        assert element.id is NO_ID or element.id is None or isinstance(element.id, str | int | float)
        if isinstance(element, Refused):
            told(element.error)
        else:
            assert isinstance(element, Request)
            assert isinstance(element.params, dict | list)
            msgspec.json.encode(element.params)     # what was read can be written again


def fuzz_parameters(data: bytes) -> None:
    """The first byte chooses a method: its parameters are taken, or every bad field is named."""
    if not data:
        return
    method = METHODS[data[0] % len(METHODS)]
    try:
        given = parse_json(data[1:], max_depth=MAX_DEPTH, max_values=MAX_VALUES)
    except (ParseError, TooLarge) as error:
        told(error)
        return
    if not isinstance(given, dict | list):
        return
    check_parameters(method, given)


def check_parameters(method: Any, given: Any) -> None:
    """The same of parameters that are JSON already."""
    try:
        params = validate(method.params, given, positions=method.positions)
    except InvalidParams as error:
        told(error)
        return
    assert isinstance(params, method.params)
    again = msgspec.json.decode(msgspec.json.encode(params), type=method.params)
    assert again == params


def fuzz_config_file(data: bytes) -> None:
    """Settings, or a list of what is wrong with them."""
    with _file(data, "config.yaml") as path:
        _load(path, {})


def fuzz_config_variables(data: bytes) -> None:
    """The same of variables: the first byte chooses one, the rest is its value; a line each."""
    environ = {ENVIRON[line[0] % len(ENVIRON)]: os.fsdecode(line[1:].replace(b"\0", b""))
               for line in data.split(b"\n") if line}
    _load(None, environ)


def _load(path: Path | None, environ: dict[str, str]) -> None:
    try:
        load_settings(config=path, data=Path("/nonexistent"), environ={"CONFIGURATION_DIRECTORY": "/none", **environ})
    except ConfigError as error:
        said(str(error), 1 << 20)


def fuzz_import(data: bytes) -> None:
    """An export that is whole, or the line and what is wrong with it: as it is, and with the end that it needs."""
    _read_export(data)
    if not data.startswith(b"{"):
        return
    lines = data.splitlines(keepends=True)
    tables = [match[1].decode() for line in lines if (match := _TABLE.search(line)) is not None]
    end = {"end": "nexusd-export", "rows": dict(Counter(tables)), "sha256": hashlib.sha256(data).hexdigest()}
    _read_export(data + json.dumps(end).encode() + b"\n")


def _read_export(data: bytes) -> None:
    with _file(data, "export.jsonl") as path:
        file = ExportFile(path)
        try:
            outline = file.check(Silent())
            for stretch in outline.stretches:
                assert len(list(file.rows(stretch, None))) == stretch.rows
        except ExportFileError as error:
            said(str(error), 2000)


def fuzz_backup(data: bytes) -> None:
    """A backup that comes out whole, or that it is none; nothing is written beside where it was to come out."""
    with _file(data, "b.tar") as path:
        (into := path.parent / "into").mkdir()
        for read in (read_manifest, lambda path: unpack(path, into)):
            with contextlib.suppress(BackupInvalid):
                read(path)
        assert {one.name for one in path.parent.iterdir()} == {"b.tar", "into"}


@contextlib.contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nexusd-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as at:
        (path := Path(at) / name).write_bytes(data)
        yield path


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": fuzz_frames,
    "http": fuzz_http,
    "envelope": fuzz_envelope,
    "parameters": fuzz_parameters,
    "config-file": fuzz_config_file,
    "config-variables": fuzz_config_variables,
    "import": fuzz_import,
    "backup": fuzz_backup,
}


def corpus(target: str) -> Iterator[Path]:
    """The inputs that are kept for a target."""
    return iter(sorted(path for path in (CORPUS / target).iterdir() if path.is_file()))


def example_of(method: Any) -> bytes:
    """An input for `parameters` that the method takes, if it has an example."""
    return bytes([METHODS.index(method)]) + json.dumps(method.example or {}).encode()
