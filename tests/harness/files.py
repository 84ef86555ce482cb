"""The files of people on a real database, with hands that edit them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fakes.clock import ManualClock
from harness.database import open_database

from nexusd.config_sections import FilesConfig
from nexusd.files.storage import FileStorage
from nexusd.store.database import Database


class Desk:
    """A directory with its storage; `told` are the events, in their order."""

    def __init__(self, root: Path, store: Database, **settings: object) -> None:
        self.root = root
        self.store = store
        self.clock = ManualClock()     # far from the disk's clock: no file counts as changed just now
        self.told: list[tuple[str, str | None, str]] = []
        self.files = FileStorage(root, FilesConfig(**settings), store, self.clock, publish=self._publish)
        self.presets = self.files.presets
        self.tools = self.files.tools
        self.servers = self.files.mcp_servers

    def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        assert topic == "files"
        self.told.append((data["kind"], data["name"], data["change"]))

    def news(self) -> list[tuple[str, str | None, str]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told

    def edit(self, file: str, text: str | bytes) -> Path:
        """As an editor saves: the file is emptied and written again."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def replace(self, file: str, text: str) -> None:
        """As a careful editor saves: another file takes the name."""
        path = self.root / file
        path.with_name(".swap").write_text(text)
        path.with_name(".swap").rename(path)

    def text(self, file: str) -> str:
        return (self.root / file).read_text()

    def there(self, directory: str) -> set[str]:
        return {entry.name for entry in (self.root / directory).iterdir()}


@contextlib.asynccontextmanager
async def desk(
    tmp_path: Path, *, before: Callable[[Desk], None] | None = None, **settings: object
) -> AsyncIterator[Desk]:
    """Everything in `tmp_path`, which survives from one use to the next; `before` runs before the first look."""
    async with open_database(tmp_path / "nexus.db") as store:
        made = Desk(tmp_path / "files", store, **settings)
        if before is not None:
            before(made)
        await made.files.open()
        try:
            yield made
        finally:
            await made.files.close()
