"""What every test shares: the event loop, the `long` marker, and how hypothesis looks for examples."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from nexusd.logfmt import render_logfmt

# Derandomized: the same commit gives the same result. Shared machines stall, so no example has a deadline;
# pytest's timeout holds the whole.
settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=5000,
    print_blob=True,  # random here: the blob repeats a failure
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the campaigns, and more examples")
    parser.addoption("--update-readme", action="store_true", help="write the output of the README's examples anew")


def pytest_configure(config: pytest.Config) -> None:
    # A shell ignores SIGINT for what it puts into the background, and the programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile("long" if config.getoption("--long") else "default")
    # structlog's own default draws each traceback with all local variables, which takes longer than the tests
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, render_logfmt]
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a campaign; run with --long")
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the daemon runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _same_priority() -> Iterator[None]:
    """No test may leave the others behind with less of the processor than they began with."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    yield
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before, "run it in a thread of its own"
