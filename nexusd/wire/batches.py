"""A batch of requests -> one reply.

Owns the order, and the ends that a batch has as a whole: how long it may take and how much memory its replies may
have. Knows no method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Raw

from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy, RpcError, TooLarge
from nexusd.wire.envelope import NO_ID, Refused, Request
from nexusd.wire.replies import encode, error_reply

RETRY_MS = 1000
Answer = bytes | None


async def answer_batch(
    batch: Sequence[Request | Refused],
    limits: LimitsConfig,
    begin: Callable[[Request], Answer | Awaitable[Answer]],
    next_id: Callable[[], str],
) -> Answer:
    """One after the other, so that a later request finds what an earlier one wrote."""
    replies: list[Raw] = []
    room = limits.max_write_buffer_bytes    # a batch of long replies must not fill the memory either
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limits.batch_timeout_s
    for element in batch:
        reply: Answer
        if isinstance(element, Refused):
            reply = error_reply(element.id, element.error, next_id())
        elif room <= 0:
            error: RpcError = TooLarge(
                "The replies to this batch are too long together; this request was not carried out."
            )
            reply = None if element.id is NO_ID else error_reply(element.id, error, next_id())
        elif loop.time() >= until_s:
            error = Busy(
                f"The batch took longer than {limits.batch_timeout_s:g} s; this request was not carried out.",
                retry_after_ms=RETRY_MS,
            )
            reply = None if element.id is NO_ID else error_reply(element.id, error, next_id())
        else:
            answer = begin(element)
            if answer is None or isinstance(answer, bytes):
                reply = answer
                await asyncio.sleep(0)  # it waited for nothing: others come before the next element
            else:
                reply = await answer
        if reply is not None:
            room -= len(reply)
            replies.append(Raw(reply))
    return encode(replies) if replies else None
