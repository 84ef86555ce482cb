"""The audit trail: bounded where strangers can write it."""

from __future__ import annotations

import structlog
from fakes.clock import ManualClock

from nexusd.wire.audit import MAX_ENTRIES_A_SECOND, Audit


def test_of_refusals_a_second_has_only_so_many_and_the_next_says_how_many_were_left_out() -> None:
    clock = ManualClock()
    with structlog.testing.capture_logs() as entries:
        audit = Audit(clock)
        for _ in range(MAX_ENTRIES_A_SECOND + 5):
            audit.refused("token not accepted", principal="ip:10.0.0.1", peer="ip:10.0.0.1")
        clock.advance(1)
        audit.refused("token not accepted", principal="ip:10.0.0.1", peer="ip:10.0.0.1")
    assert [entry["event"] for entry in entries] == [
        *["refused"] * MAX_ENTRIES_A_SECOND, "audit entries left out", "refused",
    ]
    assert entries[-2]["count"] == 5


def test_what_admins_do_is_never_left_out() -> None:
    with structlog.testing.capture_logs() as entries:
        audit = Audit(ManualClock())
        for number in range(MAX_ENTRIES_A_SECOND * 3):
            audit.admin_call(
                principal="uid:0", peer="uid:0", method="system.reload", request_id=str(number), outcome="ok"
            )
    assert len(entries) == MAX_ENTRIES_A_SECOND * 3
