"""What a REST route is, and how a path finds its route.

Owns the matching of paths: static segments win over parameters, each segment is percent-decoded by itself, a slash
at the end is tolerated. Pure: knows no resource; the table of routes is the API's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from nexusd.wire.http_errors import malformed, no_such_path, wrong_verb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """A verb and a path, and the method that they stand for. A segment `:name` is the parameter of that name."""

    verb: str
    path: str
    method: str
    status: int = 200                       # of a result; 204 tells nothing of it
    names: Mapping[str, str] = field(default_factory=dict)  # in the query, where they are not the parameters' own
    # The result has `items`, and those are the body; without `limit` in the query, `whole` goes through all pages.
    is_list: bool = False
    whole: bool = False
    item: Callable[[Any], Any] | None = None            # how an item is told, where not as it is
    status_of: Callable[[Any], int] | None = None       # where the status depends on the result


class _Node(Generic[T]):
    """One segment of the known paths."""

    __slots__ = ("names", "parameter", "segments", "targets")

    def __init__(self) -> None:
        self.segments: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.targets: dict[str, T] = {}                 # by verb, of the path that ends here
        self.names: dict[str, tuple[str, ...]] = {}     # its parameters, by verb


class Router(Generic[T]):
    """Finds what answers a verb and a path."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, verb: str, path: str, target: T) -> None:
        """Add one.

        Raises:
            ValueError: there is one already.
        """
        node, names = self._root, []
        for segment in _segments(path):
            if segment.startswith(":"):
                names.append(segment[1:])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.segments.setdefault(segment, _Node())
        if verb in node.targets:
            raise ValueError(f"{verb} {path} is there twice")
        node.targets[verb] = target
        node.names[verb] = tuple(names)

    def find(self, verb: str, path: str) -> tuple[T, dict[str, str]]:
        """What answers, and the parameters in the path. HEAD is answered where GET is.

        Raises:
            HttpRefusal: 404, there is no such path; 405, it is not there for this verb; 400, not UTF-8.
        """
        segments = _segments(path)
        if "%" in path:
            segments = [_decoded(segment) for segment in segments]
        values: list[str] = []
        node = _descend(self._root, segments, 0, values)
        if verb == "OPTIONS":
            raise wrong_verb(verb, "GET, HEAD, POST, PATCH, DELETE" if node is None else _allowed(node.targets))
        if node is None:
            raise no_such_path(path)
        asked = "GET" if verb == "HEAD" else verb
        target = node.targets.get(asked)
        if target is None:
            raise wrong_verb(verb, _allowed(node.targets))
        return target, dict(zip(node.names[asked], values, strict=True)) if values else {}


def _segments(path: str) -> list[str]:
    """Without the slash at the beginning, and one at the end."""
    return path.removeprefix("/").removesuffix("/").split("/")


def _decoded(segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise malformed("the path is not UTF-8") from None


def _descend(node: _Node[T], segments: list[str], at: int, values: list[str]) -> _Node[T] | None:
    """The node at which the path ends, if it is one of ours; `values` gets the parameters on the way."""
    if at == len(segments):
        return node if node.targets else None
    segment = segments[at]
    following = node.segments.get(segment)
    if following is not None:
        found = _descend(following, segments, at + 1, values)
        if found is not None:
            return found
    if node.parameter is None or not segment:
        return None
    values.append(segment)
    found = _descend(node.parameter, segments, at + 1, values)
    if found is None:
        values.pop()
    return found


def _allowed(verbs: Iterable[str]) -> str:
    """For an Allow header."""
    known = set(verbs)
    return ", ".join(sorted(known | {"HEAD"} if "GET" in known else known))
