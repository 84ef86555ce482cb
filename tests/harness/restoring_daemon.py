"""The daemon, but it ends itself with SIGKILL at a named step of a restore: `restoring_daemon.py STEP --data DIR`."""

from __future__ import annotations

import functools
import os
import signal
import sys
from unittest import mock

from nexusd import __main__, app, parts


def main() -> None:
    step = sys.argv.pop(1)

    def reached(now: str) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        mock.patch.object(parts, "Backups", functools.partial(parts.Backups, reached=reached)),
        mock.patch.object(app, "finish", functools.partial(app.finish, reached=reached)),
    ):
        sys.exit(__main__.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
