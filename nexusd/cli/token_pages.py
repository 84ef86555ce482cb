"""Tokens as people see them: a new one, and the list of those there are.

Results in, rich renderables out. Asks the daemon nothing.
"""

from __future__ import annotations

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexusd.cli.invocation import now_ms
from nexusd.cli.texts import age, safe
from nexusd.model.fields import Listing
from nexusd.model.tokens import CreatedToken, Token

ROLE_STYLES = {"read": "green", "write": "yellow", "admin": "red"}


def created(raw: bytes) -> RenderableType:
    """The answer of tokens.create: the token has a line of its own, to be copied."""
    token = msgspec.json.decode(raw, type=CreatedToken)
    said = Text.assemble(("✓ ", "green"), f"token {token.id} for {safe(token.name)}: ", _role(token), _limits(token))
    secret = Text(safe(token.token), overflow="fold", style="bold")
    return Group(said, Text(), secret, Text(), Text(safe(token.note), style="dim"))


def listing(raw: bytes) -> RenderableType:
    """The answer of tokens.list."""
    page = msgspec.json.decode(raw, type=Listing[Token])
    if not page.items:
        return Text("No tokens: nobody comes in over the network. nexusctl tokens create makes one.", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("id", style="cyan", no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("role", no_wrap=True)
    table.add_column("used", no_wrap=True)
    table.add_column("only")
    now = now_ms()
    for token in page.items:
        used = "not lately" if token.used_at is None else age(token.used_at, now)
        table.add_row(token.id, safe(token.name), _role(token), used, _limits(token).removeprefix(", only "))
    if page.next_cursor is None:
        return table
    return Group(table, Text(f"more: cursor={safe(page.next_cursor)}", style="dim"))


def _role(token: Token) -> Text:
    return Text(token.role, style=ROLE_STYLES.get(token.role, ""))


def _limits(token: Token) -> str:
    """What it may not, as one sentence goes on: `, only memory.*, from 10.0.0.0/8`."""
    limits = [safe(method) for method in token.methods]
    limits += [f"from {safe(network)}" for network in token.networks]
    if token.rate is not None:
        limits.append(f"{token.rate:g} a second")
    if token.expires_at is not None:
        left_ms = token.expires_at - now_ms()
        limits.append("in the past" if left_ms <= 0 else f"for {_rough(left_ms)}")
    return f", only {', '.join(limits)}" if limits else ""


def _rough(milliseconds: int) -> str:
    for name, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if milliseconds >= length:
            return f"{milliseconds // length} {name}"
    return f"{milliseconds // 1000} s"
