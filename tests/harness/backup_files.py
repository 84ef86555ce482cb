"""Backups made by hand, so that they may be as wrong as they like; and small databases to be put into them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import zstandard

from nexusd.backup.manifest import (
    DATABASE_MEMBER,
    FILES_PREFIX,
    FORMAT,
    MANIFEST_MEMBER,
    DatabaseFacts,
    Manifest,
    Member,
    encode_manifest,
)
from nexusd.store.connection import open_writer
from nexusd.store.facts import read_facts
from nexusd.store.migrations import load_migrations, migrate

ADD_SESSION = "INSERT INTO sessions (external_id, created_at, updated_at) VALUES (?, 1, 1)"
ADD_EPISODE = """
INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at) VALUES (1, ?, 'yes', 1, 1)"""


def fill(path: Path, texts: Sequence[str], *, schema: int | None = None) -> Path:
    """A database with an exchange for each text, closed whole; of an earlier schema where that is said."""
    migrations = load_migrations()
    with closing(open_writer(path, "NORMAL")) as db:
        migrate(db, migrations[: schema or len(migrations)])
        db.execute(ADD_SESSION, ("one",))
        for text in texts:
            db.execute(ADD_EPISODE, (text,))
        db.execute("PRAGMA journal_mode = DELETE").fetchall()
    return path


def texts_in(path: Path) -> list[str]:
    """The exchanges of such a database."""
    with closing(open_writer(path, "NORMAL")) as db:
        return [text for (text,) in db.execute("SELECT user_message FROM episodes ORDER BY id")]


def facts_of(path: Path) -> DatabaseFacts:
    """What a manifest says of it."""
    with closing(open_writer(path, "NORMAL")) as db:
        facts = read_facts(db)
        db.execute("PRAGMA journal_mode = DELETE").fetchall()
    data = path.read_bytes()
    return DatabaseFacts(
        bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), sqlite_version="3.51.3",
        application_id=facts.application_id, schema_version=facts.schema_version, epoch=facts.epoch,
        model=facts.model, rows=facts.rows,
    )


def as_it_is(manifest: Manifest) -> Manifest:
    """No lie."""
    return manifest


def backup_of(
    path: Path, database: Path, files: Mapping[str, bytes] | None = None,
    *, lie: Callable[[Manifest], Manifest] = as_it_is, kind: Mapping[str, bytes] | None = None,
    after: Mapping[str, bytes] | None = None, rename: Mapping[str, str] | None = None,
) -> Path:
    """A backup of this database; `lie` changes its manifest, `kind` the types of members, `after` adds some."""
    facts = facts_of(database)
    contents = {DATABASE_MEMBER: zstandard.compress(database.read_bytes())}
    contents |= {FILES_PREFIX + name: data for name, data in (files or {}).items()}
    manifest = lie(
        Manifest(
            format=FORMAT, name=path.stem, kind="manual", created_at=1_700_000_000_000, program="0", database=facts,
            members=[
                Member(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for name, data in contents.items()
            ],
        )
    )
    with tarfile.open(path, "w") as tar:
        for name, data in {MANIFEST_MEMBER: encode_manifest(manifest), **contents, **(after or {})}.items():
            info = tarfile.TarInfo((rename or {}).get(name, name))
            info.size, info.mode = len(data), 0o640
            if kind is not None and name in kind:
                info.type, info.size = kind[name], 0
                info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return path


def lying(**changes: object) -> Callable[[Manifest], Manifest]:
    """A lie about the database."""

    def lie(manifest: Manifest) -> Manifest:
        facts = msgspec.structs.replace(manifest.database, **changes)  # type: ignore[arg-type]
        return msgspec.structs.replace(manifest, database=facts)

    return lie
