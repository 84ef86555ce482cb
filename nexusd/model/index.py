"""What index.* answers and takes: whether the index agrees with the rows, and which model's vectors it holds."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexusd.model.fields import IndexedCollection, Mutation, Params, TimeMs

JobState = Literal["running", "done", "failed"]


class CheckIndex(Params, frozen=True, kw_only=True):
    """Parameters of index.verify and index.repair. A second call while one runs joins it."""

    collections: Annotated[
        list[IndexedCollection], Meta(max_length=5, description="Which to look at; all if empty.")
    ] = []
    timeout_ms: Annotated[
        int, Meta(ge=1, le=600_000, description="How long to wait for the end; then the reply says running.")
    ] = 60_000


class StoredVectorsReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """The vectors kept beside the rows, under the model that serves. `outdated` ones are of an earlier text."""

    stored: int = 0
    missing: int = 0
    outdated: int = 0
    wrong_model: int = 0
    orphaned: int = 0


class FullTextReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """A full-text index beside its rows. `sound` null: its words were not compared, only its ids."""

    missing: int = 0
    orphaned: int = 0
    sound: bool | None = None


class CollectionReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """One collection, rows and points side by side. Rows that wait in the outbox (`queued`) are no difference.

    `missing`: a row without its point; `stale`: a point of another version; `orphaned`: a point without a row;
    `foreign`: a point of another database or model; `duplicated`: an id met twice. `examples` has up to ten ids of
    each.
    """

    collection: str
    rows: int = 0
    points: int = 0
    unindexed: int = 0
    queued: int = 0
    dead: int = 0
    missing: int = 0
    stale: int = 0
    orphaned: int = 0
    foreign: int = 0
    duplicated: int = 0
    vectors: StoredVectorsReport = StoredVectorsReport()
    full_text: FullTextReport | None = None
    examples: dict[str, list[int]] = {}


class Mended(Struct, frozen=True, kw_only=True, rename="camel"):
    """What index.repair did about it; the outbox does the rest."""

    upserts_queued: int = 0
    deletes_queued: int = 0
    full_text_rows: int = 0
    full_text_rebuilt: list[str] = []
    vectors_forgotten: int = 0


class IndexReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """One walk over rows and index. `checked` of `total` rows so far; `agrees` is null until the end.

    `model_similarity` is how alike the model's vector of a known text is to the one noted at first: well under 1 means
    that other weights answer under the same name. Null: not asked, or the embedder did not answer.
    """

    job: Literal["verify", "repair"]
    state: JobState
    started_at: TimeMs
    finished_at: TimeMs | None = None
    checked: int = 0
    total: int = 0
    agrees: bool | None = None
    collections: list[CollectionReport] = []
    model_similarity: float | None = None
    mended: Mended | None = None
    error: str | None = None


class ModelInfo(Struct, frozen=True, kw_only=True, rename="camel"):
    """An embedding model that has collections in the index."""

    key: str
    provider: str
    model: str
    dimension: int
    since: TimeMs
    answers: bool | None = None
    keep_until: TimeMs | None = None


class ReembedProgress(Struct, frozen=True, kw_only=True, rename="camel"):
    """How far the next model's collections are. `state` idle: nothing is under way, and `serving` is what answers."""

    state: Literal["idle", "filling", "embedding", "comparing", "swapped", "failed"]
    serving: ModelInfo
    next: ModelInfo | None = None
    total: int = 0
    done: int = 0
    dead: int = 0
    rows_per_second: float = 0.0
    estimate_ms: int | None = None
    detail: str = ""


class IndexCollection(Struct, frozen=True, kw_only=True, rename="camel"):
    """A logical collection and what stands behind it. `points` is null while the index does not answer."""

    collection: str
    physical: str
    rows: int
    points: int | None


class IndexState(Struct, frozen=True, kw_only=True, rename="camel"):
    """What index.status answers."""

    backend: Literal["embedded", "server"]
    complete: bool
    collections: list[IndexCollection]
    reembed: ReembedProgress
    kept: list[ModelInfo]
    job: IndexReport | None
    last_verify: IndexReport | None
    dropped_hits: int


class Reembed(Mutation, frozen=True, kw_only=True):
    """Parameters of index.reembed. Without `force` nothing begins where the configured model serves already."""

    force: Annotated[
        bool, Meta(description="Embed everything again though the model has the same name: its weights changed.")
    ] = False


class ForgetModels(Mutation, frozen=True, kw_only=True):
    """Parameters of index.forget: the kept collections of a model that serves no more, or of all such."""

    key: Annotated[str | None, Meta(description="Which kept model; all kept ones if null.")] = None


class ForgottenModels(Struct, frozen=True, kw_only=True, rename="camel"):
    """What index.forget answers."""

    forgotten: list[str]
    vectors_deleted: int
