"""The settings there are: every section and key, its default and its limits, as frozen structs.

Owns nothing but their shape; `nexusd.config` says where their values come from. Knows nothing of what a setting does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

# The model of each provider where `embedding.model` says nothing.
DEFAULT_MODELS = {
    "builtin": "all-MiniLM-L6-v2",
    "service": "nomic-embed-text",
    "ollama": "nomic-embed-text",
    "openai": "text-embedding-3-small",
}

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86400)]  # a year: what is longer was meant in milliseconds
Role = Literal["read", "write", "admin"]


class Section(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every section: unknown keys are refused."""


class SocketConfig(Section, frozen=True, kw_only=True):
    """The Unix socket. `path` null: $RUNTIME_DIRECTORY/nexusd.sock, else DATA/nexusd.sock."""

    path: str | None = None
    mode: Annotated[
        str, Meta(pattern=r"^0?[0-7]{3}\Z", extra={"expected": 'an octal mode such as "0660"'})
    ] = "0660"
    group: str | None = None
    admins: str | None = None   # separated by commas: names, @group, numbers
    writers: str | None = None  # null: the members of the socket's group
    readers: str | None = None


class TlsConfig(Section, frozen=True, kw_only=True):
    """TLS on the LAN port. `cert_file` null: plain text."""

    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None
    client_roles: str | None = None  # NAME=ROLE, separated by commas


class TcpConfig(Section, frozen=True, kw_only=True):
    """The LAN port. `auth` none is for loopback alone; off loopback it is TLS or `insecure_lan`."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3002
    host_names: str | None = None  # separated by commas
    auth: Literal["token", "none"] = "token"
    insecure_lan: bool = False
    trusted_networks: str | None = None  # separated by commas: NETWORK=ROLE
    tls: TlsConfig = TlsConfig()

    @property
    def names(self) -> list[str]:
        """The further names, each by itself."""
        return [name for part in (self.host_names or "").split(",") if (name := part.strip())]


class LimitsConfig(Section, frozen=True, kw_only=True):
    """What a connection may ask for; past a limit comes an error, then, where it must, the close."""

    max_message_bytes_tcp: Annotated[int, Meta(ge=1024, le=2**30)] = 1024 * 1024
    max_message_bytes_unix: Annotated[int, Meta(ge=1024, le=2**30)] = 16 * 1024 * 1024
    max_batch: Positive = 100
    max_in_flight: Positive = 32
    max_connections: Positive = 512
    max_connections_per_peer: Positive = 128
    max_unauthenticated_per_peer: Positive = 16
    max_depth: Annotated[int, Meta(ge=2, le=150)] = 64
    max_values: Annotated[int, Meta(ge=1000, le=2**31)] = 250_000
    request_timeout_s: Seconds = 30.0
    batch_timeout_s: Seconds = 60.0
    first_byte_timeout_s: Seconds = 30.0
    login_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds = 3600.0
    partial_frame_timeout_s: Seconds = 30.0
    max_write_buffer_bytes: Annotated[int, Meta(ge=65536, le=2**31)] = 32 * 1024 * 1024
    write_stall_timeout_s: Seconds = 30.0
    max_header_bytes: Annotated[int, Meta(ge=1024, le=2**20)] = 16 * 1024
    max_subscriptions: Positive = 16
    event_replay: Annotated[int, Meta(ge=1, le=2**20)] = 1024


class ServerConfig(Section, frozen=True, kw_only=True):
    """Where callers come in."""

    socket: SocketConfig = SocketConfig()
    tcp: TcpConfig = TcpConfig()
    limits: LimitsConfig = LimitsConfig()
    drain_timeout_s: Seconds = 20.0


class BackupsConfig(Section, frozen=True, kw_only=True):
    """Backups and the timer that makes them. `directory` null: DATA/backups."""

    enabled: bool = True
    directory: str | None = None
    interval: Annotated[int, Meta(ge=60_000, le=366 * 86400 * 1000)] = 86_400_000
    max_count: Annotated[int, Meta(ge=1, le=10_000)] = 5
    keep_daily: Annotated[int, Meta(ge=0, le=10_000)] = 0
    keep_weekly: Annotated[int, Meta(ge=0, le=10_000)] = 0
    keep_monthly: Annotated[int, Meta(ge=0, le=10_000)] = 0
    drill_interval_s: Annotated[float, Meta(ge=0, le=366 * 86400)] = 7 * 86400.0


class StorageConfig(Section, frozen=True, kw_only=True):
    """SQLite. `database` null: DATA/nexus.db. `checkpoints`: who folds the WAL into the database."""

    database: str | None = None
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    max_queued_writes: Positive = 4096
    read_timeout_s: Seconds = 10.0
    secure_delete: bool = False
    checkpoints: Literal["own", "litestream"] = "own"
    backups: BackupsConfig = BackupsConfig()


class IndexTlsConfig(Section, frozen=True, kw_only=True):
    """How a server at an https address is checked. `ca_file` null: the certificates that the system trusts."""

    ca_file: str | None = None
    verify: bool = True


class IndexConfig(Section, frozen=True, kw_only=True):
    """The vector index. Everything from `url` on is for the backend `server` alone.

    The three numbers of sharding hold for collections that are made from then on; null leaves them to the server.
    """

    backend: Literal["embedded", "server"] = "embedded"
    rebuild_after: Annotated[int, Meta(ge=100, le=2**31)] = 10_000
    call_timeout_s: Seconds = 30.0
    verify_at: Annotated[
        str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?\Z", extra={"expected": 'a time such as "03:30", or ""'})
    ] = "03:30"
    verify_repairs: bool = True
    url: str | None = None
    api_key: str | None = None
    tls: IndexTlsConfig = IndexTlsConfig()
    connect_timeout_s: Seconds = 3.0
    search_timeout_s: Seconds = 5.0
    check_interval_s: Annotated[float, Meta(ge=0.1, le=60)] = 3.0
    collection_prefix: Annotated[
        str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?\Z", extra={"expected": "up to 64 of A-Z a-z 0-9 _ -"})
    ] = "nexusd-"
    shard_number: Annotated[int, Meta(ge=1, le=1024)] | None = None
    replication_factor: Annotated[int, Meta(ge=1, le=64)] | None = None
    write_consistency_factor: Annotated[int, Meta(ge=1, le=64)] | None = None

    def __repr__(self) -> str:
        """Without the key: settings are printed where something went wrong."""
        return f"IndexConfig(backend={self.backend!r}, url={self.url!r})"


class EmbeddingConfig(Section, frozen=True, kw_only=True):
    """The embedding model: built in, or behind HTTP. Null where each provider has a default of its own."""

    provider: Literal["builtin", "service", "ollama", "openai"] = "builtin"
    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    dimension: Annotated[int, Meta(ge=1, le=65536)] | None = None
    document_prefix: str | None = None
    query_prefix: str | None = None
    max_text_chars: Annotated[int, Meta(ge=256, le=2**20)] = 32_000
    batch_size: Annotated[int, Meta(ge=1, le=256)] = 16
    max_batch_bytes: Annotated[int, Meta(ge=1024, le=2**26)] = 256 * 1024
    threads: Annotated[int, Meta(ge=1, le=64)] = 2
    timeout_s: Seconds = 60.0
    keep_warm: bool = False
    query_cache_entries: Annotated[int, Meta(ge=0, le=2**20)] = 1024
    keep_old_s: Annotated[float, Meta(ge=0, le=366 * 86400)] = 7 * 86400.0

    def __repr__(self) -> str:
        """Without the key, which must not get into a log by way of a traceback."""
        return f"EmbeddingConfig(provider={self.provider!r}, url={self.url!r}, model={self.model!r}, ...)"

    @property
    def model_name(self) -> str:
        """The model, or the provider's own."""
        return self.model or DEFAULT_MODELS[self.provider]


class RerankConfig(Section, frozen=True, kw_only=True):
    """A second opinion on the best hits of a search, off by default. `model`: a directory (onnx), or a name (http)."""

    provider: Literal["none", "onnx", "http"] = "none"
    model: str | None = None
    url: str | None = None
    api_key: str | None = None
    candidates: Annotated[int, Meta(ge=1, le=100)] = 20
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] = 500
    threads: Annotated[int, Meta(ge=1, le=64)] = 2

    def __repr__(self) -> str:
        """Without the key: settings are printed where something went wrong."""
        return f"RerankConfig(provider={self.provider!r}, url={self.url!r}, model={self.model!r}, ...)"


class SearchConfig(Section, frozen=True, kw_only=True):
    """How searches order what they find."""

    rerank: RerankConfig = RerankConfig()


class OutboxConfig(Section, frozen=True, kw_only=True):
    """How the index is kept up with the rows."""

    batch_size: Annotated[int, Meta(ge=1, le=1024)] = 64
    max_attempts: Positive = 8
    max_backoff_s: Seconds = 300.0
    drain_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class CacheConfig(Section, frozen=True, kw_only=True):
    """The TTL cache: in memory only, the least recently used goes first."""

    max_entries: Positive = 10_000
    max_bytes: Annotated[int, Meta(ge=1024, le=2**33)] = 64 * 1024 * 1024
    ttl_ms: Annotated[int, Meta(ge=1, le=366 * 86400 * 1000)] = 60_000


class FilesConfig(Section, frozen=True, kw_only=True):
    """Presets, tools and mcp-servers.json. `directory` null: the data directory."""

    directory: str | None = None
    poll_interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    max_file_bytes: Annotated[int, Meta(ge=1024, le=2**26)] = 1024 * 1024


class MetricsConfig(Section, frozen=True, kw_only=True):
    """Figures for Prometheus, at GET /metrics."""

    enabled: bool = True


class LogConfig(Section, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "terminal", "logfmt"] = "auto"
    journal_socket: str = "/run/systemd/journal/socket"
    slow_request_ms: Positive = 1000


class Config(Section, frozen=True, kw_only=True):
    """All settings, one section a part."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    index: IndexConfig = IndexConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    search: SearchConfig = SearchConfig()
    outbox: OutboxConfig = OutboxConfig()
    cache: CacheConfig = CacheConfig()
    files: FilesConfig = FilesConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
