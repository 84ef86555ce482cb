"""The daemon as a service: its sockets, who may connect, what systemctl shows, and what ends it."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from harness.installed import Installed

PYTHON = "/opt/nexusd/current/bin/python"
HEALTH = '{"jsonrpc":"2.0","id":1,"method":"health"}'


def ask(nexus: Installed, request: str, user: str) -> subprocess.CompletedProcess[str]:
    return nexus.machine.run(PYTHON, "/run/host/inside/client.py", request, user=user, check=False)


def session(nexus: Installed) -> int:
    found: int = nexus.call("sessions.create", externalId=f"load-{time.monotonic_ns()}")["id"]
    return found


class Load:
    """Clients inside that store exchanges, from here to `finish`."""

    def __init__(self, nexus: Installed) -> None:
        self.nexus = nexus
        self.process = nexus.machine.start([PYTHON, "/run/host/inside/load.py", str(session(nexus))], user="alice")
        self.wait_for_more()

    def wait_for_more(self) -> None:
        """Until everybody has stored ten more, or nine and something that was under way."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("round"), self.process.communicate()[1]

    def finish(self) -> tuple[dict[str, int], list[str], float]:
        """What was acknowledged, what failed, and the longest that anybody waited."""
        printed, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        found = json.loads(printed.splitlines()[-1])
        return found["acknowledged"], found["failures"], found["slowestS"]

    def stored(self, acknowledged: dict[str, int]) -> dict[str, int]:
        """Of what was acknowledged, what is there."""
        ids = sorted(acknowledged.values())
        rows = json.loads(self.nexus.machine.run(
            PYTHON, "-c", GET_ALL, user="alice", text=json.dumps(ids),
        ).stdout)
        return {text: row for row, text in rows}


GET_ALL = """
import json, sys
from nexusd.client import Client
with Client("/run/nexusd/nexusd.sock") as nexus:
    rows = [nexus.call("episodes.get", id=row) for row in json.load(sys.stdin)]
print(json.dumps([[row["id"], row["userMessage"]] for row in rows]))
"""


def test_who_connects_starts_it(running: Installed) -> None:
    running.machine.run("systemctl", "stop", "nexusd.service")
    assert running.machine.show("nexusd-unix.socket", "ActiveState")["ActiveState"] == "active"
    reply = json.loads(ask(running, HEALTH, "alice").stdout)
    assert reply["result"]["status"] in {"ok", "degraded"}
    assert running.machine.show("nexusd.service", "ActiveState")["ActiveState"] == "active"


def test_a_member_of_the_group_does_the_main_job_and_nobody_else_gets_in(running: Installed) -> None:
    alice = running.machine.run(
        "nexusctl", "add", "Where is the spare key?", "Under the third flower pot.", "--wait", user="alice",
    )
    assert json.loads(alice.stdout)["vector"] == "indexed"
    found = running.machine.run("nexusctl", "--json", "search", "getting in without keys", user="alice")
    assert "third flower pot" in found.stdout
    refused = ask(running, HEALTH, "mallory")
    assert refused.returncode != 0
    assert "PermissionError" in refused.stderr
    assert running.machine.run("nexusctl", "status", user="mallory", check=False).returncode == 2


def test_the_memories_are_for_nobody_elses_eyes(running: Installed) -> None:
    for path in ("/var/lib/nexusd", "/var/lib/nexusd/nexus.db", "/etc/nexusd/config.yaml"):
        for user in ("alice", "mallory"):
            assert running.machine.run("cat", path, user=user, check=False).returncode != 0


def test_systemctl_status_says_what_matters(running: Installed) -> None:
    status = running.machine.output("systemctl", "status", "nexusd")
    assert re.search(r'Status: "ready, \d+ clients?, outbox \d+', status)
    assert "Loaded: loaded (/usr/local/lib/systemd/system/nexusd.service; enabled" in status
    checks = {check["check"]: check["state"] for check in running.call("system.check")["checks"]}
    assert checks["permissions"] == "ok"    # of the socket that systemd opened, too
    said = running.machine.output("systemd-analyze", "verify", "nexusd.service", "nexusd-lan.socket")
    assert said == ""


def test_the_journal_is_asked_by_method_by_priority_and_for_an_explanation(running: Installed) -> None:
    running.drop_in("[Service]\nEnvironment=NEXUSD_LOG__SLOW_REQUEST_MS=1\n")
    running.machine.run("systemctl", "restart", "nexusd")
    running.call("outbox.wait", timeoutMs=2000)
    given = {"sessionId": session(running), "userMessage": "u", "aiResponse": "a"}
    row = running.call("episodes.create", **given, waitFor="indexed")
    assert row["vector"] == "indexed"
    [slow] = running.journal("--boot", "NEXUS_METHOD=episodes.create", "--lines=1")
    assert int(slow["NEXUS_DURATION_US"]) > 1000
    assert slow["NEXUS_PEER"]
    assert slow["PRIORITY"] == "4"
    assert slow in running.journal("-p", "warning")
    assert slow not in running.journal("-p", "err")
    explained = running.machine.output("journalctl", "--unit=nexusd.service", "-x", "--grep=^ready", "--lines=1")
    assert "Subject: The memory is ready" in explained


def test_a_reload_waits_for_its_outcome_and_fails_where_the_file_is_bad(running: Installed) -> None:
    settings = "/etc/nexusd/config.yaml"
    pid, load = running.main_pid(), Load(running)
    running.machine.run("sed", "-i", "s|^  level: info .*|  level: debug  # As tried.|", settings)
    running.machine.run("systemctl", "reload", "nexusd")
    assert running.call("system.status")["settings"]["reloads"] == 1
    running.machine.run("sed", "-i", "s|^  level: debug .*|  level: loud  # As tried.|", settings)
    refused = running.machine.run("systemctl", "reload", "nexusd", check=False)
    running.machine.run("sed", "-i", "s|^  level: loud .*|  level: info  # What is logged.|", settings)
    assert refused.returncode != 0
    said = [str(entry["MESSAGE"]) for entry in running.journal("-p", "err", "--lines=5")]
    assert any("log.level: found" in message for message in said)
    running.machine.run("systemctl", "reload", "nexusd")
    load.wait_for_more()
    _, failures, _ = load.finish()
    assert (failures, running.main_pid()) == ([], pid)


@pytest.mark.alone
def test_it_is_ready_within_a_second(running: Installed) -> None:
    running.machine.run("systemctl", "restart", "nexusd")
    stat = running.machine.output("cat", f"/proc/{running.main_pid()}/stat")
    times = running.machine.show("nexusd.service", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    took_us = int(times["ActiveEnterTimestampMonotonic"]) - int(times["InactiveExitTimestampMonotonic"])
    user, system = map(int, stat.rpartition(")")[2].split()[11:13])
    print(f"{took_us / 1000:.0f} ms from the start to READY, {(user + system) * 10} ms of them computing")
    assert took_us < 1_000_000 or user + system < 100   # of 10 ms: who waits for a busy machine's processor is not slow


@pytest.mark.alone
def test_the_watchdog_leaves_alone_what_gets_on_and_restarts_what_hangs(running: Installed) -> None:
    running.drop_in("[Service]\nWatchdogSec=1s\nRestartSec=100ms\n")
    running.machine.run("systemctl", "restart", "nexusd")
    pid, load, began_s = running.main_pid(), Load(running), time.monotonic()
    while time.monotonic() - began_s < 2:   # twice as long as it may be silent
        load.wait_for_more()
    acknowledged, failures, _ = load.finish()
    assert (failures, running.main_pid()) == ([], pid)
    running.machine.run("kill", "-STOP", str(pid))
    running.wait_until("active", since=pid)
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in running.journal("_PID=1", "--lines=40"))
    assert load.stored(acknowledged) == acknowledged


def test_killed_under_load_it_comes_back_with_everything_that_it_acknowledged(running: Installed) -> None:
    running.drop_in("[Service]\nRestartSec=100ms\n")
    load = Load(running)
    pid = running.main_pid()
    running.machine.run("kill", "-KILL", str(pid))
    running.wait_until("active", since=pid)
    acknowledged, failures, _ = load.finish()
    assert "Failed with result 'signal'" in str(running.journal("-p", "warning", "--lines=3"))
    assert load.stored(acknowledged) == acknowledged
    assert len(failures) <= 8   # of those who knew nothing but sockets: each had at most one request under way


def test_restarted_under_load_nobody_is_refused_and_nothing_is_lost(running: Installed) -> None:
    load = Load(running)
    pids = {running.main_pid()}
    for _ in range(3):
        running.machine.run("systemctl", "restart", "nexusd")
        pids.add(running.main_pid())
        load.wait_for_more()
    acknowledged, failures, slowest_s = load.finish()
    assert failures == []
    assert len(pids) == 4
    assert load.stored(acknowledged) == acknowledged
    print(f"{len(acknowledged)} exchanges over 3 restarts; the longest wait was {slowest_s:.2f} s")


def test_stopped_under_load_it_answers_what_it_has_taken_and_ends_well(running: Installed) -> None:
    load = Load(running)
    running.machine.run("systemctl", "stop", "nexusd-unix.socket", "nexusd.service")
    shown = running.machine.show("nexusd.service", "Result", "ExecMainStatus", "ExecMainCode")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ExecMainCode": "1"}
    running.machine.run("systemctl", "start", "nexusd-unix.socket", "nexusd.service")
    acknowledged, failures, _ = load.finish()
    # Without a socket, or with one that the group may not use yet, nobody can connect, and who waits in its queue is
    # sent away by systemd. But whoever was let in was answered: there is no other kind of failure.
    assert {failure.split(": ")[1] for failure in failures} <= {
        "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError", "FileNotFoundError", "PermissionError",
        "ConnectionFailed",     # of nexusd.client, after all of its tries
    }  # fmt: skip
    assert load.stored(acknowledged) == acknowledged


def test_the_port_is_closed_until_its_socket_is_enabled(running: Installed) -> None:
    curl = ["curl", "--silent", "--fail", "http://127.0.0.1:3002/health"]
    assert running.machine.run(*curl, check=False).returncode != 0
    running.machine.run("systemctl", "stop", "nexusd.service")
    running.machine.run("systemctl", "start", "nexusd-lan.socket")
    try:
        assert "status" in json.loads(running.machine.output(*curl))
        assert json.loads(ask(running, HEALTH, "alice").stdout)["id"] == 1
    finally:
        running.machine.run("systemctl", "stop", "nexusd-lan.socket", "nexusd.service")
        running.machine.run("systemctl", "start", "nexusd.service")


def test_a_port_on_the_network_is_refused_and_not_tried_again(running: Installed) -> None:
    running.machine.run("systemctl", "stop", "nexusd.service")
    running.drop_in("[Socket]\nListenStream=\nListenStream=0.0.0.0:3002\n", unit="nexusd-lan.socket")
    running.machine.run("systemctl", "start", "nexusd-lan.socket")
    try:
        refused = running.machine.run("systemctl", "start", "nexusd.service", check=False)
        assert refused.returncode != 0
        shown = running.machine.show("nexusd.service", "ExecMainStatus", "ActiveState")
        assert shown == {"ExecMainStatus": "78", "ActiveState": "failed"}
        assert "off loopback it takes TLS" in str(running.journal("--lines=9"))
    finally:
        running.machine.run("systemctl", "stop", "nexusd-lan.socket")


def test_where_it_cannot_start_clients_are_refused_and_it_comes_back_when_it_can(running: Installed) -> None:
    running.machine.run("systemctl", "stop", "nexusd.service")
    running.drop_in("[Service]\nEnvironment=NEXUSD_SERVER__TPC__PORT=1\n")
    refused = ask(running, HEALTH, "alice")     # it waits, and is not left to wait
    assert refused.returncode != 0
    assert "no such setting" in str(running.journal("--lines=20"))
    running.forget_drop_ins()
    assert json.loads(ask(running, HEALTH, "alice").stdout)["id"] == 1


@pytest.mark.parametrize("where", ["at the start", "while it runs"])
def test_on_a_full_partition_it_says_so_and_goes_on_when_there_is_room(running: Installed, where: str) -> None:
    machine = running.machine
    machine.run("systemctl", "stop", "nexusd.service")
    machine.run("mount", "-t", "tmpfs", "-o", "size=24m,mode=700,uid=nexusd,gid=nexusd", "tmpfs", "/var/lib/nexusd")
    fill = "head -c 100m /dev/zero >/var/lib/nexusd/filled 2>/dev/null; true"
    try:
        running.drop_in("[Service]\nRestartSec=200ms\n")
        if where == "at the start":
            machine.run("sh", "-c", fill)
            assert machine.run("systemctl", "start", "nexusd.service", check=False).returncode != 0
            machine.run("rm", "/var/lib/nexusd/filled")
            running.wait_until("active")
        else:
            machine.run("systemctl", "start", "nexusd.service")
            number = session(running)
            machine.run("sh", "-c", fill)
            params = {"sessionId": number, "userMessage": "u", "aiResponse": "a"}
            create = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "episodes.create", "params": params})
            refused = json.loads(ask(running, create, "alice").stdout)
            assert refused["error"]["data"]["kind"] == "disk_full"
            assert machine.output("systemctl", "is-active", "nexusd.service") == "active"
            machine.run("rm", "/var/lib/nexusd/filled")
            deadline = time.monotonic() + 10
            while "result" not in json.loads(ask(running, create, "alice").stdout):
                assert time.monotonic() < deadline
    finally:
        machine.run("systemctl", "stop", "nexusd.service", "nexusd-unix.socket")
        machine.run("umount", "/var/lib/nexusd")
