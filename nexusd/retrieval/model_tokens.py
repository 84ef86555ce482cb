"""What a text costs in the embedding model's own tokens.

Owns how a text is cut into words, and the words that were counted before. The tokenizer stays where the model is, in
another process: it is asked for words that are new, which soon are few. Knows no budget.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from nexusd.embedding.embedder import TokenTeller
from nexusd.embedding.serving import Serving
from nexusd.errors import EmbedderUnavailable
from nexusd.retrieval.tokens import EstimatedTokens

# Tokenizers cut at blanks first, so that words cost by themselves what they cost in a text.
WORD = re.compile(r"\S+")
LONGEST_WORD = 64               # letters; a longer one is no word, and some tokenizers make one token of it
ASKED_TOGETHER = 500            # words: 10 ms of the thread that embeds queries
MOST_ASKED = 20_000             # for one package: no prose has so many new words, and half a second is enough
KEPT_WORDS = 20_000             # 3 MB; a conversation of a thousand exchanges has 5,000 different ones
KEPT_LETTERS = 24               # longer ones are hardly met again
MOST_CHARACTERS_OF_TOKEN = 16   # a text of blanks costs something as well, so that its length bounds what is read
ANSWER_S = 10.0                 # far above what the embedder waits


class CountedWords:
    """What words cost in the tokens of one model; those met lately are known here."""

    def __init__(self, teller: TokenTeller, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is where the teller lives."""
        self.teller = teller
        self.known: dict[str, int] = {}
        self._loop = loop
        self._estimate = EstimatedTokens()

    def ask(self, words: Mapping[str, int]) -> int:
        """What so many of each word cost together. On any thread but the loop's, which answers.

        Raises:
            EmbedderUnavailable: the model is not there.
        """
        asked = asyncio.run_coroutine_threadsafe(self.teller.count_tokens(list(words)), self._loop)
        try:
            told = asked.result(ANSWER_S)   # a loop that has ended answers nobody
        except TimeoutError:
            asked.cancel()
            raise EmbedderUnavailable("the words were not counted in time") from None
        costs = {word: cost or self._estimate.count(word) for word, cost in zip(words, told, strict=True)}
        kept = {word: cost for word, cost in costs.items() if len(word) <= KEPT_LETTERS}
        if len(self.known) + len(kept) > KEPT_WORDS:
            self.known = {}     # anew: a count on another thread keeps what it began with
        self.known.update(kept)
        return sum(number * costs[word] for word, number in words.items())


class ModelTokens:
    """The sum over the words, each as the model's tokenizer counts it; what is no word to it is estimated.

    For one package: that may ask for so many words, not for more.
    """

    name = "model"

    def __init__(self, words: CountedWords) -> None:
        self._words = words
        self._asked = 0
        self._estimate = EstimatedTokens()

    def count(self, text: str) -> int:
        """Tokens of the text. On any thread but the loop's, one after the other.

        Raises:
            EmbedderUnavailable: the model is not there, or this would keep it busy for long.
        """
        known, tokens = self._words.known, 0
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
                if len(new) == ASKED_TOGETHER:
                    tokens += self._ask(new)
                    new, known = {}, self._words.known
        if new:
            tokens += self._ask(new)
        return max(tokens, self.at_least(len(text)))

    @staticmethod
    def at_least(characters: int) -> int:
        """A token for so many characters, whatever they are."""
        return -(-characters // MOST_CHARACTERS_OF_TOKEN)

    def _ask(self, words: Mapping[str, int]) -> int:
        self._asked += len(words)
        if self._asked > MOST_ASKED:
            raise EmbedderUnavailable("there are too many words to be counted")
        return self._words.ask(words)


class ServingTokens:
    """The count by the model that serves; there is none where that tells nobody."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._words: CountedWords | None = None

    def of_package(self) -> ModelTokens | None:
        """A counter for one package, by the model of now. On the loop."""
        embedder = self._serving.model.embedder
        if not isinstance(embedder, TokenTeller):
            return None
        if self._words is None or self._words.teller is not embedder:
            self._words = CountedWords(embedder, asyncio.get_running_loop())
        return ModelTokens(self._words)
