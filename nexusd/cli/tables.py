"""Any result, drawn for people: records as a table that fits the terminal, one record as names and values.

Knows the shape of a listing, and that `createdAt` and its like are times; knows no resource.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from nexusd.cli.texts import count, excerpt, safe

_GAP = 2
_ENOUGH = 16  # characters of a text: with fewer one does not know it again
_LONGEST = 200  # characters of a text in a table; more fit no terminal
_LESSER = frozenset({"version", "updatedAt", "metadata", "vector"})  # first to go when there is no room
_AFTER_2001_MS = 10**12  # what is smaller is no time of this daemon's


def result(raw: bytes) -> RenderableType:
    """The drawing of a result."""
    answer = msgspec.json.decode(raw)
    if isinstance(answer, dict) and _are_records(answer.get("items")):
        parts: list[RenderableType] = [_records(answer["items"])]
        if cursor := answer.get("nextCursor"):
            parts.append(Text(f"There is more: cursor={safe(str(cursor))}", style="dim", overflow="fold"))
        rest = {name: value for name, value in answer.items() if name not in {"items", "nextCursor"}}
        if rest := {name: value for name, value in rest.items() if not _is_nothing(value)}:
            parts.append(_record(rest))
        return Group(*parts)
    if _are_records(answer):
        return _records(answer)
    if isinstance(answer, dict) and answer:
        return _record(answer)
    return Text(_whole("", answer))


def _are_records(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _records(items: Sequence[Mapping[str, Any]]) -> RenderableType:
    return _Rows(items) if items else Text("Nothing.", style="dim")


def _record(record: Mapping[str, Any]) -> RenderableType:
    grid = Table.grid(padding=(0, _GAP))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in record.items():
        if isinstance(value, dict) and value:
            grid.add_row(safe(name), _record(value))
        elif _are_records(value) and value:
            grid.add_row(safe(name), _records(value))
        else:
            grid.add_row(safe(name), Text(_whole(name, value)))
    return grid


class _Rows:
    """A table of records with as many columns as there is room for; what is empty in all of them is left out."""

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        items = [_flat(item) for item in items]
        names = dict.fromkeys(name for item in items for name in item)
        full = [name for name in names if not all(_is_nothing(item.get(name)) for item in items)]
        self._columns = {name: [_cell(name, item.get(name)) for item in items] for name in full or names}
        self._numbers = {
            name for name in self._columns if all(type(item.get(name)) in {int, float, type(None)} for item in items)
        }
        self._rows = len(items)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        for name, width in widths.items():
            table.add_column(
                Text(safe(name)), width=width, no_wrap=True, overflow="ellipsis",
                style="cyan" if name == "id" else "", justify="right" if name in self._numbers else "left",
            )  # fmt: skip
        for row in range(self._rows):
            table.add_row(*(Text(self._columns[name][row]) for name in widths))
        yield table
        if left_out := [safe(name) for name in self._columns if name not in widths]:
            yield Text(f"No room for {', '.join(left_out)}; --json shows all.", style="dim")
        if self._rows > 1:
            yield Text(count(self._rows, "row"), style="dim")

    def _widths(self, room: int) -> dict[str, int]:
        """The columns that fit when none is narrower than it needs, with what is left given out."""
        natural = {
            name: max(Text(text).cell_len for text in (safe(name), *cells)) for name, cells in self._columns.items()
        }
        widths: dict[str, int] = {}
        for name in sorted(natural, key=_LESSER.__contains__):
            wanted = natural[name]
            least = wanted if name in self._numbers else min(wanted, max(_ENOUGH, Text(name).cell_len))
            if widths and sum(widths.values()) + _GAP * len(widths) + least > room:
                continue  # a narrow one after it may still fit
            widths[name] = min(least, room)
        left = room - sum(widths.values()) - _GAP * (len(widths) - 1)
        for name in sorted(widths, key=lambda name: natural[name]):  # those that need little get all of it
            more = min(natural[name] - widths[name], left)
            widths[name] += max(0, more)
            left -= max(0, more)
        return {name: widths[name] for name in natural if name in widths}


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item with the fields of a record in it as its own: a hit holds its score, and what was found."""
    records = [name for name, value in item.items() if isinstance(value, dict) and "id" in value]
    flat = {name: value for name, value in item.items() if name not in records}
    for name in records:
        flat |= {inner: value for inner, value in item[name].items() if inner not in flat}
    return flat


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _cell(name: str, value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        return excerpt(value, None, _LONGEST)
    if isinstance(value, float):
        return f"{value:.4g}"
    return excerpt(_whole(name, value), None, _LONGEST)


def _whole(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return safe(value)
    if name.endswith("At") and isinstance(value, int) and value > _AFTER_2001_MS:
        return _time(value)
    return safe(msgspec.json.encode(value).decode())


def _time(milliseconds: int) -> str:
    """A time as the clock of this machine shows it."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, tz=datetime.UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # past the year 9999
        return str(milliseconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
