"""scripts/bench recall FILE: how much of the labelled evidence a search brings back, beside how long it takes.

FILE is a JSON list of conversations: [{"id", "sessions": [{"id", "episodes": [{"user", "assistant", "createdAt"}]}],
"questions": [{"q", "category", "evidence": [[session, episode], ...]}]}], places counted from 0. A conversation
becomes a project of a fresh store, with the built-in model. Questions of category 5 have no answer and stay out. R@k
is the share of the evidence among the first k hits, MRR the reciprocal rank of the first, each averaged over the
questions. A report (--json) keeps them for each question, so that two can be compared: --against, or `scripts/bench
compare`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paired
from daemon import MeasuredDaemon, running

DEPTHS = (5, 10, 20)
BUDGETS = (1000, 2000, 4000)
UNANSWERABLE = 5
TCP_OFF = {"NEXUSD_SERVER__TCP__ENABLED": "false"}


def main(arguments: list[str]) -> None:
    """Store the conversations, ask every question in every way, print the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench recall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="the conversations")
    parser.add_argument("--json", type=Path, help="write the figures there too, with those of each question")
    parser.add_argument("--against", type=Path, metavar="REPORT", help="compare with an earlier --json")
    given = parser.parse_args(arguments)
    earlier = None if given.against is None else json.loads(given.against.read_text())
    if earlier is not None:
        paired.check(earlier)       # before minutes are spent
    conversations = json.loads(given.file.read_text())
    with tempfile.TemporaryDirectory(prefix="nexusd-recall-") as work, running(Path(work), **TCP_OFF) as daemon:
        ids = [_store(daemon, conversation) for conversation in conversations]
        daemon.wait_until(lambda: not daemon.call("outbox.list", limit=1)["items"])
        print(f"{sum(map(len, ids))} exchanges, every part beside its 95% interval of the questions\n")
        heads = "".join(f"R@{depth:<14}" for depth in DEPTHS)
        print(f"{'':30}{heads}MRR             ms p50 (beside embedding)  p99")
        ways: dict[str, dict[str, Any]] = {}
        for name, params in (
            ("hybrid, each conversation", {"mode": "hybrid"}),
            ("hybrid, all conversations", {"mode": "hybrid", "pooled": True}),
            ("words, each conversation", {"mode": "keyword"}),
            ("meaning, each conversation", {"mode": "semantic"}),
        ):
            ways[name] = _measure(daemon, conversations, ids, name, **params)
        print()
        for budget in BUDGETS:
            inside = _in_context(daemon, conversations, ids, budget)
            share = statistics.fmean(inside)
            ways[f"context of {budget} tokens"] = {
                "figures": {"evidence inside": 100 * share}, "each": {"evidence inside": inside},
            }
            print(f"all evidence inside a context of {budget:>5} tokens: {share:5.1%} of the questions")
    report = {"questions": _named(conversations), "ways": ways}
    if given.json:
        given.json.write_text(json.dumps(report) + "\n")
    if earlier is not None:
        print("\n" + "\n".join(paired.compared(earlier, report)))


def _store(daemon: MeasuredDaemon, conversation: dict[str, Any]) -> dict[tuple[int, int], int]:
    """The ids of the conversation's exchanges by their places."""
    project = daemon.call("projects.create", name=str(conversation["id"]))["id"]
    ids: dict[tuple[int, int], int] = {}
    for number, session in enumerate(conversation["sessions"]):
        name = f"{conversation['id']}-{session['id']}"
        session_id = daemon.call("sessions.create", externalId=name, projectId=project)["id"]
        items = [
            {"sessionId": session_id, "userMessage": each["user"], "aiResponse": each["assistant"],
             "createdAt": each["createdAt"]}
            for each in session["episodes"]
        ]
        made: list[dict[str, Any]] = []
        for start in range(0, len(items), 100):
            made += daemon.call("episodes.createMany", items=items[start : start + 100])["items"]
        ids |= {(number, place): episode["id"] for place, episode in enumerate(made)}
    conversation["project"] = project
    return ids


def _named(conversations: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The questions in the order in which they are asked."""
    return [
        {"conversation": str(conversation["id"]), "question": question["q"]}
        for conversation in conversations
        for question in conversation["questions"]
        if question["category"] != UNANSWERABLE
    ]


def _questions(
    conversations: list[dict[str, Any]], ids: list[dict[tuple[int, int], int]]
) -> Iterator[tuple[str, dict[str, int], set[int]]]:
    """Each question, its filter, and the ids of its evidence."""
    for conversation, of_it in zip(conversations, ids, strict=True):
        for question in conversation["questions"]:
            if question["category"] != UNANSWERABLE:
                evidence = {of_it[session, episode] for session, episode in question["evidence"]}
                yield question["q"], {"projectId": conversation["project"]}, evidence


def _measure(
    daemon: MeasuredDaemon,
    conversations: list[dict[str, Any]],
    ids: list[dict[tuple[int, int], int]],
    name: str,
    *,
    mode: str,
    pooled: bool = False,
) -> dict[str, Any]:
    rows: list[list[float]] = []
    took_ms: list[float] = []
    beside_ms: list[float] = []
    for query, where, evidence in _questions(conversations, ids):
        began = time.perf_counter()
        answer = daemon.call(
            "memory.search", query=query, mode=mode, limit=max(DEPTHS), collections=["episodes"], explain=True,
            filter={} if pooled else where,
        )
        took_ms.append((time.perf_counter() - began) * 1e3)
        beside_ms.append((answer["explain"]["totalUs"] - answer["explain"]["embedUs"]) / 1e3)
        hits = [hit["id"] for hit in answer["items"]]
        first = next((place for place, id_ in enumerate(hits, 1) if id_ in evidence), None)
        rows.append([
            *(len(evidence & set(hits[:depth])) / len(evidence) for depth in DEPTHS), 1 / first if first else 0.0,
        ])
    names = [*(f"R@{depth}" for depth in DEPTHS), "MRR"]
    columns = list(zip(*rows, strict=True))
    means = [100 * statistics.fmean(column) for column in columns]
    margins = [196 * statistics.stdev(column) / len(column) ** 0.5 for column in columns]
    median, beside = statistics.median(took_ms), statistics.median(beside_ms)
    slow = statistics.quantiles(took_ms, n=100)[98]
    print(
        f"{name:30}" + "".join(f"{mean:5.1f} ± {margin:<8.1f}" for mean, margin in zip(means, margins, strict=True))
        + f"{median:6.1f} ({beside:.1f})            {slow:6.1f}",
        flush=True,
    )
    times = {"p50Ms": median, "p50MsBesideEmbedding": beside, "p99Ms": slow}
    return {"figures": dict(zip(names, means, strict=True)) | times, "each": dict(zip(names, columns, strict=True))}


def _in_context(
    daemon: MeasuredDaemon,
    conversations: list[dict[str, Any]],
    ids: list[dict[tuple[int, int], int]],
    budget: int,
) -> list[float]:
    """Of each question whether its evidence all lies, whole, inside the context."""
    inside = []
    for query, where, evidence in _questions(conversations, ids):
        package = daemon.call("memory.context", query=query, tokenBudget=budget, filter=where)
        whole = {
            item["id"] for item in package["items"] if item["collection"] == "episodes" and not item.get("trimmed")
        }
        inside.append(float(evidence <= whole))
    return inside
