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
from urllib.parse import urlsplit

from msgspec import Struct, structs

from nexusd.config_access import read_callers, read_networks
from nexusd.config_places import absolute, config_path_of, first_path
from nexusd.config_reading import Reading
from nexusd.config_sections import Config, IndexConfig, RerankConfig, ServerConfig, TcpConfig
from nexusd.config_systemd import FromSystemd, from_systemd
from nexusd.config_values import describe_found, group_exists
from nexusd.errors import ConfigError

DATABASE_FILE_NAME = "nexus.db"
BACKUPS_DIRECTORY_NAME = "backups"
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
# A relative path in these starts at the file that names it.
PATH_KEYS = frozenset({
    "storage.database", "storage.backups.directory", "server.socket.path", "files.directory", "index.tls.caFile",
    "log.journalSocket", "server.tcp.tls.certFile", "server.tcp.tls.keyFile", "server.tcp.tls.clientCaFile",
})
DEFAULT_INDEX_URL = "http://localhost:6333"  # the older service's own default

# What a part knows of its settings that this module does not: each complaint is a setting's name and a sentence.
Rule = Callable[[Config], Iterable[tuple[str, str]]]


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration with the places it resolved to; what `app` is built from."""

    config: Config
    data_directory: Path
    database_path: Path
    backups_directory: Path
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
        backups_directory=absolute(Path(values.storage.backups.directory or data_directory / BACKUPS_DIRECTORY_NAME)),
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


def settings_in(settings: Settings, directory: Path) -> Settings:
    """The same settings with the data in another directory, all of it; the backups stay where they are."""
    data = absolute(directory)
    return structs.replace(
        settings, data_directory=data, database_path=data / DATABASE_FILE_NAME, files_directory=data,
        socket_path=data / SOCKET_FILE_NAME,
    )


def describe_settings(settings: Settings) -> str:
    """What `nexusd --check` prints: that all is well, and where things are."""
    tcp, index = settings.config.server.tcp, settings.config.index
    host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
    lines = {
        "config": settings.config_path or "none; the defaults hold",
        "data": settings.data_directory,
        "database": settings.database_path,
        "socket": settings.socket_path,
        "tcp": f"{host}:{tcp.port}{' (TLS)' if tcp.tls.cert_file else ''}" if tcp.enabled else "off",
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


def encrypts(tcp: TcpConfig) -> bool:
    """Whether what goes over the port is encrypted."""
    return tcp.tls.cert_file is not None


def network_complaint(tcp: TcpConfig) -> tuple[str, str] | None:
    """Why the port may not be listened on at an address that other machines reach: a setting and a sentence."""
    if tcp.auth == "none":
        return "server.tcp.auth", (
            "none is for loopback alone: whoever reached the port could read and change everything"
        )
    if not encrypts(tcp) and not tcp.insecure_lan:
        return "server.tcp.host", (
            "off loopback it takes TLS (server.tcp.tls.certFile), or server.tcp.insecureLan: true, with which tokens "
            "and memories cross the network in the clear"
        )
    return None


def _wrong_server(server: ServerConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with who may come in."""
    tcp = server.tcp
    if tcp.enabled and not is_loopback(tcp.host):
        if not _is_address(tcp.host):
            yield "server.tcp.host", f"found {describe_found(tcp.host)}, expected an address such as 127.0.0.1"
        elif (complaint := network_complaint(tcp)) is not None:
            yield complaint
    for name, text in (
        ("admins", server.socket.admins), ("writers", server.socket.writers), ("readers", server.socket.readers),
    ):
        try:
            read_callers(text)
        except ValueError as error:
            yield f"server.socket.{name}", str(error)
    try:
        read_networks(tcp.trusted_networks)
    except ValueError as error:
        yield "server.tcp.trustedNetworks", str(error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hold_rules(settings: Settings, reading: Reading) -> None:
    """What no single value's type can say."""
    for name, complaint in _wrong_server(settings.config.server):
        reading.blame(name, complaint)
    length = len(os.fsencode(settings.socket_path))
    if length > MAX_SOCKET_PATH_BYTES:
        reading.blame(
            "server.socket.path",
            f"{settings.socket_path} has {length} bytes, the system takes {MAX_SOCKET_PATH_BYTES}; "
            "set a shorter one",
        )
    for name, complaint in _wrong_index(settings.config.index):
        reading.blame(name, complaint)
    for name, complaint in _wrong_rerank(settings.config.search.rerank):
        reading.blame(name, complaint)
    group = settings.config.server.socket.group
    if group is not None and not group_exists(group):
        reading.blame("server.socket.group", f"found {describe_found(group)}, expected a group of this system")
    if settings.config.storage.secure_delete and settings.config.storage.checkpoints == "litestream":
        reading.blame(
            "storage.secureDelete",
            "cannot hold beside storage.checkpoints: litestream, which keeps what was deleted: in the WAL until it has "
            "read that, and in its replica for as long as that reaches back; choose one of the two",
        )
    database = settings.config.storage.database
    if database is not None and (Path(database).name == ":memory:" or "file:" in Path(database).parts):
        reading.blame("storage.database", "expected the path of a file: what is in memory does not last")


def _wrong_rerank(rerank: RerankConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with how the reranker is reached. Neither address nor key is shown: both may be secret."""
    if rerank.provider == "onnx":
        directory = Path(rerank.model or "").expanduser()
        for file in ("model.onnx", "tokenizer.json"):
            if rerank.model is None or not (directory / file).is_file():
                yield "search.rerank.model", "expected a directory with model.onnx and tokenizer.json"
                break
    if rerank.provider == "http" and not re.match(r"https?://[^/@\s]+(/\S*)?\Z", rerank.url or ""):
        yield "search.rerank.url", "expected an address such as http://localhost:8080/rerank, without a password"
    if rerank.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", rerank.api_key):
        yield "search.rerank.apiKey", "expected printable ASCII characters without blanks, as HTTP headers take them"


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


