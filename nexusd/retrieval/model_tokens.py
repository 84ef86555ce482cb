"""What a text costs in the embedding model's own tokens.

Owns how a text is cut into words, and the words that were counted before. The tokenizer stays where the model is, in
another process: it is asked for words that are new, which soon are few. Knows no budget.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from nexusd.embedding.embedder import TokenTeller
from nexusd.embedding.serving import Serving
from nexusd.errors import EmbedderUnavailable
from nexusd.retrieval.tokens import EstimatedTokens

# Tokenizers cut at blanks first, so that words cost by themselves what they cost in a text.
WORD = re.compile(r"\S+")
LONGEST_WORD = 64               # letters; a longer one is no word, and some tokenizers make one token of it
ASKED_TOGETHER = 500            # words: 10 ms of the thread that embeds queries
KEPT_WORDS = 20_000             # 3 MB; a conversation of a thousand exchanges has 5,000 different ones
KEPT_LETTERS = 24               # longer ones are hardly met again
MOST_CHARACTERS_OF_TOKEN = 16   # a text of blanks costs something as well, so that its length bounds what is read
ANSWER_S = 10.0                 # far above what the embedder waits


class ModelTokens:
    """The sum over the words, each as the model's tokenizer counts it; what is no word to it is estimated."""

    name = "model"

    def __init__(self, teller: TokenTeller, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is where the teller lives."""
        self.teller = teller
        self._loop = loop
        self._known: dict[str, int] = {}
        self._estimate = EstimatedTokens()

    def count(self, text: str) -> int:
        """Tokens of the text. On any thread but the loop's, which answers.

        Raises:
            EmbedderUnavailable: the model is not there.
        """
        known, tokens = self._known, 0
        new: dict[str, int] = {}
        for match in WORD.finditer(text):   # a word at a time: another thread may have a turn in between
            word = match[0]
            cost = known.get(word)
            if cost is not None:
                tokens += cost
            elif len(word) > LONGEST_WORD:
                tokens += self._estimate.count(word)
            else:
                new[word] = new.get(word, 0) + 1
        words = list(new)
        for start in range(0, len(words), ASKED_TOGETHER):
            some = words[start : start + ASKED_TOGETHER]
            for word, cost in zip(some, self._ask(some), strict=True):
                tokens += new[word] * cost
        return max(tokens, self.at_least(len(text)))

    @staticmethod
    def at_least(characters: int) -> int:
        """A token for so many characters, whatever they are."""
        return -(-characters // MOST_CHARACTERS_OF_TOKEN)

    def _ask(self, words: Sequence[str]) -> list[int]:
        told = self._told(words)
        costs = [cost or self._estimate.count(word) for word, cost in zip(words, told, strict=True)]
        kept = {word: cost for word, cost in zip(words, costs, strict=True) if len(word) <= KEPT_LETTERS}
        if len(self._known) + len(kept) > KEPT_WORDS:
            self._known = {}    # anew: counts on other threads keep the words that they began with
        self._known.update(kept)
        return costs

    def _told(self, words: Sequence[str]) -> list[int]:
        asked = asyncio.run_coroutine_threadsafe(self.teller.count_tokens(words), self._loop)
        try:
            return asked.result(ANSWER_S)   # a loop that has ended answers nobody
        except TimeoutError:
            asked.cancel()
            raise EmbedderUnavailable("the words were not counted in time") from None


class ServingTokens:
    """The count by the model that serves; there is none where that tells nobody."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._of_last: ModelTokens | None = None

    def current(self) -> ModelTokens | None:
        """The counter of now. On the loop."""
        embedder = self._serving.model.embedder
        if not isinstance(embedder, TokenTeller):
            return None
        if self._of_last is None or self._of_last.teller is not embedder:
            self._of_last = ModelTokens(embedder, asyncio.get_running_loop())
        return self._of_last
