"""The settings file as a backup may hold it: without anything secret.

Owns what counts as secret in it. The copy is for people, who look up how things were set; nothing reads it again.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import yaml

LEFT_OUT = "(left out of the backup)"
_SECRET = re.compile(r"(key|token|secret|password|passphrase|credential)s?$", re.IGNORECASE)


def without_secrets(text: bytes) -> bytes | None:
    """These settings, written anew; None where they cannot be read. Comments stay out: an old key may stand in one."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return None     # the settings' own reader takes none either: written out, they make small files large
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    shown: str = yaml.safe_dump(_shown(settings), sort_keys=False, allow_unicode=True)
    return shown.encode()


def _shown(value: Any) -> Any:
    match value:
        case dict():
            return {
                key: LEFT_OUT if _SECRET.search(str(key)) and found is not None else _shown(found)
                for key, found in value.items()
            }
        case list():
            return [_shown(one) for one in value]
        case str() if "://" in value:
            return _bare_address(value)
        case _:
            return value


def _bare_address(address: str) -> str:
    """Without user, password and query, in which services take keys."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return LEFT_OUT
    if "@" not in parts.netloc and not parts.query and not parts.fragment:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
