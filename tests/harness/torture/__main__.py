"""The campaign's command line, see `scripts/torture`."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from harness.torture.campaign import EMBEDDED_SHARE, Campaign
from harness.torture.trials import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats a campaign; random if not given")
    parser.add_argument("--trials", type=int, default=50, help="of each kind (default: 50)")
    parser.add_argument("--kind", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="where the notes are, or are to be")
    parser.add_argument("--embedded-share", type=float, default=EMBEDDED_SHARE, metavar="X",
                        help="of the directories that have the embedded index (default: %(default)s)")
    options = parser.parse_args()
    kinds = options.kind.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    directory = options.resume or Path(tempfile.mkdtemp(prefix="nexusd-torture-"))
    campaign = Campaign(
        directory.resolve(), seed=seed, kinds=kinds, trials=options.trials, embedded_share=options.embedded_share,
        say=lambda text: print(text, flush=True),
    )
    try:
        clean = campaign.run()
    except KeyboardInterrupt:
        print(f"cut off; --resume {directory} goes on", flush=True)
        clean = False
    finally:
        print(f"seed {campaign.seed}\n{campaign.table()}", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
