"""Acknowledged writes: what tells that a server was put back to an earlier state, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from nexusd.index.server_witness import KEPT, LOOKS, Witness

pytestmark = pytest.mark.anyio


class Server:
    """The stamps of its points."""

    def __init__(self, **stamps: int) -> None:
        self.stamps = {int(name[1:]): stamp for name, stamp in stamps.items()}
        self.meanwhile: Callable[[], object] = lambda: None

    async def stamps_of(self, points: Sequence[int]) -> dict[int, int]:
        assert 0 < len(points) <= KEPT
        self.meanwhile()
        return {point: self.stamps[point] for point in points if point in self.stamps}


async def looked(witness: Witness, server: Server, times: int = LOOKS) -> list[bool]:
    return [await witness.betrayed(server.stamps_of) for _ in range(times)]


def written(*ids: int, stamp: int = 10, removing: bool = False, certain: bool = True) -> Witness:
    witness = Witness()
    with witness.writing(ids, stamp, removing=removing, certain=certain):
        pass
    return witness


@pytest.mark.parametrize(
    ("witness", "server"),
    [
        (written(1, 2), Server(p2=10)),
        (written(1, 2), Server(p2=11)),  # a later write of another run of this daemon
        (written(2, removing=True), Server(p1=3)),
        (written(2, removing=True, certain=False), Server(p2=3)),  # a late write may have brought it back
        (Witness(), Server()),
    ],
)
async def test_what_is_as_it_was_written_is_believed(witness: Witness, server: Server) -> None:
    assert await looked(witness, server) == [False] * LOOKS


@pytest.mark.parametrize(
    ("witness", "server"),
    [
        (written(1, 2), Server(p1=10)),
        (written(1, 2), Server(p2=9)),
        (written(2, removing=True), Server(p2=9)),
    ],
)
async def test_what_was_put_back_is_believed_when_it_was_seen_several_times(witness: Witness, server: Server) -> None:
    assert await looked(witness, server) == [False] * (LOOKS - 1) + [True]
    assert await witness.betrayed(server.stamps_of)  # until somebody acts on it


async def test_a_replica_that_lags_for_a_moment_betrays_nothing() -> None:
    witness, server = written(1), Server()
    await looked(witness, server, LOOKS - 1)
    server.stamps = {1: 10}
    assert not await witness.betrayed(server.stamps_of)
    server.stamps = {}
    assert await looked(witness, server) == [False] * (LOOKS - 1) + [True]


async def test_writes_that_come_afterwards_hide_nothing() -> None:
    witness, server = Witness(), Server()
    for n in range(1, 6):
        with witness.writing([n], n, removing=False):
            server.stamps[n] = n
        assert not await witness.betrayed(server.stamps_of)
    for n in (3, 4, 5):
        del server.stamps[n]
    said = []
    for n in range(6, 6 + LOOKS):
        with witness.writing([n], n, removing=False):
            server.stamps[n] = n
        said.append(await witness.betrayed(server.stamps_of))
    assert said == [False] * (LOOKS - 1) + [True]


async def test_only_so_many_writes_are_looked_for() -> None:
    witness, server = Witness(), Server()
    for n in range(1, 3 * KEPT):
        with witness.writing([n], n, removing=False):
            server.stamps[n] = n
        await witness.betrayed(server.stamps_of)
    server.stamps = {n: n for n in range(2 * KEPT, 3 * KEPT)}
    assert await looked(witness, server) == [False] * LOOKS


async def test_of_points_whose_write_failed_nothing_is_known() -> None:
    witness, server = written(1), Server()
    await looked(witness, server, LOOKS - 1)
    with pytest.raises(TimeoutError), witness.writing([1], 11, removing=True):
        raise TimeoutError
    assert await looked(witness, server) == [False] * LOOKS


async def test_of_points_that_are_written_to_a_look_says_nothing() -> None:
    witness, server = written(1), Server()
    await looked(witness, server, LOOKS - 1)

    def remove() -> None:
        with witness.writing([1], 11, removing=True):
            pass

    server.meanwhile = remove
    assert not await witness.betrayed(server.stamps_of)
    server.meanwhile = lambda: None
    with witness.writing([1], 12, removing=False):
        assert await looked(witness, server) == [False] * LOOKS
