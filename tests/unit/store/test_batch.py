from __future__ import annotations

from collections import deque

import apsw
import pytest

from nexusd.errors import Busy, Conflict, DiskFull, OutcomeUnknown
from nexusd.store.batch import BATCH_WORK_S, MAX_BATCH, Groupable, GroupCommit, Request
from nexusd.store.connection import Connection
from nexusd.store.meta import get_meta, set_meta

# tens of nanoseconds a number: work that takes as long as the test wants
COUNT_TO = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM n"

pytestmark = pytest.mark.alone  # a batch is 5 ms of work


class Nobody:
    """A reply that nobody reads: the batch must never touch it."""


def request(function: object, *args: object) -> Request:
    return Request(function, args, Nobody())  # type: ignore[arg-type]


def put(db: Connection, key: str) -> str:
    set_meta(db, key, "x")
    return key


def put_and_fail(db: Connection, key: str) -> None:
    set_meta(db, key, "x")
    raise Conflict("half done")


def run(db: Connection, *requests: Request) -> list[Request]:
    batch, cause = GroupCommit(db).commit(deque(requests))
    assert cause is None
    assert not db.in_transaction
    return batch


@pytest.mark.parametrize("bad_at", [0, 1, 2])
def test_a_failed_request_undoes_its_own_work_only(db: Connection, bad_at: int) -> None:
    requests = [request(put, f"k{i}") for i in range(2)]
    requests.insert(bad_at, request(put_and_fail, "bad"))
    done = run(db, *requests)
    assert [type(r.error) for r in done] == [Conflict if i == bad_at else type(None) for i in range(3)]
    assert [get_meta(db, key) for key in ("k0", "k1", "bad")] == ["x", "x", None]


def test_failed_neighbours_at_the_front_leave_the_rest_standing(db: Connection) -> None:
    functions = {"a": put_and_fail, "b": put_and_fail, "c": put, "d": put_and_fail}
    done = run(db, *(request(function, key) for key, function in functions.items()))
    assert [r.error is None for r in done] == [False, False, True, False]
    assert [get_meta(db, key) for key in "abcd"] == [None, None, "x", None]


def test_neighbours_of_one_kind_are_done_together(db: Connection) -> None:
    together: list[list[object]] = []

    def put_all(db: Connection, calls: list[tuple[str]]) -> list[str]:
        together.append(list(calls))
        return [put(db, key) for (key,) in calls]

    grouped = Groupable(put, put_all)
    done = run(db, request(grouped, "a"), request(grouped, "b"), request(put, "c"), request(grouped, "d"))
    assert together == [[("a",), ("b",)]]
    assert [r.result for r in done] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("first", [True, False])
def test_when_together_fails_each_is_done_by_itself(db: Connection, first: bool) -> None:
    def one(db: Connection, key: str) -> str:
        return put_and_fail(db, key) if key == "bad" else put(db, key)  # type: ignore[func-returns-value]

    def many(db: Connection, calls: list[tuple[str]]) -> list[str]:
        set_meta(db, "trace of the attempt", "x")
        return [one(db, key) for (key,) in calls]

    grouped = Groupable(one, many)
    requests = [request(grouped, key) for key in ("a", "bad", "b")]
    done = run(db, *([] if first else [request(put, "before")]), *requests)[-3:]
    assert [r.result for r in done] == ["a", None, "b"]
    assert [type(r.error) for r in done] == [type(None), Conflict, type(None)]
    assert get_meta(db, "trace of the attempt") is None
    assert get_meta(db, "before") == (None if first else "x")


def test_a_batch_ends_at_its_size_and_leaves_the_rest(db: Connection) -> None:
    waiting = deque(request(lambda _db: None) for _ in range(MAX_BATCH + 5))
    group = GroupCommit(db)
    total = 0
    while waiting:
        batch, _ = group.commit(waiting)
        assert 0 < len(batch) <= MAX_BATCH
        total += len(batch)
    assert total == MAX_BATCH + 5


def test_a_batch_ends_when_it_has_worked_long_enough(db: Connection) -> None:
    assert BATCH_WORK_S < 0.02
    waiting = deque(request(lambda db: db.execute(COUNT_TO, (1_000_000,)).fetchall()) for _ in range(3))
    batch, _ = GroupCommit(db).commit(waiting)
    assert len(batch) == 1
    assert len(waiting) == 2


def test_runs_get_shorter_when_requests_are_slow(db: Connection) -> None:
    lengths: list[int] = []

    def many(db: Connection, calls: list[tuple[()]]) -> list[None]:
        lengths.append(len(calls))
        db.execute(COUNT_TO, (50_000 * len(calls),)).fetchall()
        return [None for _ in calls]

    grouped = Groupable(lambda _db: None, many)
    group = GroupCommit(db)
    waiting = deque(request(grouped) for _ in range(80))
    while waiting:
        group.commit(waiting)
    assert lengths[0] > 10
    assert all(length < lengths[0] / 2 for length in lengths[1:])


def test_when_a_function_ends_the_transaction_nobody_is_told_success(db: Connection) -> None:
    def rude(db: Connection) -> None:
        db.execute("ROLLBACK")

    requests = [request(put, "a"), request(rude), request(put, "b")]
    batch, cause = GroupCommit(db).commit(deque(requests))
    assert isinstance(cause, apsw.Error)
    assert [type(r.error) for r in batch] == [Busy, apsw.SQLError]
    assert get_meta(db, "a") is None
    assert not db.in_transaction


def test_a_locked_database_is_busy_and_nothing_stands(db: Connection) -> None:
    other = apsw.Connection(db.filename)
    other.execute("BEGIN IMMEDIATE")
    db.set_busy_timeout(1)
    batch, cause = GroupCommit(db).commit(deque([request(put, "a"), request(put, "b")]))
    assert isinstance(cause, apsw.BusyError)
    assert [type(r.error) for r in batch] == [Busy, Busy]
    other.execute("ROLLBACK")
    run(db, request(put, "a"))
    other.close()


@pytest.mark.parametrize(("error", "answer"), [(apsw.FullError, DiskFull), (apsw.IOError, OutcomeUnknown)])
@pytest.mark.parametrize("grouped", [True, False])
def test_an_error_of_the_disk_fails_the_whole_batch(
    db: Connection, error: type[Exception], answer: type[Exception], grouped: bool
) -> None:
    def refuse(_db: Connection, *_args: object) -> list[str]:
        raise error("refused by the test")

    bad = Groupable(refuse, refuse) if grouped else refuse
    requests = [request(put, "a"), request(bad), request(bad), request(put, "b")]
    batch, cause = GroupCommit(db).commit(deque(requests))
    assert type(cause) is error
    assert {type(r.error) for r in batch} == {answer}
    assert all(r.result is None for r in batch)
    assert get_meta(db, "a") is None
    assert not db.in_transaction
