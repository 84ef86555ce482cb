"""The audit trail: who came in, who was refused, what admins did. Entries of the log, with fields.

Owns which entries there are and how many a second: whoever is refused a thousand times a second must not push
everything else out of the journal. Never holds a token, a parameter or a text.
"""

from __future__ import annotations

from typing import Any

import structlog

from nexusd.clock import Clock

MAX_ENTRIES_A_SECOND = 20   # of the kinds that strangers can cause


class Audit:
    """Writes the trail."""

    def __init__(self, clock: Clock, log: Any = None) -> None:
        self._clock = clock
        self._log = log if log is not None else structlog.get_logger("nexusd.audit")
        self._second = -1.0
        self._written = 0
        self._left_out = 0

    def logged_in(self, *, principal: str, peer: str, role: str, way: str) -> None:
        """A token was accepted."""
        if self._has_room():
            self._log.info("logged in", principal=principal, peer=peer, role=role, way=way)

    def trusted(self, *, principal: str, peer: str, network: str, role: str) -> None:
        """Somebody came in without a token, because of where they are."""
        if self._has_room():
            self._log.info("let in without a token", principal=principal, peer=peer, network=network, role=role)

    def refused(self, reason: str, *, principal: str, peer: str, method: str | None = None) -> None:
        """Somebody was not let in, or not let do something."""
        if self._has_room():
            self._log.warning("refused", reason=reason, principal=principal, peer=peer, method=method)

    def admin_call(self, *, principal: str, peer: str, method: str, request_id: str, outcome: str) -> None:
        """A call that needs the role admin ended: `ok`, or the kind of its error."""
        self._log.info("admin call", principal=principal, peer=peer, method=method, request_id=request_id,
                       outcome=outcome)

    def token_created(self, *, principal: str, peer: str, id_: str, name: str, role: str) -> None:
        """There is one more token."""
        self._log.info("token created", principal=principal, peer=peer, id=id_, name=name, role=role)

    def token_revoked(self, *, principal: str, peer: str, id_: str, name: str) -> None:
        """There is one less."""
        self._log.info("token revoked", principal=principal, peer=peer, id=id_, name=name)

    def _has_room(self) -> bool:
        """Whether this second takes another entry; says how many were left out, in the first one that does."""
        now_s = self._clock.monotonic_s()
        if now_s - self._second >= 1.0:
            if self._left_out:
                self._log.warning("audit entries left out", count=self._left_out)
            self._second, self._written, self._left_out = now_s, 0, 0
        self._written += 1
        if self._written > MAX_ENTRIES_A_SECOND:
            self._left_out += 1
            return False
        return True
