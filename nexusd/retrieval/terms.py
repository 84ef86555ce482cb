"""From a query in plain words to the terms that the full-text index is asked for.

Owns the tokens, the stop list and the budget of matched rows. Pure: knows no SQL and no index; how many
rows hold a term is told by the caller.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

MAX_TERMS = 64  # a question has about ten; a pasted page must not become a thousand look-ups

# FTS5 scores every row that it matches: this many take 3 to 4 ms. Rare terms tell more than common ones and
# cost less, so the budget goes to the rarest first. A store of some thousand rows never reaches it, and one
# of a hundred thousand stays fast.
ROW_BUDGET = 5_000

# Letters and digits of any script, as FTS5's unicode61 tokenizer cuts them: "don't" is two tokens, "don" and
# "t".
_TOKEN = re.compile(r"[^\W_]+")

# English words that say how a thing is asked, not what is asked for, and the halves that an apostrophe
# leaves. Words with a second meaning that people search for stay out of it: "may" is also a month.
STOP_WORDS = frozenset(
    """
    a about after again all also am an and any are aren as at be because been before being both but by can
    cannot could couldn d did didn do does doesn doing don during each else ever few for from further had hadn
    has hasn have haven having he her here hers herself him himself his how i if in into is isn it its itself
    just ll m me more most much must my myself no nor not of off on once only or other our ours ourselves out
    over own please re s same shall she should shouldn so some such t than that the their theirs them
    themselves then there these they this those through to too under until up us ve very was wasn we were
    weren what when where whether which while who whom whose why will with won would wouldn you your yours
    yourself yourselves
    """.split()  # noqa: SIM905 - a hundred and sixty quotation marks would hide the words
)


@dataclass(frozen=True, slots=True)
class ChosenTerms:
    """Rarest first: the terms that a row must hold one of, and the common ones that the budget had no room
    for.

    Those still add to the score of a row that holds one of the first.
    """

    asked: tuple[str, ...]
    dropped: tuple[str, ...]


def query_terms(query: str) -> list[str]:
    """The words of a query that are worth looking for, each once, in their order, at most MAX_TERMS.

    Stop words go, but never all of them: a query of nothing else ("who am I?") keeps what it has.
    """
    words = dict.fromkeys(_TOKEN.findall(unicodedata.normalize("NFC", query).casefold()))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or list(words))[:MAX_TERMS]


def choose_terms(rows: Mapping[str, int], row_budget: int) -> ChosenTerms:
    """Take terms from the rarest on until together they would match more than `row_budget` rows.

    The rarest that any row holds is always taken. `rows` says how many rows hold each term, in the order of
    the query, which also decides between terms that are equally rare.
    """
    rarest_first = sorted(rows, key=lambda term: rows[term])
    spent = 0
    for taken, term in enumerate(rarest_first):
        if spent and spent + rows[term] > row_budget:
            return ChosenTerms(tuple(rarest_first[:taken]), tuple(rarest_first[taken:]))
        spent += rows[term]
    return ChosenTerms(tuple(rarest_first), ())
