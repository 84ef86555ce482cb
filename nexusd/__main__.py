"""Command line -> settings -> run -> exit code."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nexusd import __version__
from nexusd.clock import SystemClock
from nexusd.config import Settings, describe_settings, load_settings, settings_in
from nexusd.data_directory import try_data_directory
from nexusd.embedding.http_settings import http_complaints
from nexusd.embedding.model_files import model_complaints
from nexusd.errors import RpcError, StartupError
from nexusd.wire.tls_files import tls_complaints

REFUSED = 1     # a backup that is no good, or not there


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon, or only check its settings."""
    parser = argparse.ArgumentParser(
        prog="nexusd", description="The long-term memory of a home AI system."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: ./config.yaml)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory (default: ./data)")
    parser.add_argument("--check", action="store_true", help="only validate the settings")
    parser.add_argument(
        "--adopt", action="store_true",
        help="only take over a database that was put back by other means, such as Litestream: "
        "the next start compares the index with all of it",
    )
    parser.add_argument(
        "--restore", metavar="NAME|FILE", help="restore a backup, while no daemon runs; what is there is set aside"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --restore: only verify it and say what would change"
    )
    parser.add_argument("--into", type=Path, metavar="DIR", help="with --restore: into this data directory, not ours")
    parser.add_argument("--json", action="store_true", help="with --restore: report as JSON")
    parser.add_argument("--version", action="version", version=f"nexusd {__version__}")
    options = parser.parse_args(arguments)
    if options.restore is None and (options.dry_run or options.into is not None or options.json):
        parser.error("--dry-run, --into and --json belong to --restore")

    def load() -> Settings:
        return load_settings(
            config=options.config, data=options.data, environ=os.environ,
            rules=[model_complaints, http_complaints, tls_complaints],
        )

    try:
        settings = load()
        if options.check:
            try_data_directory(settings.data_directory)
            print(describe_settings(settings))
            return 0
        if options.adopt:
            from nexusd.backup.offline import refuse_unfinished  # noqa: PLC0415 - as below
            from nexusd.store.adopting import adopt  # noqa: PLC0415 - as below

            refuse_unfinished(settings)
            epoch = adopt(settings.database_path, settings.config.storage)
            print(f"adopted {settings.database_path}, epoch {epoch}: the next start compares the index with all of it")
            return 0
        if options.restore is not None:
            return _restore(settings if options.into is None else settings_in(settings, options.into), options)
        # Only now: --check and --help answer at once, and a wrong setting is told before anything is loaded.
        from nexusd.app import run  # noqa: PLC0415

        return run(settings, load)
    except StartupError as error:
        print(f"nexusd: {error.message}", file=sys.stderr)
        return error.exit_code


def _restore(settings: Settings, options: argparse.Namespace) -> int:
    from nexusd.backup.offline import report, report_json, restore_offline  # noqa: PLC0415  as above

    try:
        changes = restore_offline(settings, options.restore, SystemClock(), dry_run=options.dry_run)
    except RpcError as error:
        print(f"nexusd: {error.message}", file=sys.stderr)
        return REFUSED
    print(report_json(changes) if options.json else report(changes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
