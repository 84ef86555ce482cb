"""How many tokens a text costs.

Owns the protocol and the estimate that serves where no tokenizer can be asked.
"""

from __future__ import annotations

from typing import Protocol

BYTES_PER_TOKEN = 4  # English text in the tokenizers of current language models: 4 to 4.5 characters
# Counted at a stretch: a call of str holds the interpreter, and 4 MB of short words hold it for 100 ms.
STRETCH_CHARACTERS = 32 * 1024


class TokenCounter(Protocol):
    """Something that says how many tokens a text costs.

    Two texts put together, the first of which ends in a blank, must never cost more than both alone: a package is
    added up piece by piece.
    """

    @property
    def name(self) -> str:
        """Whose tokens they are, for people."""

    def count(self, text: str) -> int:
        """Tokens of the text; 0 for the empty one. May take long and be called on any thread but the loop's.

        Raises:
            EmbedderUnavailable: it is a model's own count, and the model is not there.
        """

    def at_least(self, characters: int) -> int:
        """What no text of this length costs less than. At once."""


class EstimatedTokens:
    """A quarter of the text's UTF-8 bytes, and at least one token a word.

    Bytes rather than characters, since a character of a non-Latin script costs more tokens than a letter.
    """

    name = "estimate"

    def __init__(self, stretch_characters: int = STRETCH_CHARACTERS) -> None:
        self._stretch = stretch_characters

    def count(self, text: str) -> int:
        """Tokens of the text, estimated; 0 for the empty one."""
        size = words = 0
        in_word = False  # whether the stretch before ended within one
        for start in range(0, len(text), self._stretch):
            stretch = text[start : start + self._stretch]
            size += len(stretch.encode())
            words += len(stretch.split()) - (in_word and not stretch[0].isspace())
            in_word = not stretch[-1].isspace()
        return max(-(-size // BYTES_PER_TOKEN), words)

    def at_least(self, characters: int) -> int:
        """A quarter of the characters: none has less than a byte."""
        return -(-characters // BYTES_PER_TOKEN)
