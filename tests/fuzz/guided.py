"""A target of the fuzz tests under atheris, which looks for inputs that reach new code. Started by scripts/fuzz."""

from __future__ import annotations

import argparse
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["nexusd", "h11"]):
    from harness.fuzz_targets import CORPUS, TARGETS

MAX_INPUT = 20_000
MEMORY_MB = 1024
ONE_INPUT_S = 10    # one that takes longer counts as a hang


def main() -> None:
    """Run one target for so long."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Targets: " + ", ".join(TARGETS))
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    given, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="nexusd-fuzz-corpus-") as found:    # what is found is kept by hand
        atheris.Setup(
            [sys.argv[0], found, str(CORPUS / given.target), f"-max_total_time={given.seconds}",
             f"-max_len={MAX_INPUT}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={ONE_INPUT_S}",
             "-print_final_stats=1", *rest],
            TARGETS[given.target],
        )
        atheris.Fuzz()


main()
