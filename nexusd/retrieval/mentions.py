"""Which names a text may speak of: its runs of a few words, to be looked up.

Pure: knows no entity and no SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from nexusd.retrieval.terms import STOP_WORDS

MAX_NAME_WORDS = 5      # "The Lord of the Rings" has as many; each more costs as many look-ups again
MAX_NAME_CHARACTERS = 512
# Of all texts together: some 15,000 look-ups, a few milliseconds.
MAX_WORDS = 3_000

# A word as it stands in names: "C++", "C#". What stands between two words ("O'Brien", "Node.js") is kept.
_WORD = re.compile(r"\w+[+#]*")


def possible_names(texts: Iterable[str]) -> list[str]:
    """Every run of up to MAX_NAME_WORDS words, once, in the order of the texts; the longer of a place first.

    White space between words counts as one blank. A stop word alone is no name. Equal is what SQLite's NOCASE
    takes for equal: in ASCII letters alone, case does not matter.
    """
    names: dict[bytes, str] = {}
    left = MAX_WORDS
    for text in texts:
        words = [match.span() for match in islice(_WORD.finditer(text), left)]
        left -= len(words)
        for first, (start, _) in enumerate(words):
            for _, end in reversed(words[first : first + MAX_NAME_WORDS]):
                if end - start > MAX_NAME_CHARACTERS:
                    continue
                name = " ".join(text[start:end].split())
                if name.casefold() not in STOP_WORDS:
                    names.setdefault(name.encode().lower(), name)
        if not left:
            break
    return list(names.values())
