"""Settings: config.yaml, the environment and the command line, as frozen structs.

Owns every setting, its default, its limits, and the precedence: command line, environment, file,
default. The only reader of the environment. A wrong key or value names itself, its line and what was
expected, and all of them are named at once. Knows nothing of what a setting does.

The environment: SQLITE_PATH, PORT, QDRANT_URL and EMBEDDING_SERVICE_URL (which also select what they name), and
NEXUSD_SECTION__KEY for every key (server.tcp.port is NEXUSD_SERVER__TCP__PORT). An empty variable counts as not set;
`null` unsets what the file sets. A relative path starts at the file's own directory when it stands in the file, else at
the working directory.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from nexusd.config_places import absolute, config_path_of, first_path
from nexusd.config_reading import Reading
from nexusd.config_systemd import FromSystemd, from_systemd
from nexusd.config_values import describe_found, group_exists
from nexusd.errors import ConfigError

DATABASE_FILE_NAME = "nexus.db"
SOCKET_FILE_NAME = "nexusd.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its final zero
# Names that the two services before this one were configured by.
SPECIFIED_VARIABLES = {
    "SQLITE_PATH": "storage.database",
    "PORT": "server.tcp.port",
    "QDRANT_URL": "index.url",
    "EMBEDDING_SERVICE_URL": "embedding.url",
}
# To name the address is to choose it.
CHOOSING_VARIABLES = {
    "QDRANT_URL": ("index.backend", "server"),
    "EMBEDDING_SERVICE_URL": ("embedding.provider", "service"),
}
# The model of each provider where `embedding.model` says nothing.
DEFAULT_MODELS = {
    "builtin": "all-MiniLM-L6-v2",
    "service": "nomic-embed-text",
    "ollama": "nomic-embed-text",
    "openai": "text-embedding-3-small",
}
# A relative path in these starts at the file that names it.
PATH_KEYS = frozenset({
    "storage.database", "server.socket.path", "files.directory", "index.tls.caFile", "log.journalSocket",
})
DEFAULT_INDEX_URL = "http://localhost:6333"  # the older service's own default

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


class TcpConfig(Section, frozen=True, kw_only=True):
    """The LAN port. Loopback only until callers can be authenticated."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3002
    host_names: str | None = None  # separated by commas

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
    max_depth: Annotated[int, Meta(ge=2, le=150)] = 64
    first_byte_timeout_s: Seconds = 30.0
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


class StorageConfig(Section, frozen=True, kw_only=True):
    """SQLite. `database` null: DATA/nexus.db."""

    database: str | None = None
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    max_queued_writes: Positive = 4096
    read_timeout_s: Seconds = 10.0
    secure_delete: bool = False


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
    outbox: OutboxConfig = OutboxConfig()
    cache: CacheConfig = CacheConfig()
    files: FilesConfig = FilesConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()


# What a part knows of its settings that this module does not: each complaint is a setting's name and a sentence.
Rule = Callable[[Config], Iterable[tuple[str, str]]]


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration with the places it resolved to; what `app` is built from."""

    config: Config
    data_directory: Path
    database_path: Path
    files_directory: Path
    socket_path: Path
    config_path: Path | None
    systemd: FromSystemd = FromSystemd()


def load_settings(
    *, config: Path | None, data: Path | None, environ: Mapping[str, str], rules: Iterable[Rule] = ()
) -> Settings:
    """All settings with the places that they resolve to. Makes nothing, and itself opens the settings file alone.

    `config` and `data` are the command line's. Without `config` it is $CONFIGURATION_DIRECTORY/config.yaml,
    or ./config.yaml outside systemd, if there is one; without `data` it is $STATE_DIRECTORY or ./data.
    What the `rules` complain of is told with the place of the setting, like everything else that is wrong.

    Raises:
        ConfigError: something is wrong; the message lists all of it, a line each.
    """
    reading = Reading(
        Config, path_keys=PATH_KEYS, other_variables=SPECIFIED_VARIABLES, choosing_variables=CHOOSING_VARIABLES
    )
    config_path = config_path_of(config, environ)
    if config_path is not None:
        reading.take_file(config_path)
    reading.take_environment(environ)
    values: Config = reading.build(Config)
    data_directory = absolute(data or first_path(environ, "STATE_DIRECTORY") or Path("data"))
    runtime_directory = first_path(environ, "RUNTIME_DIRECTORY") or data_directory
    settings = Settings(
        config=values,
        data_directory=data_directory,
        database_path=absolute(Path(values.storage.database or data_directory / DATABASE_FILE_NAME)),
        files_directory=absolute(Path(values.files.directory or data_directory)),
        socket_path=absolute(Path(values.server.socket.path or runtime_directory / SOCKET_FILE_NAME)),
        config_path=config_path,
        systemd=from_systemd(environ, os.getpid()),
    )
    reading.problems += settings.systemd.problems
    _hold_rules(settings, reading)
    for rule in rules:
        for name, complaint in rule(values):
            reading.blame(name, complaint)
    if reading.problems:
        raise ConfigError("\n".join(reading.problems))
    return settings


def describe_settings(settings: Settings) -> str:
    """What `nexusd --check` prints: that all is well, and where things are."""
    tcp, index = settings.config.server.tcp, settings.config.index
    host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
    lines = {
        "config": settings.config_path or "none; the defaults hold",
        "data": settings.data_directory,
        "database": settings.database_path,
        "socket": settings.socket_path,
        "tcp": f"{host}:{tcp.port}" if tcp.enabled else "off",
    }
    if index.backend == "server":
        lines["index"] = index.url or DEFAULT_INDEX_URL
    return "\n".join(["configuration ok", *(f"  {name:<9} {value}" for name, value in lines.items())])


def is_loopback(host: str) -> bool:
    """Whether this is `localhost` or an address that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hold_rules(settings: Settings, reading: Reading) -> None:
    """What no single value's type can say."""
    tcp = settings.config.server.tcp
    if tcp.enabled and not is_loopback(tcp.host):
        reading.blame(
            "server.tcp.host",
            f"found {describe_found(tcp.host)}, expected a loopback address such as 127.0.0.1: "
            "callers on the network cannot be authenticated yet",
        )
    length = len(os.fsencode(settings.socket_path))
    if length > MAX_SOCKET_PATH_BYTES:
        reading.blame(
            "server.socket.path",
            f"{settings.socket_path} has {length} bytes, the system takes {MAX_SOCKET_PATH_BYTES}; "
            "set a shorter one",
        )
    for name, complaint in _wrong_index(settings.config.index):
        reading.blame(name, complaint)
    group = settings.config.server.socket.group
    if group is not None and not group_exists(group):
        reading.blame("server.socket.group", f"found {describe_found(group)}, expected a group of this system")
    database = settings.config.storage.database
    if database is not None and (Path(database).name == ":memory:" or "file:" in Path(database).parts):
        reading.blame("storage.database", "expected the path of a file: what is in memory does not last")


def _wrong_index(index: IndexConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with how the index's server is reached. Neither address nor key is shown: both may be secret."""
    if index.backend != "server":
        if index.url is not None:
            yield "index.url", f"names a server, but index.backend is {index.backend}; set index.backend: server"
        return
    try:
        url = urlsplit(index.url or DEFAULT_INDEX_URL)
        well_formed = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port that is no number, brackets that do not close
        well_formed = False
    if not well_formed or url.query or url.fragment:
        yield "index.url", f"expected an address such as {DEFAULT_INDEX_URL}"
    elif "@" in url.netloc:
        yield "index.url", "holds a user or a password; a Qdrant server takes a key: set index.apiKey"
    if index.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", index.api_key):
        yield "index.apiKey", "expected printable ASCII characters without blanks, as HTTP headers take them"
    if index.tls.ca_file is not None and not Path(index.tls.ca_file).is_file():
        yield "index.tls.caFile", f"{index.tls.ca_file} is no file"


