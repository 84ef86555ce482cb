"""The account of an import is one for every kind of file: the same fields for programs, the same words for people."""

from __future__ import annotations

import json

import msgspec

from nexusd.cli.import_report import ImportReport, describe_report


def older() -> ImportReport:
    report = ImportReport(file="old.db", kinds=["memory service", "storage core"], embeddings_left_out=2)
    table = report.table("episodes", 5)
    for outcome in ("inserted", "inserted", "existing"):
        table.count(outcome, new_id=outcome == "inserted")
    report.refuse(table, 50, "no session\x1b[2J")
    report.refuse(table, b"\xff", "no text")
    return report


def test_programs_find_what_became_of_each_table_and_each_row_that_was_not_taken() -> None:
    assert json.loads(msgspec.json.encode(older())) == {
        "file": "old.db", "kinds": ["memory service", "storage core"], "dryRun": False, "vectors": False,
        "tables": [{
            "table": "episodes", "rows": 5, "inserted": 2, "existing": 1, "updated": 0, "kept": 0, "refused": 2,
            "newIds": 2,
        }],
        "refusals": [
            {"table": "episodes", "id": 50, "reason": "no session\x1b[2J"},
            {"table": "episodes", "id": "b'\\xff'", "reason": "no text"},
        ],
        "conflicts": [], "embeddingsLeftOut": 2,
    }  # fmt: skip


def test_people_read_it_and_nothing_in_a_reason_reaches_their_terminal() -> None:
    first, table, left_out, refused, *_, last = describe_report(older()).splitlines()
    assert first == "memory service and storage core: old.db"
    assert table == "  episodes  2 taken, 2 of them under a new id, 1 were here already, 2 not taken"
    assert left_out == "embeddings that do not fit: 2; their texts are embedded anew"
    assert refused.startswith("not taken: episodes 50: no session")
    assert "\x1b" not in refused
    assert last.startswith("What was taken is found by words at once")


def test_a_dry_run_says_what_would_be_and_names_lines_as_far_as_they_can_be_read() -> None:
    report = ImportReport(file="a.jsonl", kinds=["export"], dry_run=True, conflicts=list(range(2, 27)))
    table = report.table("sessions", 1002)
    for outcome in ["new"] * 1000 + ["updated", "kept"]:
        table.count(outcome, new_id=False)
    for line in range(25):
        report.refuse(table, None, "why", line + 2)
    told = describe_report(report).splitlines()
    assert told[0] == "export: a.jsonl (dry run: nothing was written)"
    assert told[1] == (
        "  sessions  1,000 would be taken, 1 would be changed, 1 say something else here and stay, 25 not taken"
    )
    assert told[2] == f"different here: lines {', '.join(map(str, range(2, 22)))} and 5 more"
    assert told[3] == "not taken: line 2, sessions: why"
    assert told[-1] == "... and 5 more; --json lists all"
