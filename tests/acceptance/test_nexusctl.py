"""nexusctl with a real daemon: commands that it learns, and what real shells offer after <TAB>."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon

from nexusd.cli.completion import MAX_WAIT_S

PROGRAM = [sys.executable, "-c", "from nexusd.cli.main import main; main()"]
PROMPT = "ready> "


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("d") / "data") as daemon:
        yield daemon


@pytest.fixture
def environment(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    """Of a user at home who has nexusctl on the path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    program = tmp_path / "bin" / "nexusctl"
    program.write_text(
        f"#!{sys.executable}\nimport nexusd.cli.completion as it\n"
        "it.MAX_WAIT_S = 20  # this machine may have much else to do\n"
        "from nexusd.cli.main import main\nmain()\n"
    )
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUSD_", "COMP_"))}
    return {
        **kept, "PATH": f"{program.parent}:{kept['PATH']}", "HOME": str(tmp_path / "home"), "TERM": "dumb",
        "NEXUSD_SOCKET": str(daemon.socket_path), "PYTHONPATH": str(Path(__file__).parents[2]),
        "COLUMNS": "100", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def nexusctl(environment: dict[str, str], *arguments: str, **more: str) -> str:
    done = subprocess.run(
        ["nexusctl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env={**environment, **more}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_method_is_a_command(environment: dict[str, str]) -> None:
    made = json.loads(nexusctl(environment, "sessions", "create", "externalId=5", "--name", "Hall"))
    assert (made["externalId"], made["name"]) == ("5", "Hall")
    found = json.loads(nexusctl(environment, "sessions", "get-by-external-id", "--external-id", "5"))
    assert found["id"] == made["id"]
    page = json.loads(nexusctl(environment, "episodes", "list", f"sessionId={made['id']}", "limit=2", "order=asc"))
    assert page == {"items": [], "nextCursor": None}
    hits = json.loads(nexusctl(environment, "memory", "search", "query=5", "collections=episodes", "--explain",
                               f"filter.session-id={made['id']}"))  # fmt: skip
    assert hits["items"] == []


def test_learned_command_asks_no_more_of_the_daemon_than_call_does(environment: dict[str, str]) -> None:
    def requests() -> int:
        methods = json.loads(nexusctl(environment, "status"))["server"]["methods"]
        return sum(one["calls"] for one in methods.values())

    spent = []
    for words in (("call", "sessions.list"), ("sessions", "list")):
        before = requests()
        nexusctl(environment, *words)
        spent.append(requests() - before)
    assert spent[0] == spent[1]


def test_an_examination_of_a_daemon_that_is_well_finds_at_most_that_nothing_is_backed_up(
    environment: dict[str, str], daemon: Daemon
) -> None:
    daemon.data.chmod(0o700)
    done = subprocess.run(["nexusctl", "doctor"], capture_output=True, text=True, env=environment, check=False)
    troubled = [one["check"] for one in json.loads(done.stdout)["checks"] if one["state"] != "ok"]
    assert (troubled in ([], ["backups"]), done.stderr) == (True, "")  # where the tests before have stored something
    assert done.returncode == len(troubled)


def test_the_outbox_of_a_real_daemon_is_watched_until_it_is_empty(environment: dict[str, str]) -> None:
    assert nexusctl(environment, "outbox", "watch").splitlines()[-1].startswith("waiting=0 dead=0 ")
    assert json.loads(nexusctl(environment, "outbox", "retry", "--all")) == {"retried": 0}


# --- completion: the protocol of each shell ---


def bash_offers(environment: dict[str, str], *words: str) -> list[str]:
    """What the function of bash is answered with the cursor in the last word; bash splits at = by itself."""
    asked = {"_NEXUSCTL_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words) - 1)}
    return nexusctl(environment, COMP_WORDS="\n".join(words), **asked).split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sess"], ["sessions"]),
        (["sessions", "cr"], ["create"]),
        (["sessions", "get"], ["get", "get-by-external-id"]),
        (["sessions", "getB"], ["getByExternalId"]),
        (["episodes", "list", "sess"], ["sessionId="]),
        (["episodes", "list", "sessionId", "=", "1", "ord"], ["order=asc", "order=desc"]),
        (["memory", "search", "mode", "="], ["hybrid", "keyword", "semantic"]),
        (["memory", "search", "mode", "=", "hy"], ["hybrid"]),
        (["memory", "search", "--mode", "k"], ["keyword"]),
        (["memory", "search", "--explain", "qu"], ["query="]),
        (["memory", "search", "--exp"], ["--explain"]),
        (["memory", "search", "filter.sess"], ["filter.sessionId="]),
        (["memory", "search", "query", "=", "x"], []),
        (["memory", "xyzzy", ""], []),
        (["xyzzy", ""], []),
        (["outb"], ["outbox"]),
        (["outbox", "w"], ["wait", "watch"]),
        (["outbox", "list", "state", "=", "d"], ["dead"]),
        (["outbox", "list", "--st"], ["--state"]),
        (["outbox", "retry", "--a"], ["--all"]),
        (["index", "verify", "e"], ["episodes", "entities"]),
        (["doctor", "--th"], ["--thorough"]),
    ],
)
def test_bash_is_offered(environment: dict[str, str], words: list[str], offered: list[str]) -> None:
    assert bash_offers(environment, "nexusctl", *words) == offered


def test_what_was_given_is_not_offered_again(environment: dict[str, str]) -> None:
    offered = bash_offers(environment, "nexusctl", "memory", "search", "query", "=", "x", "limit", "=", "5", "")
    assert "mode=" in offered
    assert not {"query=", "limit="} & set(offered)


@pytest.mark.parametrize(
    ("line", "offered"),
    [("memory search mode=hy", "mode=hybrid"), ("memory sea", "search"), ("sessions create ext", "externalId="),
     ("sess", "sessions")],
)  # fmt: skip
def test_zsh_and_fish_are_offered_whole_words(environment: dict[str, str], line: str, offered: str) -> None:
    arguments = {"_TYPER_COMPLETE_ARGS": f"nexusctl {line}"}
    arguments["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    zsh = nexusctl(environment, _NEXUSCTL_COMPLETE="complete_zsh", **arguments)
    assert re.findall(r'\n?\(*"([^"]*)"(?::|\)|\n)', zsh.partition("((")[2])[:1] == [offered]
    fish = nexusctl(environment, _NEXUSCTL_COMPLETE="complete_fish", **arguments)
    assert [one.partition("\t")[0] for one in fish.splitlines()] == [offered]


def test_no_shell_waits_for_a_daemon_that_is_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    environment["NEXUSD_SOCKET"] = str(tmp_path / "nowhere")
    assert bash_offers(environment, "nexusctl", "memory", "search", "") == []
    assert MAX_WAIT_S <= 0.3


# --- completion: real shells ---


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys: str, until: str, timeout_s: float = 40.0) -> str:
        """Type, and read until this is shown."""
        os.write(self._terminal, keys.encode())
        seen, deadline = "", time.monotonic() + timeout_s
        while until not in seen:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not shown: {until!r} in {seen!r}"
            seen += os.read(self._terminal, 65536).decode(errors="replace")
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._terminal)


def only_with(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


@only_with("bash")
def test_in_a_real_bash_a_command_is_completed_to_its_end(environment: dict[str, str]) -> None:
    asked = ["bash", "-c", "nexusctl --show-completion; true"]
    script = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=environment, check=True).stdout
    (Path(environment["HOME"]) / "completion.sh").write_text(script)
    environment["PS1"] = PROMPT
    shell = Shell(["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        shell.type("", PROMPT)
        shell.type("source ~/completion.sh\n", PROMPT)
        shell.type("nexusctl memo\t", "ry ")  # the end of the word, and a blank
        shell.type("sear\t", "ch ")
        shell.type("mo\t", "de=")
        shell.type("hy\t", "brid ")
        shell.type("query=nothing --lim\t", "it ")
        shown = shell.type("3 --json\n", PROMPT)
        assert '"items":[]' in shown
    finally:
        shell.close()


@only_with("zsh")
def test_in_a_real_zsh_a_command_is_completed(environment: dict[str, str]) -> None:
    # true: a shell that has nothing left to do becomes its last command, and is then not found above it
    subprocess.run(["zsh", "-c", "nexusctl --install-completion; true"], timeout=60, env=environment, check=True)
    with (Path(environment["HOME"]) / ".zshrc").open("a") as settings:
        settings.write(f"PS1='{PROMPT}'\n")
    shell = Shell(["zsh", "-i"], environment)
    try:
        shell.type("", PROMPT)
        shell.type("nexusctl memo\t", "\a")  # the first time zsh only loads what completes
        shell.type("\t", "ry ")
        shell.type("sear\t", "search ")
        shell.type("mode=hy\t", "mode=hybrid ")
    finally:
        shell.close()


@only_with("fish")
def test_in_a_real_fish_a_command_is_completed(environment: dict[str, str]) -> None:
    subprocess.run(["fish", "-c", "nexusctl --install-completion; true"], timeout=60, env=environment, check=True)
    asked = ["fish", "-c", "complete --do-complete 'nexusctl memory search mode=hy'"]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=60, env=environment, check=True).stdout
    assert shown.split() == ["mode=hybrid"]
