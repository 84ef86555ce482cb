"""Made-up exchanges whose words are as unevenly frequent as real ones.

Word frequencies follow Zipf's law (rank r with weight 1 / r), because keyword search costs what the
frequent words cost.
"""

from __future__ import annotations

import itertools
import random

VOCABULARY = 30_000
WORDS_A_SIDE = 30  # an exchange of 60 words


class Texts:
    """A seeded source of sentences."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - repeatable text, no secret
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        self._words = ["".join(self._chance.choices(syllables, k=3)) for _ in range(VOCABULARY)]
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))

    def words(self, count: int) -> list[str]:
        """So many words as they come."""
        return self._chance.choices(self._words, cum_weights=self._weights, k=count)

    def sentence(self) -> str:
        """One side of an exchange."""
        return " ".join(self.words(WORDS_A_SIDE))

    def question(self) -> str:
        """A query of words that are not the most frequent ones, as a question's are after its stop words."""
        return " ".join(self._words[self._chance.randrange(100, 5_000)] for _ in range(5))
