"""File descriptors: the daemon keeps those that it needs itself, whatever number of connections the settings say."""

from __future__ import annotations

import resource

import pytest

from nexusd.errors import StartupError
from nexusd.wire.descriptors import FEWEST, RESERVED, room_for


class Limits:
    """The system's, as this test says they are."""

    def __init__(self, soft: int, hard: int) -> None:
        self.soft, self.hard = soft, hard

    def get(self, _which: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        self.soft, self.hard = limits


@pytest.fixture
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limits:
    limits = Limits(*request.param)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


@pytest.mark.parametrize("limits", [(256, 4096), (256, resource.RLIM_INFINITY)], indirect=True)
def test_the_soft_limit_is_raised_as_far_as_the_connections_need_it(limits: Limits) -> None:
    assert room_for(1000) == 1000
    assert limits.soft == 1000 + RESERVED


@pytest.mark.parametrize("limits", [(1024, 1024)], indirect=True)
def test_past_the_hard_limit_there_is_room_for_fewer(limits: Limits) -> None:
    assert room_for(5000) == 1024 - RESERVED
    assert room_for(10) == 10
    assert limits.soft == 1024


@pytest.mark.parametrize("limits", [(64, RESERVED + FEWEST - 1)], indirect=True)
def test_where_there_is_no_room_for_anybody_it_does_not_start_and_says_why(limits: Limits) -> None:
    with pytest.raises(StartupError, match="LimitNOFILE="):
        room_for(512)
    assert room_for(5) == 5, "as many as the settings want are enough"
