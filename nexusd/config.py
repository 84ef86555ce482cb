"""Settings: config.yaml, the environment and the command line, as frozen structs.

Owns every setting, its default, its limits, and the precedence: command line, environment, file,
default. The only reader of `os.environ`. A wrong key or value names itself, its line and what was
expected. Knows nothing of what a setting does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Role = Literal["read", "write", "admin"]


class Section(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every section: unknown keys are refused."""


class SocketConfig(Section, frozen=True, kw_only=True):
    """The Unix socket. `path` null: $RUNTIME_DIRECTORY/nexusd.sock, else DATA/nexusd.sock."""

    path: str | None = None
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0660"
    group: str | None = None


class TcpConfig(Section, frozen=True, kw_only=True):
    """The LAN port. Loopback only until callers can be authenticated."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3002


class LimitsConfig(Section, frozen=True, kw_only=True):
    """What a connection may ask for; past a limit comes an error, then, where it must, the close."""

    max_message_bytes_tcp: Annotated[int, Meta(ge=1024)] = 1024 * 1024
    max_message_bytes_unix: Annotated[int, Meta(ge=1024)] = 16 * 1024 * 1024
    max_batch: Positive = 100
    max_in_flight: Positive = 32
    max_connections: Positive = 512
    max_connections_per_peer: Positive = 128
    max_depth: Annotated[int, Meta(ge=2, le=150)] = 64
    first_byte_timeout_s: Seconds = 30.0
    idle_timeout_s: Seconds = 3600.0
    partial_frame_timeout_s: Seconds = 30.0
    max_write_buffer_bytes: Annotated[int, Meta(ge=65536)] = 32 * 1024 * 1024
    write_stall_timeout_s: Seconds = 30.0


class ServerConfig(Section, frozen=True, kw_only=True):
    """Where callers come in."""

    socket: SocketConfig = SocketConfig()
    tcp: TcpConfig = TcpConfig()
    limits: LimitsConfig = LimitsConfig()
    drain_timeout_s: Seconds = 20.0


class StorageConfig(Section, frozen=True, kw_only=True):
    """SQLite. `database` null: DATA/nexus.db."""

    database: str | None = None
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    max_queued_writes: Positive = 4096
    read_timeout_s: Seconds = 10.0


class IndexConfig(Section, frozen=True, kw_only=True):
    """The vector index."""

    backend: Literal["embedded"] = "embedded"
    rebuild_after: Annotated[int, Meta(ge=100)] = 10_000
    call_timeout_s: Seconds = 30.0


class EmbeddingConfig(Section, frozen=True, kw_only=True):
    """The embedding model. `model` is a built-in name or a directory with model.onnx and tokenizer.json."""

    provider: Literal["builtin"] = "builtin"
    model: str = "all-MiniLM-L6-v2"
    dimension: Annotated[int, Meta(ge=1, le=65536)] | None = None
    batch_size: Annotated[int, Meta(ge=1, le=256)] = 16
    threads: Annotated[int, Meta(ge=1, le=64)] = 2
    timeout_s: Seconds = 60.0
    query_cache_entries: Annotated[int, Meta(ge=0)] = 1024


class OutboxConfig(Section, frozen=True, kw_only=True):
    """How the index is kept up with the rows."""

    batch_size: Annotated[int, Meta(ge=1, le=1024)] = 64
    max_attempts: Positive = 8
    max_backoff_s: Seconds = 300.0


class LogConfig(Section, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "terminal", "logfmt"] = "auto"
    slow_request_ms: Positive = 1000


class Config(Section, frozen=True, kw_only=True):
    """All settings, one section a part."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    index: IndexConfig = IndexConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    outbox: OutboxConfig = OutboxConfig()
    log: LogConfig = LogConfig()


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration with the places it resolved to; what `app` is built from."""

    config: Config
    data_directory: Path
    database_path: Path
    socket_path: Path
    config_path: Path | None
    notify_socket: str | None = None
