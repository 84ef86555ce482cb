"""Which drawing a method's result gets: one of its own, or the table that suits any.

Owns the list. A result of another shape than this version knows, of a newer daemon say, is drawn as any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from rich.console import RenderableType

from nexusd.cli import doctor_page, index_pages, outbox_pages, tables, token_pages

_DRAWINGS: Mapping[str, Callable[[bytes], RenderableType]] = {
    "outbox.list": outbox_pages.listing,
    "outbox.status": outbox_pages.status,
    "outbox.retry": outbox_pages.retried,
    "index.status": index_pages.status,
    "index.verify": index_pages.report,
    "index.repair": index_pages.report,
    "index.reembed": index_pages.reembedding,
    "system.check": doctor_page.examination,
    "tokens.create": token_pages.created,
    "tokens.list": token_pages.listing,
}


def drawing(method: str, raw: bytes) -> RenderableType:
    """The drawing of this method's result."""
    try:
        return _DRAWINGS.get(method, tables.result)(raw)
    except msgspec.ValidationError:
        return tables.result(raw)
