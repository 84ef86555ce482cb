"""What an examination found, drawn: a line a check, with what to do below it where something is to be done.

Checks in, rich renderables out. Examines nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nexusd.cli.texts import count, safe
from nexusd.model.system import Check, SystemChecks

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def examination(raw: bytes) -> RenderableType:
    """The answer of system.check."""
    return checks(msgspec.json.decode(raw, type=SystemChecks).checks)


def checks(found: Sequence[Check]) -> RenderableType:
    """Every check, and all of them in a sentence."""
    width = max((len(one.check) for one in found), default=0)
    parts: list[RenderableType] = []
    for one in found:
        mark, style = _MARKS[one.state]
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, min_width=width, style="bold")
        line.add_column(overflow="fold")
        line.add_row(Text(mark, style=style), safe(one.check), Text(safe(one.says), "" if one.state == "ok" else style))
        parts.append(line)
        if one.advice and one.state != "ok":  # not below the sentence: a command that is to be copied needs the room
            parts += [Padding(Text(f"→ {safe(step)}"), (0, 0, 0, 3)) for step in one.advice.splitlines()]
    return Group(*parts, Text(""), _sum(found))


def _sum(found: Sequence[Check]) -> Text:
    problems, warnings = (sum(one.state == state for one in found) for state in ("problem", "warning"))
    if problems:
        also = f", and {count(warnings, 'warning')}" if warnings else ""
        return Text(f"{count(problems, 'problem')}{also}.", style="bold red")
    if warnings:
        return Text(f"It works; {count(warnings, 'warning')}.", style="bold yellow")
    return Text("All is well.", style="bold green")
