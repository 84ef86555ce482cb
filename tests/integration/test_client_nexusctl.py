"""nexusctl as a process: what it writes where, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import Refused, ScriptedDaemon, does_it_and_hangs_up, refuses, sends_garbage, stays_silent

from nexusd import __version__
from nexusd.cli.completion import MAX_WAIT_S

PROGRAM = [sys.executable, "-c", "from nexusd.cli.main import main; main()"]
HIT = {
    "collection": "episodes", "id": 7, "score": 0.9,
    "record": {
        "id": 7, "sessionId": 3, "userMessage": "Where is the key?", "aiResponse": "Under \x1b[31mthe mat.",
        "tokenCount": None, "metadata": {}, "version": 1, "createdAt": 1_700_000_000_000,
        "updatedAt": 1_700_000_000_000, "vector": "indexed",
    },
}  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        yield daemon


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXUSD_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80", "TERM": "xterm", **more}


def nexusctl(
    *arguments: str, stdin: str = "", cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=30, cwd=cwd,
        env=environment(**environ), check=False,
    )  # fmt: skip


def on_terminal(*arguments: str, width: int = 80) -> tuple[int, str]:
    """Run with a terminal for standard output and input; answers the exit code and what was drawn."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=terminal, stdout=terminal, stderr=terminal,
        env=environment(COLUMNS=str(width)),
    )  # fmt: skip
    os.close(terminal)
    drawn = b""
    while True:
        try:
            data = os.read(master, 65536) if select.select([master], [], [], 30)[0] else b""
        except OSError:  # the other end is closed
            break
        if not data:
            break
        drawn += data
    os.close(master)
    return process.wait(30), drawn.decode()


# --- answers ---


def test_result_in_a_pipe_is_the_daemons_result_and_nothing_else(daemon: ScriptedDaemon) -> None:
    done = nexusctl("--socket", daemon.address, "call", "echo", "a=1", 'b="ß"', "c.d:=[1.50, null]", "e=x y")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"a": 1, "b": "\\u00df", "c": {"d": [1.5, null]}, "e": "x y"}\n'


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_parameters_are_read_from_standard_input(daemon: ScriptedDaemon, arguments: list[str]) -> None:
    done = nexusctl("--socket", daemon.address, "call", "echo", *arguments, stdin='{"a": {"b": [1]}}')
    assert json.loads(done.stdout) == {"a": {"b": [1]}}


def test_standard_input_is_left_alone_when_parameters_are_given(daemon: ScriptedDaemon) -> None:
    done = nexusctl("--socket", daemon.address, "call", "echo", "a=1", stdin="not json")
    assert json.loads(done.stdout) == {"a": 1}


def test_add_makes_the_session_and_answers_the_row(daemon: ScriptedDaemon) -> None:
    done = nexusctl("--socket", daemon.address, "add", "Where is the key?", "Under the mat.", "-s", "hall")
    assert json.loads(done.stdout) == daemon.episodes[0]
    assert list(daemon.sessions) == ["hall"]
    assert (daemon.episodes[0]["userMessage"], daemon.episodes[0]["aiResponse"]) == (
        "Where is the key?", "Under the mat.",
    )  # fmt: skip


def test_add_sends_texts_as_they_are_also_when_they_look_like_json(daemon: ScriptedDaemon) -> None:
    nexusctl("--socket", daemon.address, "add", "--user", "42", "--assistant", "null", "--wait")
    assert daemon.calls("episodes.create")[0]["userMessage"] == "42"
    assert daemon.calls("episodes.create")[0]["aiResponse"] == "null"
    assert daemon.calls("episodes.create")[0]["waitFor"] == "indexed"
    assert list(daemon.sessions) == ["nexusctl"]


def test_add_that_lost_its_reply_is_stored_once(daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.create"] = [does_it_and_hangs_up]
    assert nexusctl("--socket", daemon.address, "add", "-", stdin="from a pipe\n").returncode == 0
    assert [episode["userMessage"] for episode in daemon.episodes] == ["from a pipe"]


def test_search_sends_what_was_asked_for(daemon: ScriptedDaemon) -> None:
    daemon.answers["memory.search"] = {"items": [], "degraded": []}
    nexusctl("--socket", daemon.address, "add", "x", "-s", "hall")
    options = ["--mode", "keyword", "-n", "3", "-s", "hall"]
    done = nexusctl("--socket", daemon.address, "search", "a key", *options)
    assert json.loads(done.stdout) == {"items": [], "degraded": []}
    assert daemon.calls("memory.search") == [
        {"query": "a key", "mode": "keyword", "limit": 3, "explain": False, "filter": {"sessionId": 1}}
    ]


@pytest.mark.parametrize("name", ["#12", "id:12"])
def test_session_can_be_named_by_its_row_id(daemon: ScriptedDaemon, name: str) -> None:
    daemon.answers["memory.search"] = {"items": [], "degraded": []}
    daemon.answers["sessions.get"] = {"id": 12, "externalId": "hall", "name": None, "projectId": None,
                                      "metadata": {}, "createdAt": 1, "updatedAt": 1}  # fmt: skip
    nexusctl("--socket", daemon.address, "search", "key", "--session", name)
    assert daemon.calls("sessions.get") == [{"id": 12}]
    assert daemon.calls("memory.search")[0]["filter"] == {"sessionId": 12}


@pytest.mark.parametrize("name", ["#12", "id:12"])
def test_add_takes_a_session_by_its_row_id_and_makes_none(daemon: ScriptedDaemon, name: str) -> None:
    daemon.answers["sessions.get"] = {"id": 12, "externalId": "hall", "name": None, "projectId": None,
                                      "metadata": {}, "createdAt": 1, "updatedAt": 1}  # fmt: skip
    nexusctl("--socket", daemon.address, "add", "Where?", "Here.", "--session", name)
    assert daemon.calls("sessions.get") == [{"id": 12}]
    assert daemon.calls("sessions.create") == []
    assert daemon.calls("episodes.create")[0]["sessionId"] == 12


def test_context_can_be_its_text_alone(daemon: ScriptedDaemon) -> None:
    daemon.answers["memory.context"] = {"text": "User: hi\nAssistant: ho", "tokens": 4, "tokenBudget": 100,
                                        "counted": "estimate", "items": [], "leftOut": [], "degraded": []}  # fmt: skip
    done = nexusctl("--socket", daemon.address, "context", "key", "--budget", "100", "--text")
    assert done.stdout == "User: hi\nAssistant: ho\n"
    assert daemon.calls("memory.context") == [{"query": "key", "tokenBudget": 100, "recentTurns": 4}]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_result_larger_than_a_pipe_comes_whole(daemon: ScriptedDaemon, unbuffered: str) -> None:
    daemon.answers["echo"] = {"text": "x" * 1_000_000}
    done = nexusctl("--socket", daemon.address, "call", "echo", PYTHONUNBUFFERED=unbuffered)
    assert json.loads(done.stdout) == daemon.answers["echo"]


# --- on a terminal ---


def test_terminal_gets_a_drawing_and_json_on_demand(daemon: ScriptedDaemon) -> None:
    daemon.answers["memory.search"] = {"items": [HIT], "degraded": ["index"]}
    code, drawn = on_terminal("--socket", daemon.address, "search", "key")
    assert code == 0
    assert "#7" in drawn
    assert ";43mkey\x1b[0m" in drawn  # highlighted
    assert "found by words only" in drawn
    for arguments in (["--json", "search", "key"], ["search", "key", "--json"]):
        code, written = on_terminal("--socket", daemon.address, *arguments)
        assert json.loads(written) == daemon.answers["memory.search"]


def test_escape_sequences_in_a_memory_do_not_reach_the_terminal(daemon: ScriptedDaemon) -> None:
    daemon.answers["memory.search"] = {"items": [HIT], "degraded": []}
    _, drawn = on_terminal("--socket", daemon.address, "search", "nothing")
    assert "\x1b[31m" not in drawn
    assert "\N{REPLACEMENT CHARACTER}[31mthe mat." in drawn


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_drawing_is_wider_than_the_terminal(daemon: ScriptedDaemon, width: int) -> None:
    long = {**HIT, "record": {**HIT["record"], "userMessage": "Where is the key? " * 20}}  # type: ignore[dict-item]
    daemon.answers["memory.search"] = {"items": [long], "degraded": ["embedder"]}
    _, drawn = on_terminal("--socket", daemon.address, "search", "nothing", "--json", width=width)
    assert len(drawn) > width  # JSON is not folded
    _, drawn = on_terminal("--socket", daemon.address, "search", "zebra", width=width)
    plain = [line for line in drawn.replace("\r", "").split("\n") if "\x1b" not in line]
    assert plain
    assert max(map(len, plain)) <= width


# --- errors and exit codes ---


def test_daemons_error_is_one_line_with_its_fields_and_exit_code_1(daemon: ScriptedDaemon) -> None:
    fields = [{"path": "id", "expected": "an integer"}]
    daemon.acts["episodes.get"] = [refuses(-32602, "invalid_params", "Wrong.", fields=fields)]
    done = nexusctl("--socket", daemon.address, "call", "episodes.get", "id=x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nexusctl: invalid_params: Wrong.\n  id: an integer\n"


def test_kind_that_the_message_begins_with_is_not_said_twice(daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.get"] = [refuses(-32602, "invalid_params", "Invalid params: id: expected an integer")]
    done = nexusctl("--socket", daemon.address, "call", "episodes.get", "id=x")
    assert done.stderr == "nexusctl: Invalid params: id: expected an integer\n"


def test_internal_error_tells_the_request_id_that_the_log_knows(daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.get"] = [refuses(-32603, "internal_error", "Something went wrong inside.")]
    done = nexusctl("--socket", daemon.address, "call", "episodes.get", "id=1")
    assert done.stderr.endswith("\n  requestId r-1\n")


def test_unknown_session_is_named(daemon: ScriptedDaemon) -> None:
    done = nexusctl("--socket", daemon.address, "search", "key", "--session", "nobody")
    assert (done.returncode, done.stderr) == (1, "nexusctl: not_found: No session is called 'nobody'.\n")
    daemon.acts["sessions.get"] = [refuses(-32010, "not_found", "No session has this id.")] * 2
    for command in ("search", "context"):
        done = nexusctl("--socket", daemon.address, command, "key", "--session", "#99999")
        assert (done.returncode, done.stderr) == (1, "nexusctl: not_found: No session has the id 99999.\n")
    assert daemon.calls("memory.search") == daemon.calls("memory.context") == []


def test_no_daemon_is_exit_code_2_and_names_every_place(tmp_path: Path) -> None:
    done = nexusctl("status", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "data/nexusd.sock: No such file or directory" in done.stderr
    assert "/run/nexusd/nexusd.sock" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("act", [sends_garbage, stays_silent])
def test_daemon_that_does_not_speak_is_exit_code_2(daemon: ScriptedDaemon, act: Any) -> None:
    daemon.acts["system.status"] = [act]
    done = nexusctl("--socket", daemon.address, "--timeout", "0.5", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nexusctl: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "key", "--limit", "many"],
        ["search", "key", "--frobnicate"],
        ["call", ""],
        ["call", "echo", "no equals sign"],
        ["call", "echo", "a=1", "a=2"],
        ["call", "echo", "a:=text"],
        ["add"],
        ["add", "one", "--user", "two"],
        ["--url", "http://127.0.0.1", "status"],
        ["--socket", "a", "--url", "tcp://b:1", "status"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_exit_code_3(arguments: list[str]) -> None:
    done = nexusctl(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_bad_json_on_standard_input_is_exit_code_3(daemon: ScriptedDaemon) -> None:
    done = nexusctl("--socket", daemon.address, "call", "echo", stdin='{"a": ')
    assert done.returncode == 3
    assert done.stderr.startswith("nexusctl: the parameters on standard input are not JSON")


@pytest.mark.parametrize(
    "arguments",
    [["call", "echo", b"a=\xff"], ["add", b"\xff"], ["add", "a", b"\xff", "-s", "new"], ["add", "a", "-s", b"\xff"],
     ["search", b"\xff"]],
    ids=str,
)  # fmt: skip
def test_byte_that_is_no_text_is_exit_code_3_and_nothing_is_made(
    daemon: ScriptedDaemon, arguments: list[str | bytes]
) -> None:
    done = subprocess.run(
        [*PROGRAM, "--socket", daemon.address, *arguments], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=30, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "nexusctl: a parameter is not valid UTF-8\n")
    assert daemon.sessions == {}


def test_byte_that_is_no_text_on_standard_input_is_exit_code_3(daemon: ScriptedDaemon) -> None:
    done = subprocess.run(
        [*PROGRAM, "--socket", daemon.address, "add", "-"], input=b"a\xff\n", capture_output=True, timeout=30,
        env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, b"nexusctl: standard input is not valid UTF-8\n")


def test_version_is_told_without_a_daemon(tmp_path: Path) -> None:
    done = nexusctl("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nexusctl {__version__}\n", "")


# --- commands that the daemon has ---

HELP = {
    "rooms.list": {"name": "rooms.list", "summary": "List rooms.", "params": [
        {"name": "floor", "type": "string", "required": True, "schema": {"type": "string"}},
        {"name": "limit", "type": "integer", "schema": {"type": "integer"}},
    ]},
    "rooms.createMany": {"name": "rooms.createMany", "summary": "Store rooms.", "mutates": True, "params": [
        {"name": "items", "type": "array", "schema": {"type": "array", "items": {"type": "object"}}},
    ]},
    "pulse": {"name": "pulse", "summary": "Beat.", "params": []},
}  # fmt: skip


@pytest.fixture
def learned(daemon: ScriptedDaemon) -> ScriptedDaemon:
    """A daemon with methods that nexusctl has never heard of."""
    daemon.answers["help"] = lambda params: (
        {"methods": [{"name": name, "summary": one["summary"]} for name, one in sorted(HELP.items())]}
        if "method" not in params else HELP.get(params["method"]) or not_found_method(params["method"])
    )  # fmt: skip
    daemon.answers.update({"rooms.list": {"items": [], "nextCursor": None}, "rooms.createMany": {"items": []},
                           "pulse": {"beats": 60}})  # fmt: skip
    return daemon


def not_found_method(name: str) -> Any:
    raise Refused(-32601, "method_not_found", f"There is no method {name}.")


def test_method_is_a_command_and_its_texts_stay_texts(learned: ScriptedDaemon) -> None:
    done = nexusctl("--socket", learned.address, "rooms", "list", "floor=5", "--limit", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"items": [], "nextCursor": None}
    assert learned.calls("rooms.list") == [{"floor": "5", "limit": 3}]
    assert learned.calls("help") == [{"method": "rooms.list"}]  # one request more, no others


def test_method_of_two_words_is_typed_as_shells_do_or_as_the_wire_has_it(learned: ScriptedDaemon) -> None:
    for verb in ("create-many", "createMany"):
        done = nexusctl("--socket", learned.address, "rooms", verb, 'items:=[{"a":1}]')
        assert (done.returncode, done.stderr) == (0, "")
    assert [call["items"] for call in learned.calls("rooms.createMany")] == [[{"a": 1}]] * 2
    assert all(call["idempotencyKey"] for call in learned.calls("rooms.createMany"))


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_parameters_of_a_method_are_read_from_standard_input(learned: ScriptedDaemon, arguments: list[str]) -> None:
    done = nexusctl("--socket", learned.address, "rooms", "list", *arguments, stdin='{"floor": "1"}')
    assert done.returncode == 0
    assert learned.calls("rooms.list") == [{"floor": "1"}]


def test_method_without_a_resource_is_a_command_too(learned: ScriptedDaemon) -> None:
    done = nexusctl("--socket", learned.address, "pulse", stdin="left alone: it takes nothing")
    assert (json.loads(done.stdout), done.stderr) == ({"beats": 60}, "")


def test_resource_lists_its_commands_and_a_command_explains_itself(learned: ScriptedDaemon) -> None:
    code, drawn = on_terminal("--socket", learned.address, "rooms")
    assert (code, "create-many" in drawn, "List rooms." in drawn) == (0, True, True)
    done = nexusctl("--socket", learned.address, "rooms")
    assert [one["name"] for one in json.loads(done.stdout)["methods"]] == ["rooms.createMany", "rooms.list"]
    for place in (["rooms", "--help"], ["--json", "rooms", "--help"]):
        done = nexusctl("--socket", learned.address, *place)
        assert (done.returncode, "create-many" in done.stdout) == (0, True)
    done = nexusctl("--socket", learned.address, "rooms", "list", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nexusctl rooms list floor=TEXT [limit=NUMBER]" in done.stdout
    assert learned.calls("rooms.list") == []


def test_general_help_shows_the_resources_of_a_daemon_that_answers(learned: ScriptedDaemon, tmp_path: Path) -> None:
    for arguments, environ in ((["--socket", learned.address], {}), ([], {"NEXUSD_SOCKET": learned.address})):
        done = nexusctl(*arguments, "--help", cwd=tmp_path, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        assert "rooms" in done.stdout
        assert "create-many, list" in done.stdout
    done = nexusctl("--help", cwd=tmp_path)
    assert (done.returncode, "rooms" in done.stdout, "search" in done.stdout) == (0, False, True)
    assert nexusctl(cwd=tmp_path).returncode == 3


def test_own_command_goes_before_a_resource_of_its_name(learned: ScriptedDaemon) -> None:
    learned.answers["system.status"] = {"state": "ready"}
    assert json.loads(nexusctl("--socket", learned.address, "status").stdout) == {"state": "ready"}
    assert learned.calls("help") == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["romos"], "there is no command romos; did you mean rooms?"),
        (["romos", "list", "floor=1"], "there is no command romos; did you mean rooms?"),
        (["serach", "key"], "there is no command serach; did you mean search?"),
        (["xyzzy"], "there is no command xyzzy; nexusctl --help lists what there is"),
        (["rooms", "lits"], "rooms has no command lits; did you mean list?"),
        (["rooms", "create-mnay"], "rooms has no command create-mnay; did you mean create-many?"),
        (["rooms", "xyzzy"], "rooms has no command xyzzy; there are create-many, list"),
        (["rooms", "floor=1"], "expected a command after rooms: create-many, list"),
        (["rooms", "list", "5"], "expected key=value, got '5'\n  rooms.list takes floor, limit"),
        (["rooms", "list", "--flor", "5"], "there is no parameter --flor; did you mean --floor?"),
        (["rooms", "list", "floor=1", "--floor=2"], "floor is given twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_of_a_daemon_is_exit_code_3(
    learned: ScriptedDaemon, arguments: list[str], complaint: str
) -> None:
    done = nexusctl("--socket", learned.address, *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"nexusctl: {complaint}")
    assert learned.calls("rooms.list") == []


def test_command_that_only_a_daemon_may_know_is_exit_code_2_without_one(tmp_path: Path) -> None:
    done = nexusctl("serach", "key", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "data/nexusd.sock: No such file or directory" in done.stderr
    assert "serach is no command that works without a daemon; did you mean search?" in done.stderr


def test_records_are_drawn_as_a_table_and_are_json_on_demand(learned: ScriptedDaemon) -> None:
    learned.answers["rooms.list"] = {"items": [{"id": 1, "name": "\x1b[31mHall"}], "nextCursor": None}
    code, drawn = on_terminal("--socket", learned.address, "rooms", "list", "floor=1")
    assert code == 0
    assert "\x1b[31m" not in drawn
    assert "\N{REPLACEMENT CHARACTER}[31mHall" in drawn
    assert "nextCursor" not in drawn
    for arguments in (["--json", "rooms", "list", "floor=1"], ["rooms", "list", "--json", "floor=1"]):
        _, written = on_terminal("--socket", learned.address, *arguments)
        assert json.loads(written) == learned.answers["rooms.list"]


def test_byte_that_is_no_text_in_a_learned_command_is_exit_code_3(learned: ScriptedDaemon) -> None:
    done = subprocess.run(
        [*PROGRAM, "--socket", learned.address, "rooms", "list", b"floor=\xff"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=30, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "nexusctl: a parameter is not valid UTF-8\n")


# --- completion ---


def completed(line: str, cwd: Path, *, max_wait_s: float = MAX_WAIT_S, **environ: str) -> list[str]:
    """What bash is offered after this line and a <TAB>."""
    asks = {"_NEXUSCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    program = f"import nexusd.cli.completion as it; it.MAX_WAIT_S = {max_wait_s}; {PROGRAM[-1]}"
    done = subprocess.run(
        [*PROGRAM[:-1], program], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, cwd=cwd,
        env=environment(**asks, **environ), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("command", ["call", "help"])
def test_shell_is_offered_the_daemons_methods(daemon: ScriptedDaemon, tmp_path: Path, command: str) -> None:
    names = ["episodes.create", "episodes.get", "health"]
    daemon.answers["help"] = {"methods": [{"name": name, "summary": "."} for name in names]}
    # as long as it takes: this machine may have much else to do
    assert completed(f"nexusctl --socket {daemon.address} {command} epi", tmp_path, max_wait_s=20) == names[:2]
    assert completed(f"nexusctl {command} he", tmp_path, max_wait_s=20, NEXUSD_SOCKET=daemon.address) == ["health"]
    assert daemon.calls("help") == [{}, {}]


def test_shell_is_offered_nothing_and_told_nothing_without_an_answer(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    assert completed("nexusctl call epi", tmp_path) == []
    assert completed("nexusctl --url nonsense call epi", tmp_path) == []
    daemon.acts["help"] = [stays_silent, sends_garbage]
    for _ in range(2):
        assert completed(f"nexusctl --socket {daemon.address} call epi", tmp_path) == []
    assert len(daemon.calls("help")) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_leaves_early_gets_no_complaint(daemon: ScriptedDaemon, unbuffered: str) -> None:
    daemon.answers["echo"] = {"text": "x" * 1_000_000}  # more than a pipe holds
    process = subprocess.Popen(
        [*PROGRAM, "--socket", daemon.address, "call", "echo"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(PYTHONUNBUFFERED=unbuffered),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 141
    process.stderr.close()


def test_full_disk_is_one_line(daemon: ScriptedDaemon) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "--socket", daemon.address, "call", "echo"], stdin=subprocess.DEVNULL, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=30, env=environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "nexusctl: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [(">&-", "call echo", 0), (">&-", "--help", 0), ("<&-", "call echo -", 0), ("<&-", "add -", 3),
     ("<&- >&- 2>&-", "call echo a=1", 0)],
)  # fmt: skip
def test_closed_standard_streams_lead_nowhere(
    daemon: ScriptedDaemon, closed: str, arguments: str, code: int
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" --socket "$2" {arguments} {closed}', PROGRAM[0], PROGRAM[2],
         daemon.address],
        capture_output=True, text=True, timeout=30, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_interrupt_ends_it_quietly(daemon: ScriptedDaemon) -> None:
    daemon.acts["system.status"] = [stays_silent]
    process = subprocess.Popen(
        # a runner in the background may ignore the signal, and what is ignored is inherited
        ["env", "--default-signal=INT", *PROGRAM, "--socket", daemon.address, "status"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    daemon.wait_for("system.status")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


# --- where the daemon is ---


def test_environment_names_the_socket_and_the_option_goes_before_it(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    assert nexusctl("call", "echo", "a=1", NEXUSD_SOCKET=daemon.address).returncode == 0
    done = nexusctl("--socket", daemon.address, "call", "echo", "a=1", NEXUSD_SOCKET=str(tmp_path / "no"))
    assert done.returncode == 0


def test_url_goes_before_the_environment(tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "unused", tcp=True) as daemon:
        done = nexusctl("--url", daemon.address, "call", "echo", "a=1", NEXUSD_SOCKET=str(tmp_path / "no"))
    assert json.loads(done.stdout) == {"a": 1}


def test_daemon_of_this_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with ScriptedDaemon(tmp_path / "data" / "nexusd.sock"):
        assert nexusctl("call", "echo", "a=1", cwd=tmp_path).returncode == 0


def test_socket_that_a_dead_daemon_left_is_no_connection(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "nexusd.sock"))
    done = nexusctl("--socket", str(tmp_path / "nexusd.sock"), "status")
    assert done.returncode == 2
    assert "Connection refused" in done.stderr
