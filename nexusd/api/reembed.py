"""index.reembed and index.forget: another embedding model's vectors, and those of models that serve no more."""

from __future__ import annotations

import apsw
import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import Conflict, RowNotFound
from nexusd.model.index import ForgetModels, ForgottenModels, Reembed, ReembedProgress
from nexusd.store.database import Database
from nexusd.sync.kept import KeptModels, forget
from nexusd.sync.models import Models
from nexusd.sync.reembed import Reembedding
from nexusd.wire.methods import Call, Method

FORGET_WAIT_S = 30.0  # a model that served a moment ago may be asked by searches for half of that


class ReembedApi:
    """The methods on embedding models."""

    def __init__(
        self, store: Database, models: Models, reembedding: Reembedding, kept: KeptModels, clock: Clock
    ) -> None:
        self._store = store
        self._models = models
        self._reembedding = reembedding
        self._kept = kept
        self._clock = clock

    async def reembed(self, call: Call, params: Reembed) -> ReembedProgress | msgspec.Raw:
        """Begin, if there is anything to begin; answers at once."""
        receipt = receipt_for(call, "index.reembed", params)
        before = self._reembedding.progress()
        answer = await self._store.write_once(receipt, self._begin, params.force, before, self._clock.now_ms())
        await self._models.look_again()
        self._reembedding.begin()
        return answer

    def _begin(
        self, db: apsw.Connection, force: bool, before: ReembedProgress, now_ms: int  # noqa: FBT001  positional, for the store
    ) -> ReembedProgress:
        begun = self._models.begin_anew(db, now_ms) if force else None
        if begun is None:  # one is under way and goes on, or the configured model serves
            return before
        return ReembedProgress(state="filling", serving=before.serving, next=begun)

    async def forget(self, call: Call, params: ForgetModels) -> ForgottenModels | msgspec.Raw:
        """Let kept models go."""
        receipt = receipt_for(call, "index.forget", params)
        answer = await self._store.write_once(receipt, forget, params.key)
        await self._models.look_again()
        if isinstance(answer, ForgottenModels):
            await self._kept.gone(answer.forgotten, FORGET_WAIT_S)
        return answer

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="index.reembed",
                summary="Tell how far re-embedding with the configured model is; with force begin it anew.",
                params=Reembed,
                result=ReembedProgress,
                handler=self.reembed,
                role="admin",
                mutates=True,
                example={},
                subject=lambda _params, result: {"state": result.state},
            ),
            Method(
                name="index.forget",
                summary="Remove the vectors of embedding models that serve no more, which are kept for going back.",
                params=ForgetModels,
                result=ForgottenModels,
                handler=self.forget,
                role="admin",
                mutates=True,
                errors=(RowNotFound, Conflict),
                example={},
                subject=lambda _params, result: {"forgotten": result.forgotten},
            ),
        ]
