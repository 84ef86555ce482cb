from __future__ import annotations

import subprocess
import sys

import nexusd.client


def test_everything_that_is_promised_can_be_imported() -> None:
    for name in nexusd.client.__all__:
        assert getattr(nexusd.client, name) is not None


def test_blocking_program_does_not_pay_for_asyncio() -> None:
    program = "import nexusd.client, sys; nexusd.client.Client; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
