"""nexusctl doctor: how everything is, and what to do about what is not as it should be.

Owns who is asked: the daemon about itself, or, where none answers, this machine about the daemon. Exit codes:
0 all is well, 1 there are warnings, 2 there are problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nexusd import __version__
from nexusd.cli.doctor_offline import Offline
from nexusd.cli.invocation import Invocation, Json, Verdict, draw, invocation_of, write
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.client.sync_client import Client
from nexusd.errors import MethodNotFound, RpcError
from nexusd.model.system import Check, CheckState, Health, SystemChecks

EXIT_CODES: dict[CheckState, int] = {"ok": 0, "warning": 1, "problem": 2}
TIMEOUT_S = 60.0            # the slowest check has 30 s
THOROUGH_TIMEOUT_S = 2000.0


class Diagnosis(msgspec.Struct):
    """What was found, and the worst of it."""

    state: CheckState
    checks: list[Check]


class _Version(msgspec.Struct):
    version: str = "?"


def doctor(
    ctx: typer.Context,
    *,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Read the whole database, however large it is.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where no daemon answers: its settings file.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where no daemon answers: its data directory.")
    ] = None,
    json: Json = False,
) -> None:
    """Examine everything, and say what to do about what is wrong. Exit code 1: warnings, 2: problems."""
    invocation = invocation_of(ctx, json=json)
    checks = _examined(invocation, Offline(invocation.address, config, data), thorough=thorough)
    states = {one.state for one in checks}
    worst: CheckState = "problem" if "problem" in states else "warning" if "warning" in states else "ok"
    if invocation.json:
        write(msgspec.json.encode(Diagnosis(worst, checks)))
    else:
        from nexusd.cli import doctor_page  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

        draw(doctor_page.checks(checks))
    raise Verdict(EXIT_CODES[worst])


def _examined(invocation: Invocation, offline: Offline, *, thorough: bool) -> list[Check]:
    try:
        with invocation.client() as nexus:
            return [_version(nexus), *_asked(nexus, thorough=thorough)]
    except ClientError as exc:
        return offline.checks(exc.message)
    except RpcError as exc:  # it starts, or stops, or the caller may not ask
        says = f"a daemon is there, and refuses: {exc.message}"
        advice = "Try again in a moment" if exc.retryable else "Ask as a user with the role admin"
        return [Check(check="daemon", state="problem", says=says, advice=advice)]


def _version(nexus: Client) -> Check:
    there = nexus.execute(Request("system.status", {}, _Version, mutates=False)).version
    if there == __version__:
        return Check(check="daemon", state="ok", says=f"nexusd {there} answers at {nexus.address}")
    says = f"nexusd {there} answers at {nexus.address}, and this is nexusctl {__version__}: one was not updated"
    return Check(check="daemon", state="warning", says=says, advice="systemctl restart nexusd")


def _asked(nexus: Client, *, thorough: bool) -> list[Check]:
    """What the daemon says of itself; of one that cannot examine itself, its health."""
    params = {"thorough": True} if thorough else {}
    request = Request("system.check", params, SystemChecks, mutates=False)
    try:
        return nexus.execute(request, timeout_s=THOROUGH_TIMEOUT_S if thorough else TIMEOUT_S).checks
    except MethodNotFound:
        health = nexus.execute(Request("health", {}, Health, mutates=False))
        says = "; ".join(health.reasons) or "it says that all is well, and is too old to be examined further"
        advice = "Update nexusd, then: systemctl restart nexusd"
        return [Check(check="health", state="warning", says=says, advice=advice)]
