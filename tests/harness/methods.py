"""The methods that the daemon really has, from its composition root; nothing is opened or started."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from nexusd.config import load_settings
from nexusd.log import LogControl
from nexusd.parts import Parts
from nexusd.wire.methods import MethodTable


@functools.cache
def real_table() -> MethodTable:
    """Every method that `Parts` registers. Its handlers are of no use: the store behind them was never opened."""
    with tempfile.TemporaryDirectory() as directory:
        settings = load_settings(config=None, data=Path(directory), environ={})
        return Parts(settings, lambda: settings, LogControl()).table
