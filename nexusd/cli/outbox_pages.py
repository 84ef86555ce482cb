"""The outbox as people see it: rows, one row with what to do about it, how far behind the index is.

Results in, rich renderables out. Owns what each kind of error asks of people. Asks the daemon nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexusd.cli.invocation import now_ms
from nexusd.cli.outbox_status import Backlog, WaitingRows
from nexusd.cli.texts import age, count, duration, excerpt, safe
from nexusd.model.fields import Listing
from nexusd.model.outbox import OutboxRow, RetriedOutbox

STATE_STYLES = {
    "pending": "yellow", "inflight": "cyan", "dead": "red", "closed": "green", "half_open": "yellow", "open": "red",
}  # fmt: skip
_BREAKERS = {
    "closed": "answers", "open": "is away: asked again", "half_open": "was away: being asked again",
}  # fmt: skip
_CAUSE_CHARACTERS = 400
_BAR_WIDTH = 24

# What to do about a dead letter, by the kind of its error.
_ADVICE = {
    "bad_content": "The text, or its vector, is refused for good: sent again as it is, it comes back. Change the row,"
    " which queues it anew, or delete it. After a change of the embedding model: retry it.",
    "dimension_mismatch": "The vector has another dimension than its collection. Store it again with an embedding of"
    " the model's dimension, or with its text alone.",
    "internal_error": "It failed each time that it was tried alone, and nobody foresaw why: the log says more."
    " Retry it; when it comes back, change the row or delete it.",
    "embedder_unavailable": "The embedding model did not answer. nexusctl doctor says why; then retry it.",
    "index_unavailable": "The index did not answer. nexusctl doctor says why; then retry it.",
}
_OTHER_ADVICE = "See what the error says, then retry it."


def listing(raw: bytes) -> RenderableType:
    """The answer of outbox.list."""
    page = msgspec.json.decode(raw, type=Listing[OutboxRow])
    if not page.items:
        return Text("Nothing: the index has all that it is owed, of what was asked for.", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("seq", justify="right", style="cyan", no_wrap=True)
    table.add_column("row", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("tries", justify="right", no_wrap=True)
    table.add_column("next try", no_wrap=True)
    table.add_column("cause", no_wrap=True, overflow="ellipsis", ratio=1)
    now = now_ms()
    for row in page.items:
        table.add_row(
            str(row.seq), _name(row), Text(safe(row.state), style=STATE_STYLES.get(row.state, "")),
            str(row.attempts), next_try(row, now), Text(excerpt(_cause(row), None, _CAUSE_CHARACTERS)),
        )  # fmt: skip
    parts: list[RenderableType] = [table]
    if page.next_cursor:
        parts.append(Text(f"There is more: cursor={safe(page.next_cursor)}", style="dim", overflow="fold"))
    if any(row.state == "dead" for row in page.items):
        said = "nexusctl outbox show SEQ says all about a row, nexusctl outbox retry SEQ tries a dead one again."
        parts.append(Text(said, style="dim"))
    return Group(*parts)


def one(row: OutboxRow) -> RenderableType:
    """All about one row."""
    now = now_ms()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    what = "take out of the index" if row.op == "delete" else f"bring version {row.version} to the index"
    grid.add_row("seq", Text(str(row.seq), style="cyan"))
    grid.add_row("row", _name(row))
    grid.add_row("to do", what)
    grid.add_row("state", Text(row.state, style=STATE_STYLES.get(row.state, "")))
    grid.add_row("queued", age(row.created_at, now))
    grid.add_row("tries", f"{row.attempts:,}" + (" that failed" if row.attempts else ""))
    grid.add_row("next try", next_try(row, now))
    if row.error_kind or row.error:
        grid.add_row("error", Text(safe(row.error_kind or ""), style="red"))
        grid.add_row("", Text(safe(row.error or "")))
    parts: list[RenderableType] = [grid, Text("")]
    if row.state == "dead":
        parts.append(Text(_ADVICE.get(row.error_kind or "", _OTHER_ADVICE)))
        parts.append(Text(f"  nexusctl outbox retry {row.seq}", style="bold"))
        if row.op == "upsert" and row.collection != "vectors":
            parts.append(Text(f"  nexusctl {safe(row.collection)} get id={row.row_id}", style="bold"))
    elif row.attempts:
        parts.append(Text("It is tried again by itself; when its tries are used up it is a dead letter."))
    else:
        parts.append(Text("Nothing to do: it waits for its turn."))
    return Group(*parts)


def next_try(row: OutboxRow, now: int) -> str:
    """When it is tried, in words."""
    if row.state == "dead":
        return "never"
    if row.state == "inflight":
        return "under way"
    return "now" if row.not_before <= now else f"in {duration(row.not_before - now)}"


def retried(raw: bytes) -> RenderableType:
    """The answer of outbox.retry."""
    number = msgspec.json.decode(raw, type=RetriedOutbox).retried
    if not number:
        return Text("There are no dead letters.", style="green")
    queued = "is queued" if number == 1 else "are queued"
    return Text.assemble(
        ("✓ ", "green"), f"{count(number, 'dead letter')} {queued} again.", ("  nexusctl outbox watch", "dim")
    )


def status(raw: bytes) -> RenderableType:
    """The answer of outbox.status."""
    return progress(msgspec.json.decode(raw, type=WaitingRows))


def progress(now: WaitingRows, most: Mapping[str, int] | None = None) -> RenderableType:
    """How far the index is behind; with bars, where the most that was seen is given (of all under the name "")."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    if most is not None:
        grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    lines: dict[str, Backlog] = {**(dict.fromkeys(most or {}, Backlog())), **now.by_name, "": now}
    if len(lines) == 2:  # the only collection, and all: the same
        del lines[""]
    for name, one in sorted(lines.items(), key=lambda line: line[0] == ""):
        bars = [] if most is None else [_bar(one.depth, most.get(name, one.depth))]
        grid.add_row(safe(name) or "all", f"{one.depth:,}", *bars, _rest(one))
    pace = Text("empty: the index has all that it is owed", style="green")
    if now.depth:
        left = "no telling how long" if now.drain_estimate_ms is None else f"about {duration(now.drain_estimate_ms)}"
        pace = Text(f"{now.rows_per_second:,.0f} rows/s · {left} to go")
    breakers = Text()
    for name, state, why in (
        ("embedder", now.embedder, now.embedder_breaker), ("index", now.index, now.index_breaker),
    ):  # fmt: skip
        breakers.append(f"{name} " if name == "embedder" else f"\n{name} ", style="dim")
        breakers.append(_BREAKERS[state], style=STATE_STYLES[state])
        if state == "open" and why.retry_in_ms is not None:
            breakers.append(f" in {duration(why.retry_in_ms)}", style=STATE_STYLES[state])
        if state != "closed" and why.last_error:
            breakers.append(f": {excerpt(why.last_error, None, _CAUSE_CHARACTERS)}")
    return Group(grid, pace, breakers)


def _bar(depth: int, most: int) -> Text:
    """How much of the most that was seen has gone."""
    done = _BAR_WIDTH if not most else round(_BAR_WIDTH * (1 - min(1.0, depth / most)))
    return Text.assemble(("━" * done, "green"), ("─" * (_BAR_WIDTH - done), "bright_black"))


def _rest(backlog: Backlog) -> Text:
    waits = backlog.depth and backlog.oldest_age_ms is not None
    text = Text(f"oldest {duration(backlog.oldest_age_ms or 0)}" if waits else "", style="dim")
    if backlog.dead:
        text.append((" · " if waits else "") + f"{backlog.dead:,} given up", style="red")
    return text


def _name(row: OutboxRow) -> Text:
    text = Text.assemble(f"{safe(row.collection)} ", (f"#{row.row_id}", "cyan"))
    return text.append(" delete", style="dim") if row.op == "delete" else text


def _cause(row: OutboxRow) -> str:
    return ": ".join(part for part in (row.error_kind, row.error) if part)
