"""How much text one answer may hold.

Owns that one limit: a page of 500 rows, each as long as a message may be, would be more than a small machine
has. Knows no table.
"""

from __future__ import annotations

MAX_ANSWER_TEXT = 8 * 1024 * 1024  # characters; thousands of ordinary exchanges


class TextBudget:
    """What is left for one answer. The first row always fits, or a page could stay empty for ever.

    Rows longer than `longest` are of no use to who asks: they are passed over, and take nothing from the others.
    """

    def __init__(self, characters: int = MAX_ANSWER_TEXT, longest: int | None = None) -> None:
        self.exhausted = False
        self.passed_over = 0
        self._longest = longest
        self._left = characters
        self._first = True

    def take(self, *texts: str | bytes) -> bool:
        """Whether a row of these texts still fits; once one did not, none does. One passed over ends nothing."""
        if self.exhausted:
            return False
        needed = sum(map(len, texts))
        if self._longest is not None and needed > self._longest:
            self.passed_over += 1
            return False
        if needed > self._left and not self._first:
            self.exhausted = True
            return False
        self._first = False
        self._left -= needed
        return True
