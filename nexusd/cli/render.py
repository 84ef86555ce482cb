"""What the commands show on a terminal.

Results in, rich renderables out. Owns the look; asks the daemon nothing and prints nothing. Stored
texts never pass as markup, and never raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.json import JSON
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from nexusd.cli.texts import age, count, duration, excerpt, highlights, safe, size, words
from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.memory import (
    Collection,
    EngineScore,
    HitExplanation,
    MemoryContext,
    MemoryHit,
    MemoryHits,
    MemoryRecord,
)
from nexusd.model.summaries import Summary

_USER_CHARACTERS = 240
_AI_CHARACTERS = 420  # about five lines of an 80-column terminal: enough to see whether this is the one
_BAR_WIDTH = 8
_STATE_STYLES = {
    "ok": "green", "ready": "green", "closed": "green", "indexed": "green",
    "idle": "dim", "pending": "yellow", "starting": "yellow", "stopping": "yellow", "degraded": "yellow",
    "half_open": "yellow", "late": "yellow", "open": "red", "unavailable": "red", "dead": "red",
}  # fmt: skip
_NOUNS: dict[Collection, str] = {
    "episodes": "episode", "entities": "entity", "summaries": "summary", "messages": "message",
}  # fmt: skip
_REASONS = {"recent": "recent turn", "summary": "so far", "hit": "found", "entity": "touched"}
_HELP_FOR_DEGRADED = {
    "index": "the vector index does not answer: found by words only",
    "embedder": "the embedding model does not answer: found by words only",
    "reranker": "the reranker did not answer in time: in the first order",
}


def document(raw: bytes) -> RenderableType:
    """Any result, as indented JSON."""
    return JSON(safe(raw.decode()), indent=2)


def added(episode: Episode, session: str) -> RenderableType:
    """What `add` did."""
    return Text.assemble(
        ("✓ ", "green"), "episode ", (f"#{episode.id}", "bold cyan"), " in session ", (safe(session), "bold"),
        ("  vector ", "dim"), _state(episode.vector),
    )  # fmt: skip


def hits(found: MemoryHits, query: str, now_ms: int) -> RenderableType:
    """The answer of a search, best first."""
    pattern = highlights(words(query))
    parts: list[RenderableType] = []
    best = max((hit.score for hit in found.items), default=0.0)
    for place, hit in enumerate(found.items, start=1):
        if place > 1:
            parts.append(Text(""))
        head = _hit_head(place, hit, best, now_ms)
        title, body = _title_and_body(hit.record)
        shown = (
            Text(excerpt(title, pattern, _USER_CHARACTERS), style="bold"),
            Text(excerpt(body, pattern, _AI_CHARACTERS)),
        )
        lines: list[RenderableType] = [head]
        for text in shown:
            if text.plain:
                if pattern is not None:
                    text.highlight_regex(pattern, "black on yellow")
                lines.append(Padding(text, (0, 0, 0, 4)))
        if hit.explain is not None:
            explained = Text("    ", style="dim")
            explained.append_text(_engine("words", hit.explain.keyword))
            explained.append("   ")
            explained.append_text(_engine("meaning", hit.explain.semantic))
            explained.append(_further_parts(hit.explain))
            lines.append(explained)
        parts.extend(lines)
    if not found.items:
        parts.append(Text("Nothing found.", style="dim"))
    parts.extend(_degraded(found.degraded))
    parts.extend(_cut_off(found.truncated))
    if found.explain is not None:
        why = found.explain
        parts.append(Text(""))
        parts.append(
            Text(
                f"{count(why.keyword_candidates, 'candidate')} by words in {_ms(why.keyword_us)}, "
                f"{why.semantic_candidates:,} by meaning in {_ms(why.semantic_us)}, "
                f"embedding {_ms(why.embed_us)}, together {_ms(why.total_us)}",
                style="dim",
            )
        )
        if why.terms or why.dropped_terms:
            terms = Text("words: ", style="dim")
            terms.append(safe(" ".join(why.terms)) or "none")
            if why.dropped_terms:
                terms.append(f"   left out: {safe(' '.join(why.dropped_terms))}")
            parts.append(terms)
    return Group(*parts)


def context(package: MemoryContext, now_ms: int) -> RenderableType:
    """A context package: its text between two rules, then what it is made of."""
    title = f"{package.tokens:,} of {package.token_budget:,} tokens"
    parts: list[RenderableType] = [
        Rule(title, style="dim", align="left"),
        Text(safe(package.text).rstrip()) if package.text else Text("Nothing to say.", style="dim"),
        Rule(style="dim"),
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("memory", style="cyan", no_wrap=True)
    table.add_column("why")
    table.add_column("tokens", justify="right")
    table.add_column("score", justify="right")
    table.add_column("when", no_wrap=True)
    mixed = any(item.collection != "episodes" for item in (*package.items, *package.left_out))
    for item, style in [*((i, "") for i in package.items), *((i, "dim") for i in package.left_out)]:
        reason = _REASONS.get(item.reason, item.reason)
        table.add_row(
            f"{_NOUNS[item.collection]} #{item.id}" if mixed else f"#{item.id}",
            Text(reason if not style else f"{reason}, no room", style=style),
            f"{item.tokens:,}",
            "" if item.score is None else f"{item.score:.2f}",
            age(item.created_at, now_ms),
            style=style,
        )
    if table.row_count:
        parts.append(table)
    parts.extend(_degraded(package.degraded))
    parts.extend(_cut_off(package.truncated))
    return Group(*parts)


def status(report: Mapping[str, Any]) -> RenderableType:
    """How the daemon is. Shows what the report has: an older or newer daemon may say less or more."""
    head = Text.assemble(("nexusd ", "bold"), (safe(str(report.get("version", "?"))), "bold"))
    if "state" in report:
        head.append(" · ").append_text(_state(report["state"]))
    if "uptimeMs" in report:
        head.append(f" · up {duration(report['uptimeMs'])}")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    renderers = {
        "health": _health, "database": _database, "outbox": _outbox, "index": _index, "embedder": _embedder,
        "reranker": _reranker, "server": _server, "backups": _backups, "settings": _settings, "log": _log,
    }  # fmt: skip
    for name, renderer in renderers.items():
        part = report.get(name)
        if isinstance(part, Mapping):
            grid.add_row(name, renderer(part))
    troubled = [_task(task) for task in report.get("tasks") or () if _is_troubled(task)]
    if troubled:
        grid.add_row("tasks", _joined(troubled))
    if report.get("processes"):
        grid.add_row("memory", _joined(_process(process) for process in report["processes"]))
    return Group(head, Text(""), grid)


def reloaded(report: Mapping[str, Any]) -> RenderableType:
    """What a reload did."""
    changed, waiting = ([safe(str(name)) for name in report.get(key) or ()] for key in ("changed", "needsRestart"))
    lines = [Text.assemble(("✓ ", "green"), f"changed: {', '.join(changed)}" if changed else "nothing changed")]
    if waiting:
        lines.append(Text(f"needs a restart: {', '.join(waiting)}", style="yellow"))
    return Group(*lines)


def _is_troubled(task: Mapping[str, Any]) -> bool:
    return bool(task.get("restarts")) or task.get("state", "running") != "running"


def _task(part: Mapping[str, Any]) -> str:
    restarts = f", restarted {count(part['restarts'], 'time')}" if part.get("restarts") else ""
    return f"{part.get('name', '?')} {part.get('state', '?')}{restarts}"


def _process(part: Mapping[str, Any]) -> str:
    return f"{part.get('name', '?')} {size(part.get('residentBytes', 0))} (pid {part.get('pid', '?')})"


def _health(part: Mapping[str, Any]) -> Text:
    text = _state(part.get("status", "?"))
    for reason in part.get("reasons") or ():
        text.append(f"\n{safe(str(reason))}", style="yellow")
    return text


def _backups(part: Mapping[str, Any]) -> Text:
    made_ms = part.get("newestAgeMs")
    told = "none yet" if made_ms is None else f"{part.get('count', 0):,} · the newest {duration(made_ms)} old"
    return Text(told if part.get("enabled", True) else f"{told} · none made by itself")


def _settings(part: Mapping[str, Any]) -> Text:
    text = Text(safe(str(part.get("file") or "defaults and environment")))
    if part.get("reloads"):
        text.append(f" · reloaded {count(part['reloads'], 'time')}")
    if part.get("needsRestart"):
        text.append(f"\nneeds a restart: {', '.join(safe(str(name)) for name in part['needsRestart'])}", style="yellow")
    if part.get("refusal"):
        text.append(f"\nrefused: {safe(str(part['refusal']))}", style="red")
    return text


def _log(part: Mapping[str, Any]) -> Text:
    text = Text(safe(str(part.get("output", "?"))))
    if part.get("dropped"):
        text.append(f" · {count(part['dropped'], 'entry', 'entries')} lost", style="red")
    return text


def _database(part: Mapping[str, Any]) -> Text:
    text = Text(safe(str(part.get("path", ""))))
    figures = []
    if "episodes" in part:
        figures.append(count(part["episodes"], "episode"))
    if "sessions" in part:
        figures.append(count(part["sessions"], "session"))
    if "bytes" in part:
        wal = part.get("walBytes")
        figures.append(size(part["bytes"]) + (f" + {size(wal)} WAL" if wal else ""))
    if "schema" in part:
        figures.append(f"schema {part['schema']}")
    text.append("\n").append_text(_joined(figures))
    if part.get("readOnly"):
        text.append("\nread-only: no room, or the disk refuses writes", style="red")
    return text


def _outbox(part: Mapping[str, Any]) -> Text:
    waiting = part.get("pending", 0) + part.get("inflight", 0)
    if not waiting and not part.get("dead"):
        text = Text("empty: everything is indexed", style="green")
    else:
        text = _joined([count(waiting, "row") + " to index"])
    if part.get("dead"):
        text.append(f" · {part['dead']:,} given up", style="red")
    if waiting and part.get("oldestAgeMs") is not None:
        text.append(f" · oldest {duration(part['oldestAgeMs'])}")
    if waiting and part.get("drainEstimateMs") is not None:
        text.append(f" · about {duration(part['drainEstimateMs'])} to go")
    for name in ("embedder", "index"):
        if part.get(name, "closed") != "closed":
            text.append(f" · not calling the {name} for now", style="yellow")
    return text


def _index(part: Mapping[str, Any]) -> Text:
    text = Text(safe(str(part.get("backend", "?"))))
    if "available" in part:
        text.append(" · ").append_text(_state("ready" if part["available"] else "unavailable"))
    points = part.get("points")
    if isinstance(points, Mapping):
        points = sum(points.values())
    if points is not None:
        text.append(f" · {count(points, 'point')}")
    if part.get("rebuilding"):
        text.append(" · building a faster one", style="yellow")
    return _with_detail(text, part)


def _embedder(part: Mapping[str, Any]) -> Text:
    text = Text(safe(f"{part.get('provider', '?')} · {part.get('model', '?')}"))
    if "dimension" in part:
        text.append(f" · {part['dimension']} dimensions")
    if "state" in part:
        text.append(" · ").append_text(_state(part["state"]))
    return _with_detail(text, part)


def _reranker(part: Mapping[str, Any]) -> Text:
    text = Text(safe(" · ".join(str(part[name]) for name in ("provider", "model") if part.get(name))))
    if "state" in part:
        text.append(" · ").append_text(_state(part["state"]))
    if part.get("calls"):
        text.append(f" · in time for {part.get('inTime', 0):,} of {count(part['calls'], 'search', 'searches')}")
    return _with_detail(text, part)


def _server(part: Mapping[str, Any]) -> Text:
    addresses = [safe(str(part[name])) for name in ("socket", "tcp") if part.get(name)]
    figures = [count(part["connections"], "connection")] if "connections" in part else []
    faults = 0
    if isinstance(methods := part.get("methods"), Mapping):
        calls, errors, faults = (
            sum(method.get(name, 0) for method in methods.values()) for name in ("calls", "errors", "faults")
        )
        figures += [count(calls, "request"), f"{errors - faults:,} refused"]
    lines = [line for line in (_joined(addresses), _joined(figures)) if line.plain]
    if faults:  # those are ours; what was refused is the callers' business
        lines[-1].append(f" · {count(faults, 'internal error')}, see the log", style="red")
    return Text("\n").join(lines)


def _with_detail(text: Text, part: Mapping[str, Any]) -> Text:
    if part.get("restarts"):
        text.append(f" · restarted {count(part['restarts'], 'time')}", style="yellow")
    if part.get("detail"):
        text.append(f"\n{safe(str(part['detail']))}", style="dim")
    return text


def _hit_head(place: int, hit: MemoryHit, best: float, now_ms: int) -> Text:
    filled = round(_BAR_WIDTH * hit.score / best) if best > 0 else 0
    filled = min(_BAR_WIDTH, max(0, filled))
    head = Text.assemble(
        (f"{place:>2}  ", "bold"),
        ("━" * filled, "green"), ("─" * (_BAR_WIDTH - filled), "bright_black"),
        (f" {hit.score:.2f}", "green"),
        (f"  {age(hit.record.created_at, now_ms)}", "dim"),
        (f"  {_NOUNS[hit.collection]} ", "dim"), (f"#{hit.id}", "cyan"),
    )  # fmt: skip
    if isinstance(hit.record, Episode | Summary):
        head.append("  session ", style="dim").append(f"#{hit.record.session_id}", style="cyan")
    elif not isinstance(hit.record, Entity):
        head.append("  conversation ", style="dim").append(f"#{hit.record.conversation_id}", style="cyan")
    if hit.record.vector != "indexed":
        head.append("  vector ", style="dim").append_text(_state(hit.record.vector))
    return head


def _title_and_body(record: MemoryRecord) -> tuple[str, str]:
    """What stands out of a hit, and what follows in plain; either may be empty."""
    if isinstance(record, Episode):
        return record.user_message, record.ai_response
    if isinstance(record, Entity):
        return f"{record.name} ({record.type})", record.notes or ""
    if isinstance(record, Summary):
        return "", record.content
    return record.role, record.content


def _further_parts(explain: HitExplanation) -> str:
    """What made a score beside the engines, as far as it did anything."""
    added = {"neighbours": explain.neighbours, "session": explain.session, "time": explain.time}
    factors = {"weight": explain.weight, "recency": explain.recency}
    parts = [f"{name}: {part:+.2f}" for name, part in added.items() if part]
    parts += [f"{name}: times {factor:.2f}" for name, factor in factors.items() if factor != 1]
    parts += [f"reranked: {explain.reranked:.2f}"] if explain.reranked is not None else []
    return "".join(f"   {part}" for part in parts)


def _engine(name: str, score: EngineScore | None) -> Text:
    if score is None:
        return Text(f"{name}: not found")
    # A raw bm25 of a small store is far below what two places show.
    raw = f"{score.score:.2f}" if score.score >= 0.01 else "<0.01"
    return Text(f"{name}: rank {score.rank}, {raw} → {score.normalised:.2f}")


def _degraded(parts: list[Any]) -> list[RenderableType]:
    return [Text(f"! {_HELP_FOR_DEGRADED.get(part, part)}", style="yellow") for part in parts]


def _cut_off(truncated: bool) -> list[RenderableType]:
    return [Text("! further hits were left out: the texts are too long", style="yellow")] if truncated else []


def _state(state: str) -> Text:
    return Text(safe(str(state)), style=_STATE_STYLES.get(state, ""))


def _joined(parts: Any) -> Text:
    return Text(" · ".join(safe(str(part)) for part in parts))


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.1f} ms"
