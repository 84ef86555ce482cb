"""Settings: where they come from, which goes first, and what is said about wrong ones."""

from __future__ import annotations

import grp
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config import MAX_SOCKET_PATH_BYTES, Settings, describe_settings, load_settings
from nexusd.config_reading import all_keys
from nexusd.config_sections import Config, IndexConfig, TcpConfig
from nexusd.config_source import SourceError, parse_source
from nexusd.config_systemd import FromSystemd
from nexusd.errors import ConfigError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | None = None, *, data: Path | None = None, **environ: str) -> Settings:
    path = None
    if text is not None:
        path = Path("settings.yaml")
        path.write_text(text)
    return load_settings(config=path, data=data, environ=environ)


def problems(text: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **environ)
    return caught.value.message.replace(f"{Path.cwd()}/", "").splitlines()


def _descend(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


# --- precedence -------------------------------------------------------------------------------------------


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = load()
    assert settings.config == Config()
    assert settings.config_path is None
    assert settings.data_directory == tmp_path / "data"
    assert settings.database_path == tmp_path / "data" / "nexus.db"
    assert settings.socket_path == tmp_path / "data" / "nexusd.sock"
    assert settings.systemd == FromSystemd()


def test_the_environment_goes_before_the_file_and_the_file_before_the_default() -> None:
    file = "server:\n  tcp:\n    port: 4000\n  drainTimeoutS: 7\n"
    assert load(file).config.server.tcp.port == 4000
    settings = load(file, NEXUSD_SERVER__TCP__PORT="5000")
    assert settings.config.server.tcp.port == 5000
    assert settings.config.server.drain_timeout_s == 7
    assert settings.config.server.tcp.host == "127.0.0.1"


def test_the_command_line_goes_before_the_service_managers_directories(tmp_path: Path) -> None:
    settings = load(data=tmp_path / "mine", STATE_DIRECTORY="/var/lib/nexusd")
    assert settings.data_directory == tmp_path / "mine"


def test_the_service_managers_directories_are_used_and_the_first_of_several_counts(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.yaml").write_text("log: {level: debug}")
    settings = load(
        STATE_DIRECTORY="/var/lib/nexusd:/var/lib/other",
        RUNTIME_DIRECTORY="/run/nexusd",
        CONFIGURATION_DIRECTORY=str(tmp_path / "etc"),
        NOTIFY_SOCKET="/run/systemd/notify",
    )
    assert settings.data_directory == Path("/var/lib/nexusd")
    assert settings.socket_path == Path("/run/nexusd/nexusd.sock")
    assert settings.config.log.level == "debug"
    assert settings.systemd.notify_socket == "/run/systemd/notify"


def test_a_config_file_in_the_working_directory_is_found_and_one_asked_for_must_exist() -> None:
    Path("config.yaml").write_text("log: {level: error}")
    assert load().config.log.level == "error"
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        load_settings(config=Path("missing.yaml"), data=None, environ={})


def test_the_names_of_the_earlier_services_work(tmp_path: Path) -> None:
    settings = load(SQLITE_PATH="old/memory.db", PORT="3999")
    assert settings.database_path == tmp_path / "old" / "memory.db"
    assert settings.config.server.tcp.port == 3999


def test_the_address_of_an_embedding_service_selects_it_whatever_the_file_says() -> None:
    settings = load("embedding: {provider: builtin}\n", EMBEDDING_SERVICE_URL="http://10.0.0.2:3003").config.embedding
    assert (settings.provider, settings.url) == ("service", "http://10.0.0.2:3003")
    assert settings.model_name == "nomic-embed-text"
    load(EMBEDDING_SERVICE_URL="http://a", NEXUSD_EMBEDDING__PROVIDER="service", NEXUSD_EMBEDDING__URL="http://a")
    [problem] = problems(EMBEDDING_SERVICE_URL="http://a", NEXUSD_EMBEDDING__PROVIDER="ollama")
    assert problem == (
        "environment NEXUSD_EMBEDDING__PROVIDER: embedding.provider: EMBEDDING_SERVICE_URL sets it to something else"
    )
    assert load(EMBEDDING_SERVICE_URL="").config.embedding.provider == "builtin"


def test_the_key_of_an_embedding_service_is_in_no_text_of_the_settings() -> None:
    settings = load(NEXUSD_EMBEDDING__API_KEY="sk-secret", NEXUSD_EMBEDDING__PROVIDER="openai")
    assert settings.config.embedding.api_key == "sk-secret"
    for text in (repr(settings), str(settings.config), describe_settings(settings)):
        assert "sk-secret" not in text


def test_qdrant_url_selects_the_server_whatever_the_file_says() -> None:
    index = load("index: {backend: embedded}", QDRANT_URL="http://localhost:6333").config.index
    assert (index.backend, index.url) == ("server", "http://localhost:6333")
    assert load(QDRANT_URL="").config.index == IndexConfig()
    assert "index     http://localhost:6333" in describe_settings(load(NEXUSD_INDEX__BACKEND="server"))


def test_an_address_beside_the_embedded_index_is_refused_not_ignored() -> None:
    complaint = "index.url: names a server, but index.backend is embedded; set index.backend: server"
    assert problems("index: {url: 'http://10.0.0.2:6333'}") == [f"settings.yaml:1: {complaint}"]
    found = problems(QDRANT_URL="http://10.0.0.2:6333", NEXUSD_INDEX__BACKEND="embedded")
    assert found[0] == "environment QDRANT_URL: index.backend: NEXUSD_INDEX__BACKEND sets it to something else"


@pytest.mark.parametrize(
    "url", ["localhost:6333", "ftp://a", "http://", "http://a:x", "http://a:99999", "http://[::1", "http://a?b", "http://a#b"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    [problem] = problems(QDRANT_URL=url)
    assert problem == "environment QDRANT_URL: index.url: expected an address such as http://localhost:6333"


@pytest.mark.parametrize("url", ["http://10.0.0.2", "https://qdrant.home:443/prefix", "http://[::1]:6333/"])
def test_addresses_of_a_server_are_taken(url: str) -> None:
    assert load(QDRANT_URL=url).config.index.url == url


def test_secrets_of_the_index_are_in_no_message() -> None:
    found = problems(QDRANT_URL="http://me:sesame@10.0.0.2", NEXUSD_INDEX__API_KEY="sesame\n")
    assert len(found) == 2
    assert not any("sesame" in problem for problem in found)
    assert "sesame" not in repr(load(QDRANT_URL="http://a", NEXUSD_INDEX__API_KEY="sesame"))


def test_a_file_of_certificates_that_is_not_there_is_said_with_its_place(tmp_path: Path) -> None:
    [problem] = problems("index:\n  backend: server\n  tls: {caFile: ca.pem}\n")
    assert problem.startswith("settings.yaml:3: index.tls.caFile: ")


def test_two_variables_for_one_setting_must_agree() -> None:
    load(PORT="4000", NEXUSD_SERVER__TCP__PORT="4000")
    [problem] = problems(PORT="4000", NEXUSD_SERVER__TCP__PORT="4001")
    assert problem == (
        "environment PORT: server.tcp.port: NEXUSD_SERVER__TCP__PORT sets it to something else"
    )


def test_an_empty_variable_counts_as_not_set_and_null_unsets_what_the_file_sets(tmp_path: Path) -> None:
    file = "storage: {database: a.db}\n"
    assert load(file, NEXUSD_STORAGE__DATABASE="", PORT="").database_path == tmp_path / "a.db"
    assert load(file, NEXUSD_STORAGE__DATABASE="null").database_path == tmp_path / "data" / "nexus.db"


@pytest.mark.parametrize("key", list(all_keys(Config)), ids=lambda key: key.name)
def test_every_setting_can_be_given_by_its_variable(key: Any) -> None:
    words = {"True": "true", "False": "false", "None": "null"}
    text = words.get(repr(key.default), str(key.default))
    assert _descend(msgspec.to_builtins(load(**{key.variable: text}).config), key.path) == key.default


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("NEXUSD_SERVER__TCP__ENABLED", "false", ("server", "tcp", "enabled"), False),
        ("NEXUSD_SERVER__SOCKET__MODE", "0600", ("server", "socket", "mode"), "0600"),
        ("NEXUSD_STORAGE__MAX_QUEUED_WRITES", "7", ("storage", "maxQueuedWrites"), 7),
        ("NEXUSD_EMBEDDING__DIMENSION", "384", ("embedding", "dimension"), 384),
        ("NEXUSD_SERVER__LIMITS__IDLE_TIMEOUT_S", "24h", ("server", "limits", "idleTimeoutS"), 86400.0),
        ("NEXUSD_SERVER__LIMITS__IDLE_TIMEOUT_S", "1.5", ("server", "limits", "idleTimeoutS"), 1.5),
    ],
)
def test_a_variables_text_becomes_the_settings_type(
    variable: str, text: str, path: tuple[str, ...], value: object
) -> None:
    assert _descend(msgspec.to_builtins(load(**{variable: text}).config), path) == value


def test_relative_paths_start_at_the_file_that_names_them_or_at_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "nexusd.yaml"
    file.write_text("storage: {database: ./db/a.db}\nserver: {socket: {path: ../s.sock}}\n")
    settings = load_settings(config=Path("etc/nexusd.yaml"), data=None, environ={})
    assert settings.database_path == tmp_path / "etc" / "db" / "a.db"
    assert settings.socket_path == tmp_path / "s.sock"
    settings = load_settings(config=file, data=None, environ={"SQLITE_PATH": "./db/a.db"})
    assert settings.database_path == tmp_path / "db" / "a.db"


# --- durations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("0.5", 0.5), ("500ms", 0.5), ("30s", 30), ("30 s", 30), ('"30s"', 30), ("2m", 120),
     ("2min", 120), ("24h", 86400), ("7d", 604800), ("1.5h", 5400)],
)
def test_a_duration_is_a_number_of_its_unit_or_text_with_a_unit(text: str, seconds: float) -> None:
    assert load(f"server: {{drainTimeoutS: {text}}}").config.server.drain_timeout_s == seconds


def test_a_duration_in_milliseconds_is_a_whole_number_of_them() -> None:
    assert load("log: {slowRequestMs: 2s}").config.log.slow_request_ms == 2000
    [problem] = problems("log: {slowRequestMs: 0.5ms}")
    assert "found 0.5, expected a whole number" in problem


@pytest.mark.parametrize(
    "text", ["24 hours", "-1s", "0", "-3", ".inf", ".nan", "2y", "1e400", "true", "~", "[1]"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    [problem] = problems(f"server: {{drainTimeoutS: {text}}}")
    assert problem.startswith("settings.yaml:1: server.drainTimeoutS: found ")
    assert "expected a number above 0" in problem


# --- wrong settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server:\n  tcp:\n    port: 70000",
         "settings.yaml:3: server.tcp.port: found 70000, expected a whole number from 0 to 65535"),
        ("server:\n  tcp:\n\n    prot: 1",
         "settings.yaml:4: server.tcp.prot: no such setting; did you mean `server.tcp.port`?"),
        ("server:\n  limits:\n    max_batch: 1",
         "settings.yaml:3: server.limits.max_batch: no such setting; did you mean `server.limits.maxBatch`?"),
        ("readTimeoutS: 1",
         "settings.yaml:1: readTimeoutS: no such setting; did you mean `storage.readTimeoutS`?"),
        ("sever: {}", "settings.yaml:1: sever: no such setting; did you mean `server`?"),
        ("qwertz: 1", "settings.yaml:1: qwertz: no such setting"),
        ("log:\n  level: loud",
         'settings.yaml:2: log.level: found "loud", expected one of debug, error, info, warning'),
        ("storage:\n  readers: two",
         'settings.yaml:2: storage.readers: found "two", expected a whole number from 1 to 64'),
        ("storage:\n  readers:\n    - 1",
         "settings.yaml:2: storage.readers: found a list, expected a whole number from 1 to 64"),
        ("storage:\n  readers: {a: 1}",
         "settings.yaml:2: storage.readers: found a section, expected a whole number from 1 to 64"),
        ("log: 3", "settings.yaml:1: log: expected a section with some of level, format, journalSocket, slowRequestMs"),
        ("server: {socket: {mode: rwx}}",
         'settings.yaml:1: server.socket.mode: found "rwx", expected an octal mode such as "0660"'),
        ("embedding: {dimension: 0}",
         "settings.yaml:1: embedding.dimension: found 0, expected a whole number from 1 to 65536 or null"),
        ("storage: {readers: 2024-01-01}",
         'settings.yaml:1: storage.readers: found "2024-01-01", expected a whole number from 1 to 64'),
        ("server:\n  tcp:\n    port: 1\n    port: 2",
         "settings.yaml:4: server.tcp.port: stands twice; first in line 3"),
        ("server: {tcp: {host: 0.0.0.0}}",
         ("settings.yaml:1: server.tcp.host: off loopback it takes TLS (server.tcp.tls.certFile), or "
          "server.tcp.insecureLan: true, with which tokens and memories cross the network in the clear")),
        ("server: {tcp: {host: 0.0.0.0, auth: none, insecureLan: true}}",
         ("settings.yaml:1: server.tcp.auth: none is for loopback alone: whoever reached the port could read and "
          "change everything")),
        ("server: {tcp: {host: example.org, insecureLan: true}}",
         'settings.yaml:1: server.tcp.host: found "example.org", expected an address such as 127.0.0.1'),
        ("server: {socket: {admins: 'root, nobody-of-this-name'}}",
         "settings.yaml:1: server.socket.admins: there is no user nobody-of-this-name"),
        ("server: {socket: {readers: '@no-such-group'}}",
         "settings.yaml:1: server.socket.readers: there is no group no-such-group"),
        ("server: {tcp: {trustedNetworks: '192.168.1.0/24=read, 10.0.0.1/8=read'}}",
         ("settings.yaml:1: server.tcp.trustedNetworks: expected a network such as 192.168.1.0/24 or fd00::/8, found "
          "10.0.0.1/8: 10.0.0.1/8 has host bits set")),
        ("server: {tcp: {trustedNetworks: 10.0.0.0/8}}",
         ("settings.yaml:1: server.tcp.trustedNetworks: expected NETWORK=ROLE with one of read, write, admin, found "
          "10.0.0.0/8")),
        ("storage: {database: ~/memory.db}",
         'settings.yaml:1: storage.database: found "~/memory.db", expected a path without ~'),
        ("storage: {database: ':memory:'}",
         "settings.yaml:1: storage.database: expected the path of a file: what is in memory does not last"),
    ],
)
def test_a_wrong_setting_says_file_line_key_found_and_expected(text: str, problem: str) -> None:
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("PORT", "http", 'server.tcp.port: found "http", expected a whole number from 0 to 65535'),
        ("NEXUSD_LOG__LEVL", "debug", "no such setting; did you mean `NEXUSD_LOG__LEVEL`?"),
        ("NEXUSD_QWERTZ__ASDF", "1", "no such setting"),
        ("NEXUSD_SERVER__TCP__ENABLED", "ja", 'server.tcp.enabled: found "ja", expected true or false'),
    ],
)
def test_a_wrong_variable_says_its_name_found_and_expected(name: str, text: str, problem: str) -> None:
    assert problems(**{name: text}) == [f"environment {name}: {problem}"]


def test_variables_of_ours_that_are_no_settings_are_left_alone() -> None:
    assert load(NEXUSD_SOCKET="/run/nexusd/nexusd.sock", PATH="/bin", OTHER__NAME="1").config == Config()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    file = "server:\n  tcp: {port: -1, prot: 2}\nlog: {level: loud}\nstorage: {readers: 0}\n"
    found = problems(file, NEXUSD_LOG__FORMAT="pretty", QDRANT_URL="x", NEXUSD_A__B="1")
    assert len(found) == 7
    for part in ("tcp.port", "tcp.prot", "log.level", "storage.readers", "LOG__FORMAT", "index.url", "A__B"):
        assert any(part in problem for problem in found), part


def test_a_socket_path_that_the_system_cannot_take_is_refused_with_its_length() -> None:
    path = "/" + "s" * MAX_SOCKET_PATH_BYTES
    [problem] = problems(f"server: {{socket: {{path: {path}}}}}")
    assert f"has {MAX_SOCKET_PATH_BYTES + 1} bytes, the system takes {MAX_SOCKET_PATH_BYTES}" in problem
    assert load(f"server: {{socket: {{path: {path[:-1]}}}}}").socket_path == Path(path[:-1])


def test_deletes_for_good_are_refused_where_litestream_keeps_what_was_deleted() -> None:
    [problem] = problems("storage:\n  secureDelete: true\n  checkpoints: litestream\n")
    assert problem.startswith("settings.yaml:2: storage.secureDelete: cannot hold beside storage.checkpoints")
    for one in ("secureDelete: true", "checkpoints: litestream"):
        assert load(f"storage: {{{one}}}").config.storage


def test_a_group_that_this_system_does_not_have_is_refused_with_its_place() -> None:
    own = grp.getgrgid(os.getgid()).gr_name
    assert load(f"server: {{socket: {{group: {own}}}}}").config.server.socket.group == own
    [problem] = problems("server:\n  socket:\n    group: nosuchgroup\n")
    expected = 'server.socket.group: found "nosuchgroup", expected a group of this system'
    assert problem == f"settings.yaml:3: {expected}"
    assert problems(NEXUSD_SERVER__SOCKET__GROUP="nosuchgroup") == [
        f"environment NEXUSD_SERVER__SOCKET__GROUP: {expected}"
    ]
    assert "expected a group" in problems(r'server: {socket: {group: "a\0b"}}')[0]


def test_what_a_parts_own_rule_complains_of_is_told_with_its_place_among_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("embedding:\n  model: odd\nlog: {level: loud}\n")

    def rule(config: Config) -> list[tuple[str, str]]:
        return [("embedding.model", f"{config.embedding.model} is odd"), ("embedding.threads", "too few")]

    with pytest.raises(ConfigError) as caught:
        load_settings(config=file, data=None, environ={"NEXUSD_EMBEDDING__THREADS": "1"}, rules=[rule])
    level, model, threads = caught.value.message.splitlines()
    assert "log.level" in level
    assert model == f"{file}:2: embedding.model: odd is odd"
    assert threads == "environment NEXUSD_EMBEDDING__THREADS: embedding.threads: too few"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", '"::1"'])
def test_loopback_addresses_are_taken(host: str) -> None:
    load(f"server: {{tcp: {{host: {host}}}}}")


@pytest.mark.parametrize("host", ['"::"', "192.168.1.4", "example.org", '""', "127.0.0.1.example.org"])
def test_other_addresses_are_refused_while_tcp_is_on(host: str) -> None:
    said = "it takes TLS" if host in ('"::"', "192.168.1.4") else "expected an address"
    assert said in problems(f"server: {{tcp: {{host: {host}}}}}")[0]
    load(f"server: {{tcp: {{host: {host}, enabled: false}}}}")


# --- YAML itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "\n# nothing\n", "null", "---\n", "server:\n", "server:\n  tcp:\n", "\ufefflog: {}"]
)
def test_a_file_with_nothing_in_it_is_the_defaults(text: str) -> None:
    assert load(text).config == Config()


def test_text_settings_take_what_was_written_even_where_yaml_sees_a_number() -> None:
    settings = load("server: {socket: {mode: 0660}}\nembedding: {model: 1.10}\n")
    assert settings.config.server.socket.mode == "0660"
    assert settings.config.embedding.model == "1.10"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: [", 2, "not valid YAML"),
        ("a: 1\n b: 2", 2, "not valid YAML"),
        ("- 1\n", 1, "expected sections"),
        ("words", 1, "expected sections"),
        ("a: &x 1\nb: *x", 2, "aliases"),
        ("a: 1\n? [1]\n: 2", 2, "plain name"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", None, ""),
        ("a: 1\nb: !thing 3", 2, "not valid YAML"),
        ("a: 1\nb: !!int word", 2, "not a value"),
        ("a: 1\nb: \x07", 2, "#x0007"),
        ("a: 1\n---\nb: 2", 2, "not valid YAML"),
        ("a: " + "[" * 10_000, 1, "too deep"),
        ("a: " + "{b: " * 10_000, 1, "too deep"),
        ("a: " + "9" * 10_000, 1, "not a value"),
    ],
)
def test_a_file_that_is_no_tree_of_settings_says_its_line(text: str, line: int | None, said: str) -> None:
    if line is None:  # taken as a list with a line, and never made into what its tag says
        assert "b" in parse_source(text).entries
        return
    with pytest.raises(SourceError) as caught:
        parse_source(text)
    assert said in caught.value.message
    assert caught.value.line == line


def test_a_bomb_of_aliases_is_refused_where_the_first_is_used() -> None:
    steps = zip("abcdefg", "bcdefgh", strict=True)
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in steps)
    [problem] = problems(bomb)
    assert problem.startswith("settings.yaml:2: aliases")


def test_a_file_that_is_not_text_or_far_too_large_is_refused() -> None:
    Path("binary.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"binary\.yaml:2: is not UTF-8"):
        load_settings(config=Path("binary.yaml"), data=None, environ={})
    Path("large.yaml").write_bytes(b"#" * 1024 * 1025)
    with pytest.raises(ConfigError, match="is larger than"):
        load_settings(config=Path("large.yaml"), data=None, environ={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings(config=Path(), data=None, environ={})


@pytest.mark.parametrize("name", ["NEXUSD_LOG__LEVEL", "NEXUSD_SERVER__TCP__PORT"])
def test_a_variable_that_is_not_utf_8_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"environment {name}: .*not UTF-8, expected"):
        load_settings(config=None, data=None, environ={name: os.fsdecode(b"\x80")})


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_source_error(text: str) -> None:
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)
    try:
        line = parse_source(text).line
    except SourceError as error:
        line = error.line or 1
    assert 1 <= line <= len(lines) + 1


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(list(all_keys(Config))), yaml_values)
def test_any_value_of_a_setting_is_taken_or_refused_by_its_name(key: Any, value: object) -> None:
    tree: Any = value
    for name in reversed(key.path):
        tree = {name: tree}
    found = []
    try:
        config = load(yaml.safe_dump(tree, allow_unicode=True)).config
    except ConfigError as error:
        config = Config()
        found = error.message.splitlines()
    msgspec.convert(msgspec.to_builtins(config), Config)  # what was taken is within its type and limits
    assert [line for line in found if key.name not in line] == []


# --- the documented file ----------------------------------------------------------------------------------


def test_the_check_tells_where_things_are(tmp_path: Path) -> None:
    text = describe_settings(load("server: {tcp: {host: '::1'}}"))
    assert text.splitlines()[0] == "configuration ok"
    for place in ("settings.yaml", "data", "data/nexus.db", "data/nexusd.sock"):
        assert f"{tmp_path}/{place}\n" in text
    assert text.endswith("[::1]:3002")


def test_the_documented_file_holds_every_setting_with_its_default_and_nothing_else() -> None:
    documented = yaml.safe_load((PROJECT / "config.yaml").read_text())
    defaults = msgspec.to_builtins(Config())
    assert documented == defaults
    assert load_settings(config=PROJECT / "config.yaml", data=None, environ={}).config == Config()


def test_every_setting_of_the_documented_file_is_explained_on_its_line() -> None:
    lines = (PROJECT / "config.yaml").read_text().splitlines()
    tree = parse_source("\n".join(lines))
    for key in all_keys(Config):
        node: Any = tree
        for name in key.path[:-1]:
            node = node.entries[name]
        line = lines[node.key_lines[key.path[-1]] - 1]
        comment = line.partition(" # ")[2]
        assert len(comment) > 10, f"config.yaml: {key.name} is not explained"
        assert comment.endswith("."), f"config.yaml: {key.name}: a sentence ends with a full stop"


@pytest.mark.parametrize(("given", "names"), [
    (None, []), ("", []), ("mini", ["mini"]), (" mini.home , mini,, ", ["mini.home", "mini"]),
])
def test_further_names_of_the_machine_are_separated_by_commas(given: str | None, names: list[str]) -> None:
    assert TcpConfig(host_names=given).names == names
