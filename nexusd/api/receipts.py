"""Makes the receipt under which the store remembers a mutating call.

Owns what counts as "the same call": method, principal and every parameter, except the key itself and how
long to wait for the index, which changes nothing that is stored.
"""

from __future__ import annotations

import hashlib

import msgspec

from nexusd.model.fields import Mutation, Wait
from nexusd.store.idempotency import Receipt
from nexusd.wire.methods import Call


def receipt_for(call: Call, method: str, params: Mutation) -> Receipt | None:
    """The receipt of this call, or None when the caller gave no idempotencyKey."""
    if params.idempotency_key is None:
        return None
    bare = msgspec.structs.replace(params, idempotency_key=None)
    if isinstance(bare, Wait):
        bare = msgspec.structs.replace(bare, wait_for=None, timeout_ms=1)
    # Metadata is a dict: sorted, the order in which a client writes its keys makes no other call of it.
    body = msgspec.json.encode(bare, order="deterministic")
    return Receipt(
        key=params.idempotency_key,
        principal=call.principal.name,
        method=method,
        parameters_hash=hashlib.sha256(body).digest(),
    )
