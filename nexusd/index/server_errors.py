"""What can be wrong with an index on a server, beyond that it does not answer.

Owns the errors that the server backend tells its callers apart by. Knows no client library.
"""

from __future__ import annotations

from nexusd.errors import IndexUnavailable


class Unreachable(IndexUnavailable):
    """Nothing answers there, or what answers is no Qdrant that can be used: the connection counts as lost."""


class CollectionLost(IndexUnavailable):
    """The collection is not there any more, or is not what it was when it was ensured."""


class CollectionTaken(IndexUnavailable):
    """Another daemon has taken the collection over."""


class ForeignCollection(IndexUnavailable):
    """A collection of this name was made by somebody else."""
