"""Listening sockets: who may connect, what is replaced, what is left alone."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexusd.config import MAX_SOCKET_PATH_BYTES
from nexusd.config_sections import SocketConfig, TcpConfig, TlsConfig
from nexusd.errors import ConfigError, StartupError
from nexusd.wire.sockets import UnixSocketFile, adopt, listen_tcp


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[UnixSocketFile]:
    file = UnixSocketFile(path, SocketConfig(mode="0660"))
    yield file
    file.socket.close()


def listen_and_close(path: Path, config: SocketConfig | None = None) -> None:
    UnixSocketFile(path, config if config is not None else SocketConfig()).socket.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", ["0600", "0660", "666"])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_has_the_configured_mode_whatever_the_umask(path: Path, mode: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        listen_and_close(path, SocketConfig(mode=mode))
    finally:
        os.umask(before)
    assert mode_of(path) == int(mode, 8)


def test_the_file_is_born_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real_chmod = Path.chmod

    def chmod(self: Path, mode: int) -> None:
        seen.append(mode_of(self))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(self))
        real_chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    before = os.umask(0)
    try:
        listen_and_close(path, SocketConfig(mode="0666"))
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_the_file_belongs_to_the_configured_group(path: Path) -> None:
    group = grp.getgrgid(os.getgid())
    listen_and_close(path, SocketConfig(group=group.gr_name))
    assert path.stat().st_gid == group.gr_gid


def test_a_group_that_does_not_exist_is_a_wrong_setting(path: Path) -> None:
    with pytest.raises(ConfigError, match="no group nosuchgroup"):
        listen_and_close(path, SocketConfig(group="nosuchgroup"))
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(path: Path) -> None:
    listen_and_close(path)
    replacement = UnixSocketFile(path, SocketConfig())
    with replacement.socket, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_on_which_somebody_answers_is_left_alone(path: Path, listener: UnixSocketFile) -> None:
    with pytest.raises(StartupError, match="another process answers"):
        listen_and_close(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))   # it still answers
    assert listener.path == path


def test_a_listener_with_a_full_backlog_counts_as_answering(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartupError, match="another process answers"):
            listen_and_close(path)


def test_anything_else_at_the_path_is_left_alone(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.sock"
    listen_and_close(target)
    for make in (lambda: path.write_text("mine"), lambda: path.symlink_to(target), path.mkdir):
        make()
        with pytest.raises(StartupError, match="is not a socket"):
            listen_and_close(path)
        assert os.path.lexists(path)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert target.exists()


def test_a_datagram_socket_in_use_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(StartupError):
            listen_and_close(path)
    assert path.exists()


def test_a_path_that_is_too_long_is_named_with_the_limit(tmp_path: Path) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    with pytest.raises(ConfigError, match=f"allows {MAX_SOCKET_PATH_BYTES}"):
        listen_and_close(long)


def test_the_longest_path_works(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH_BYTES - len(os.fsencode(tmp_path)) - 1
    longest = tmp_path / ("x" * room)
    listen_and_close(longest)
    assert longest.exists()


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file or directory"):
        listen_and_close(tmp_path / "missing" / "n.sock")


def test_the_file_is_removed_only_while_it_is_ours(path: Path, listener: UnixSocketFile) -> None:
    path.unlink()
    path.write_text("somebody else's")
    listener.remove()
    assert path.read_text() == "somebody else's"
    path.unlink()
    listener.remove()   # gone already: nothing to do


def test_our_own_file_is_removed(path: Path, listener: UnixSocketFile) -> None:
    listener.remove()
    assert not path.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "localhost"])
def test_loopback_is_listened_on(host: str) -> None:
    with listen_tcp(TcpConfig(host=host, port=0)) as listener:
        assert listener.getsockname()[1] > 0
        with socket.create_connection(listener.getsockname()):
            pass


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "128.0.0.1", "::ffff:10.0.0.1"],  # noqa: S104 - refused
)
def test_off_loopback_it_takes_tls_or_the_word_insecure_and_tokens_in_any_case(host: str) -> None:
    with pytest.raises(ConfigError, match=r"it takes TLS \(server.tcp.tls.certFile\), or server.tcp.insecureLan: true"):
        listen_tcp(TcpConfig(host=host, port=0))
    with pytest.raises(ConfigError, match=r"server.tcp.auth: none is for loopback alone"):
        listen_tcp(TcpConfig(host=host, port=0, auth="none", insecure_lan=True))


@pytest.mark.parametrize("how", [{"insecure_lan": True}, {"tls": TlsConfig(cert_file="/x")}])
def test_with_one_of_them_any_address_is_listened_on(how: dict[str, Any]) -> None:
    with listen_tcp(TcpConfig(host="0.0.0.0", port=0, **how)) as listener:  # noqa: S104 - what is asked for
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104
    with pytest.raises(ConfigError, match=r"server\.tcp\.host: example\.com is no address"):
        listen_tcp(TcpConfig(host="example.com", port=0, **how))


def test_a_taken_port_is_said() -> None:
    with listen_tcp(TcpConfig(port=0)) as first, pytest.raises(StartupError, match="Address already in use"):
        listen_tcp(TcpConfig(port=first.getsockname()[1]))


def test_a_connection_whose_other_end_is_gone_is_found_out_in_the_end() -> None:
    with listen_tcp(TcpConfig(port=0)) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


# --- what systemd opened ----------------------------------------------------------------------------------


def test_a_socket_that_systemd_opened_is_taken_as_it_is_and_not_handed_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        fd = os.dup(theirs.fileno())
        os.set_inheritable(fd, True)
        with adopt(fd, "unix", TcpConfig()) as listener:
            assert listener.getsockname() == str(path)
            assert not listener.getblocking()
            assert not os.get_inheritable(fd)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))   # closing ours closed nothing of theirs
    assert path.exists()


@pytest.mark.parametrize("kind", ["not listening", "datagrams", "a file", "closed"])
def test_what_is_no_listening_stream_socket_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    if kind == "not listening":
        fd = socket.socket(socket.AF_UNIX).detach()
    elif kind == "datagrams":
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.bind(str(tmp_path / "d.sock"))
        fd = other.detach()
    else:
        fd = os.open(tmp_path, os.O_RDONLY)
    if kind == "closed":
        os.close(fd)
    with pytest.raises(StartupError, match="the socket `extra` that systemd passes"):
        adopt(fd, "extra", TcpConfig())
    if kind == "a file":
        os.close(fd)


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")],  # noqa: S104 - refused
)
def test_a_port_that_systemd_opened_to_the_network_is_refused(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as theirs:
        theirs.bind((address, 0))
        theirs.listen()
        with pytest.raises(ConfigError, match=f"that systemd passes listens on {address}; server.tcp.host: .*TLS"):
            adopt(os.dup(theirs.fileno()), "lan", TcpConfig())
        with pytest.raises(ConfigError, match=f"`lan` that systemd passes listens on {address}; server.tcp.auth: none"):
            adopt(os.dup(theirs.fileno()), "lan", TcpConfig(auth="none", insecure_lan=True))
        adopt(os.dup(theirs.fileno()), "lan", TcpConfig(insecure_lan=True)).close()


def test_a_port_that_systemd_opened_on_loopback_is_taken() -> None:
    with socket.socket(socket.AF_INET) as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        with adopt(os.dup(theirs.fileno()), "lan", TcpConfig(auth="none")) as listener:
            assert listener.getsockname() == theirs.getsockname()


def test_an_inherited_socket_outlives_the_run_that_listened_on_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "s"))
        held.listen(1)
        for _ in range(2):
            with adopt(held.fileno(), "unix", TcpConfig()) as listener, socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(tmp_path / "s"))
                accepted, _address = listener.accept()
                accepted.close()
