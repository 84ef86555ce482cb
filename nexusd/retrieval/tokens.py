"""How many tokens a text costs.

Owns the protocol and the estimate that serves where the reader's own tokenizer is not known.
"""

from __future__ import annotations

from typing import Protocol

BYTES_PER_TOKEN = 4  # English text in the tokenizers of current language models: 4 to 4.5 characters


class TokenCounter(Protocol):
    """Something that says how many tokens a text costs.

    Two texts put together must never cost more than both alone: a package is added up piece by piece.
    """

    def count(self, text: str) -> int:
        """Tokens of the text; 0 for the empty one."""


class EstimatedTokens:
    """A quarter of the text's UTF-8 bytes, and at least one token a word.

    Bytes rather than characters, since a character of a non-Latin script costs more tokens than a letter.
    """

    def count(self, text: str) -> int:
        """Tokens of the text, estimated; 0 for the empty one."""
        return max(-(-len(text.encode()) // BYTES_PER_TOKEN), len(text.split()))
