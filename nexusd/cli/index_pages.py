"""The index beside the rows as people see it: a comparison, a change of the model, how things stand.

Results in, rich renderables out. Owns the words for what differs and what to do about it. Asks the daemon nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexusd.cli.invocation import now_ms
from nexusd.cli.texts import age, count, duration, safe
from nexusd.model.index import CollectionReport, IndexReport, IndexState, Mended, ModelInfo, ReembedProgress

SAME_MODEL = 0.98   # the same weights on another processor differ by less
_SHOWN_IDS = 5
_POINTS = {
    "missing": "missing", "stale": "of an earlier version", "orphaned": "without a row",
    "foreign": "of another database or model", "duplicated": "met twice",
}  # fmt: skip
_VECTORS = {
    "missing": "missing", "outdated": "of an earlier text", "wrong_model": "of another model",
    "orphaned": "without a row",
}  # fmt: skip


def report(raw: bytes) -> RenderableType:
    """The answer of index.verify and index.repair."""
    return compared(msgspec.json.decode(raw, type=IndexReport))


def compared(found: IndexReport) -> RenderableType:
    """A comparison: a line a collection, and in a sentence what to do."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("collection", no_wrap=True)
    for name in ("rows", "points", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("found")
    for one in found.collections:
        table.add_row(safe(one.collection), f"{one.rows:,}", f"{one.points:,}", f"{one.queued:,}", _verdict(one))
    parts: list[RenderableType] = [table] if found.collections else []
    parts.append(_sentence(found))
    if found.mended is not None and found.agrees is not None:
        parts.append(_mended(found.mended))
    if found.model_similarity is not None and found.model_similarity < SAME_MODEL:
        said = (
            f"! The embedding model gives other vectors than before (similarity {found.model_similarity:.2f}): other"
            " weights under the same name. nexusctl index reembed --force embeds everything with them."
        )
        parts.append(Text(said, style="yellow"))
    return Group(*parts)


def differences(one: CollectionReport) -> Iterator[str]:
    """What differs in a collection, in words, with some of the ids."""
    for name, words in _POINTS.items():
        if number := getattr(one, name):
            ids = one.examples.get(name, [])[:_SHOWN_IDS]
            shown = ", ".join(f"#{id_}" for id_ in ids) + (", …" if number > len(ids) else "")
            yield f"{count(number, 'point')} {words}" + (f" ({shown})" if ids else "")
    for name, words in _VECTORS.items():
        if number := getattr(one.vectors, name):
            yield f"{count(number, 'stored vector')} {words}"
    if (text := one.full_text) is not None:
        if text.missing:
            yield f"{count(text.missing, 'row')} not in the search by words"
        if text.orphaned:
            yield f"{count(text.orphaned, 'entry', 'entries')} of the search by words without a row"
        if text.sound is False:
            yield "the search by words has other words than the rows"


def _verdict(one: CollectionReport) -> Text:
    text = Text("\n").join(Text(safe(line), style="red") for line in differences(one))
    if one.dead:
        text = Text("\n").join([*([text] if text.plain else []), Text(f"{one.dead:,} given up", style="yellow")])
    if not text.plain:
        text = Text("agrees", style="green")
    return text.append(f"\n{one.unindexed:,} left out on purpose", style="dim") if one.unindexed else text


def _sentence(found: IndexReport) -> Text:
    if found.state == "running":
        said = f"The comparison is under way: {found.checked:,} of {count(found.total, 'row')}."
        return Text(f"{said} nexusctl index status", style="yellow")
    if found.state == "failed":
        return Text(f"✗ The comparison broke off: {safe(found.error or 'nobody knows why')}", style="red")
    took = "" if found.finished_at is None else f" in {_seconds(found.finished_at - found.started_at)}"
    head = f"{count(found.checked, 'row')} compared{took}"
    if found.agrees:
        waiting = sum(one.queued for one in found.collections)
        still = f" What waits in the outbox ({waiting:,}) is no difference." if waiting else ""
        if dead := sum(one.dead for one in found.collections):
            said = f"The index agrees with the rows, but for {count(dead, 'row')} given up: {head}.{still}"
            return Text.assemble(("! ", "yellow"), said, (" nexusctl outbox list --state dead", "bold"))
        return Text.assemble(("✓ ", "green"), f"The index agrees with the rows: {head}.{still}")
    if found.mended is None:
        mend = " nexusctl index repair mends it."
        return Text.assemble(("✗ ", "red"), f"The index differs from the rows: {head}.", (mend, "bold"))
    return Text.assemble(("! ", "yellow"), f"The index differed from the rows: {head}.")


def _mended(mended: Mended) -> Text:
    done = []
    if mended.upserts_queued:
        done.append(f"{count(mended.upserts_queued, 'row')} queued to be sent")
    if mended.deletes_queued:
        done.append(f"{count(mended.deletes_queued, 'point')} queued to be removed")
    if mended.full_text_rows:
        done.append(f"{count(mended.full_text_rows, 'row')} of the search by words put right")
    if mended.full_text_rebuilt:
        done.append(f"the search by words made anew for {', '.join(map(safe, mended.full_text_rebuilt))}")
    if mended.vectors_forgotten:
        done.append(f"{count(mended.vectors_forgotten, 'stored vector')} forgotten")
    if not done:
        return Text("There was nothing to mend.", style="dim")
    follow = mended.upserts_queued or mended.deletes_queued
    rest = " The outbox does the rest: nexusctl outbox watch" if follow else ""
    return Text(f"Mended: {', '.join(done)}.{rest}")


def reembedding(raw: bytes) -> RenderableType:
    """The answer of index.reembed."""
    return changing(msgspec.json.decode(raw, type=ReembedProgress))


def changing(progress: ReembedProgress) -> RenderableType:
    """How a change of the embedding model stands, in a sentence or two."""
    serving, coming = named(progress.serving), "the next model" if progress.next is None else named(progress.next)
    if progress.state == "idle":
        return Text(f"{serving} serves, and no other model is on its way.")
    if progress.state == "failed":
        said = f"✗ The change to {coming} has stopped: {safe(progress.detail) or 'nobody knows why'}. "
        again = ("nexusctl index reembed", "bold")
        return Text.assemble((said, "red"), f"{serving} serves as before. ", again, " goes on with it.")
    dead = f" {count(progress.dead, 'row')} could not be embedded." if progress.dead else ""
    if progress.state == "swapped":
        return Text.assemble(("✓ ", "green"), f"{serving} serves now.{dead}")
    step = {"filling": "its rows are being queued", "comparing": "its collections are being compared with the rows"}
    said = step.get(progress.state, f"{progress.done:,} of {count(progress.total, 'row')} embedded")
    pace = f" at {progress.rows_per_second:,.0f} rows/s" if progress.rows_per_second else ""
    left = "" if progress.estimate_ms is None else f", about {duration(progress.estimate_ms)} to go"
    return Text(f"{serving} serves while {coming} is made ready: {said}{pace}{left}.{dead}")


def named(model: ModelInfo) -> str:
    """A model by what people call it."""
    return safe(f"{model.provider} {model.model} ({model.dimension})")


def status(raw: bytes) -> RenderableType:
    """The answer of index.status."""
    found = msgspec.json.decode(raw, type=IndexState)
    now = now_ms()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    whole = Text("complete", "green") if found.complete else Text("not complete yet: searches may miss rows", "yellow")
    grid.add_row("index", Text(f"{found.backend} · ").append_text(whole))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("collection", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("stands in", no_wrap=True, overflow="ellipsis")
    for one in found.collections:
        points = "?" if one.points is None else f"{one.points:,}"
        table.add_row(safe(one.collection), f"{one.rows:,}", points, Text(safe(one.physical), style="dim"))
    grid.add_row("", table)
    grid.add_row("model", changing(found.reembed))
    for model in found.kept:
        grid.add_row("kept", kept(model, now))
    grid.add_row("compared", _last(found, now))
    if found.dropped_hits:
        dropped = f"{count(found.dropped_hits, 'hit')} without a row left out of answers: nexusctl index verify"
        grid.add_row("hits", Text(dropped, style="yellow"))
    return grid


def kept(model: ModelInfo, now: int) -> str:
    """A model that serves no more."""
    if model.keep_until is None:
        until = "until it is told to go"
    else:
        until = "about to go" if model.keep_until <= now else f"for another {duration(model.keep_until - now)}"
    return f"{named(model)} · {until} · nexusctl index forget {safe(model.key)}"


def _last(found: IndexState, now: int) -> RenderableType:
    job = found.job
    if job is not None and job.state == "running":
        share = f"{job.checked:,} of {count(job.total, 'row')}"
        return Text(f"{job.job} under way: {share}", style="yellow")
    last = found.last_verify
    if last is None:
        return Text("not yet: nexusctl index verify", style="dim")
    when = age(last.finished_at or last.started_at, now)
    if last.state == "failed":
        return Text(f"{when}, broke off: {safe(last.error or 'nobody knows why')}", style="red")
    if last.agrees:
        return Text(f"{when}, agreed", style="green")
    if last.mended is not None:
        return Text(f"{when}, differed and was mended", style="yellow")
    return Text(f"{when}, differed: nexusctl index repair", style="red")


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else duration(milliseconds)

