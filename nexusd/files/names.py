"""Names that may become file names.

Owns which names are taken and how they are written. A name that passes holds no separator, begins no option and
hides nothing, so that it can be joined to a directory without a second look. Pure.
"""

from __future__ import annotations

import unicodedata

from nexusd.errors import BadName

MAX_CHARACTERS = 64
MAX_BYTES = 200         # a file name has 255; the rest is for the ending and for names made from it
_ALSO = frozenset(" -_.")
_CATEGORIES = ("L", "N", "M")   # letters, digits and the marks on letters, of any script


def check_name(given: str) -> str:
    """The name in the one form in which it is stored (NFC).

    Raises:
        BadName: it is not one to make a file of.
    """
    name = unicodedata.normalize("NFC", given)
    if not 1 <= len(name) <= MAX_CHARACTERS or len(name.encode("utf-8", "replace")) > MAX_BYTES:
        raise BadName(f"Expected a name of 1 to {MAX_CHARACTERS} characters.")
    if not all(one in _ALSO or unicodedata.category(one)[0] in _CATEGORIES for one in name):
        raise BadName("Expected letters, digits, spaces and `-_.` in the name, and nothing else.")
    if not (name[0] == "_" or unicodedata.category(name[0])[0] in {"L", "N"}):
        raise BadName("Expected a letter, a digit or `_` at the beginning of the name.")
    if name[-1] in " .":
        raise BadName("Expected no space and no dot at the end of the name.")
    return name
