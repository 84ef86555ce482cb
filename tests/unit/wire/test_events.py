"""Events: in order, nothing left out unannounced, and nobody who listens is waited for."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import structlog
from fakes.listener import Listener
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from nexusd.config_sections import LimitsConfig
from nexusd.errors import InvalidParams, NotFound, TooLarge
from nexusd.model.fields import NoParams
from nexusd.wire.events import SENT_IN_A_TURN, EventHub
from nexusd.wire.methods import Method, MethodTable

pytestmark = pytest.mark.anyio
START_MS = 1_700_000_000_000
FIRST = START_MS * 1000 + 1     # the number of a run's first event


class StoppedClock:
    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return 0.0


class Row(Struct):
    id: int
    text: str = "private words"


async def nothing(_call: Any, _params: Any) -> None:
    return None


def method(name: str, subject: Any = None) -> Method:
    return Method(name, "s", NoParams, Any, nothing, "write", mutates=True, subject=subject)


def hub_of(now_ms: int = START_MS, **limits: int) -> EventHub:
    table = MethodTable()
    table.register([method("episodes.create"), method("sessions.create"), method("health")])
    return EventHub(table, LimitsConfig(**limits), StoppedClock(now_ms), inner_topics=("system",))


async def turns(count: int = 3) -> None:
    """Let the loop do what it was asked to do soon."""
    for _ in range(count):
        await asyncio.sleep(0)


def seqs(listener: Listener) -> list[int]:
    return [event["seq"] for event in listener.events]


def told(listener: Listener) -> list[Any]:
    """What each event was about: the topic and `n`, or where the gap is."""
    return [
        ("lagged", event["data"]["after"], event["data"]["next"]) if event["topic"] == "lagged"
        else (event["topic"], event["data"]["n"])
        for event in listener.events
    ]  # fmt: skip


async def test_a_listener_gets_what_happens_from_now_on_in_its_order() -> None:
    hub, listener = hub_of(), Listener()
    hub.publish("episodes", {"n": 0})
    subscription = hub.subscribe(listener, [], None)
    await turns()
    hub.publish("episodes", {"n": 1})
    hub.publish("sessions", {"n": 2})
    assert listener.events == [
        {"seq": FIRST + 1, "topic": "episodes", "data": {"n": 1}, "subscription": subscription},
        {"seq": FIRST + 2, "topic": "sessions", "data": {"n": 2}, "subscription": subscription},
    ]
    assert listener.lines[0].startswith(b'{"jsonrpc":"2.0","method":"event","params":{')


async def test_only_topics_that_were_asked_for_come() -> None:
    hub, listener = hub_of(), Listener()
    hub.subscribe(listener, ["sessions", "system"], None)
    await turns()
    for number, topic in enumerate(["episodes", "sessions", "system", "episodes"]):
        hub.publish(topic, {"n": number})
    assert told(listener) == [("sessions", 1), ("system", 2)]


async def test_the_first_event_comes_after_the_reply_could_be_written() -> None:
    hub, listener = hub_of(), Listener()
    hub.publish("episodes", {"n": 0})
    hub.subscribe(listener, [], FIRST - 1)
    hub.publish("episodes", {"n": 1})
    assert listener.lines == []
    await turns()
    assert told(listener) == [("episodes", 0), ("episodes", 1)]


async def test_what_the_ring_holds_is_told_again_to_who_knows_the_number_of_the_last_one() -> None:
    hub, listener = hub_of(event_replay=3), Listener()
    for number in range(5):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], FIRST + 1)
    await turns()
    assert told(listener) == [("episodes", 2), ("episodes", 3), ("episodes", 4)]


async def test_from_before_the_ring_lagged_comes_first_and_says_from_where_on_events_are_known() -> None:
    hub, listener = hub_of(event_replay=3), Listener()
    for number in range(5):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], FIRST)
    await turns()
    assert told(listener)[0] == ("lagged", FIRST, FIRST + 2)
    assert told(listener)[1:] == [("episodes", 2), ("episodes", 3), ("episodes", 4)]
    assert seqs(listener) == [FIRST + 1, FIRST + 2, FIRST + 3, FIRST + 4]


@pytest.mark.parametrize("published", [0, 2])
async def test_a_later_run_tells_who_comes_from_an_earlier_one_that_it_lagged(published: int) -> None:
    before = hub_of()
    for number in range(50):
        before.publish("episodes", {"n": number})
    hub, listener = hub_of(now_ms=START_MS + 1), Listener()
    assert hub.seq > before.seq
    for number in range(published):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], before.seq)
    await turns()
    assert told(listener)[0] == ("lagged", before.seq, FIRST + 1000)
    assert told(listener)[1:] == [("episodes", number) for number in range(published)]


async def test_the_number_of_lagged_resumes_without_a_second_gap() -> None:
    hub = hub_of(event_replay=2)
    for number in range(5):
        hub.publish("episodes", {"n": number})
    first, second = Listener(room=1), Listener()
    hub.subscribe(first, [], 0)
    await turns()
    (lagged,) = first.events
    hub.subscribe(second, [], lagged["seq"])
    await turns()
    assert told(second) == [("episodes", 3), ("episodes", 4)]


async def test_nothing_of_a_run_is_missing_to_who_begins_where_it_began() -> None:
    hub, listener = hub_of(), Listener()
    hub.publish("episodes", {"n": 0})
    hub.subscribe(listener, [], FIRST - 1)
    await turns()
    assert told(listener) == [("episodes", 0)]


async def test_a_number_that_nothing_has_yet_and_topics_that_are_none_are_refused_by_name() -> None:
    hub = hub_of()
    with pytest.raises(InvalidParams) as refused:
        hub.subscribe(Listener(), ["episodes", "epsiodes", "health"], FIRST)
    assert [field.path for field in refused.value.fields] == ["topics[1]", "topics[2]", "sinceSeq"]
    assert refused.value.fields[0].expected == "one of episodes, sessions, system"
    assert hub.stats().subscriptions == 0


async def test_who_reads_too_slowly_is_not_asked_again_before_it_reads() -> None:
    hub, listener = hub_of(), Listener(room=1)
    hub.subscribe(listener, [], None)
    await turns()
    for number in range(10):
        hub.publish("episodes", {"n": number})
    assert (told(listener), listener.refused) == ([("episodes", 0)], 1)


async def test_who_read_too_slowly_is_told_once_and_goes_on_with_what_is_kept() -> None:
    hub, listener = hub_of(event_replay=3), Listener(room=1)
    hub.subscribe(listener, [], None)
    await turns()
    for number in range(6):
        hub.publish("episodes", {"n": number})
    listener.read()
    hub.publish("episodes", {"n": 6})
    assert told(listener) == [
        ("episodes", 0), ("lagged", FIRST, FIRST + 3),
        ("episodes", 3), ("episodes", 4), ("episodes", 5), ("episodes", 6),
    ]  # fmt: skip
    assert hub.stats().lagged == 1


async def test_who_catches_up_after_a_gap_in_several_goes_is_told_of_it_once() -> None:
    hub, listener = hub_of(), Listener(room=0)
    hub.subscribe(listener, [], None)
    await turns()
    for number in range(3):
        hub.publish("episodes", {"n": number})
    for _ in range(5):
        listener.read(room=1)
        await turns()
    assert told(listener) == [("lagged", FIRST - 1, FIRST), *(("episodes", number) for number in range(3))]


async def test_a_gap_is_told_even_where_nothing_was_lost() -> None:
    hub, listener = hub_of(), Listener(room=0)
    hub.subscribe(listener, [], None)
    await turns()
    hub.publish("episodes", {"n": 0})
    listener.read()
    assert told(listener) == [("lagged", FIRST - 1, FIRST), ("episodes", 0)]


async def test_what_falls_out_of_the_ring_while_a_listener_catches_up_is_announced() -> None:
    hub, listener = hub_of(event_replay=2), Listener(room=1)
    for number in range(3):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], FIRST)
    await turns()
    hub.publish("episodes", {"n": 3})
    hub.publish("episodes", {"n": 4})
    listener.read()
    await turns()
    assert told(listener) == [
        ("episodes", 1), ("lagged", FIRST + 1, FIRST + 3), ("episodes", 3), ("episodes", 4),
    ]  # fmt: skip


async def test_a_listener_that_catches_up_in_several_goes_is_told_of_no_gap_that_is_none() -> None:
    hub, listener = hub_of(), Listener(room=1)
    for number in range(4):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], FIRST - 1)
    for _ in range(4):
        await turns()
        listener.read(room=1)
    assert told(listener) == [("episodes", number) for number in range(4)]


async def test_a_long_ring_is_sent_in_turns_with_others_between() -> None:
    hub, listener = hub_of(), Listener()
    for number in range(SENT_IN_A_TURN + 2):
        hub.publish("episodes", {"n": number})
    hub.subscribe(listener, [], FIRST - 1)
    await turns(1)
    assert len(listener.lines) == SENT_IN_A_TURN
    hub.publish("episodes", {"n": SENT_IN_A_TURN + 2})
    await turns(2)
    assert told(listener) == [("episodes", number) for number in range(SENT_IN_A_TURN + 3)]


async def test_a_slow_listener_holds_up_no_other() -> None:
    hub, slow, fast = hub_of(), Listener(room=0), Listener()
    hub.subscribe(slow, [], None)
    hub.subscribe(fast, [], None)
    await turns()
    for number in range(5):
        hub.publish("episodes", {"n": number})
    assert told(fast) == [("episodes", number) for number in range(5)]
    assert (slow.lines, slow.refused) == ([], 1)


async def test_a_closed_connection_and_an_ended_subscription_get_nothing_more() -> None:
    hub, gone, ended = hub_of(), Listener(), Listener(room=0)
    hub.subscribe(gone, [], None)
    subscription = hub.subscribe(ended, [], None)
    await turns()
    hub.publish("episodes", {"n": 0})
    gone.close()
    hub.unsubscribe(ended, subscription)
    ended.read()
    hub.publish("episodes", {"n": 1})
    await turns()
    assert (told(gone), ended.lines) == ([("episodes", 0)], [])
    assert (hub.stats().subscriptions, hub.stats().connections) == (0, 0)


async def test_a_subscription_that_kept_up_gets_nothing_after_its_end_and_the_connection_goes_on() -> None:
    hub, listener = hub_of(), Listener()
    ended, other = hub.subscribe(listener, [], None), hub.subscribe(listener, [], None)
    await turns()
    hub.publish("episodes", {"n": 0})
    hub.unsubscribe(listener, ended)
    hub.publish("episodes", {"n": 1})
    await turns()
    got = [(event["subscription"], event["data"]["n"]) for event in listener.events]
    assert got == [(ended, 0), (other, 0), (other, 1)]


async def test_a_connection_that_closed_before_the_first_event_is_forgotten() -> None:
    hub, listener = hub_of(), Listener()
    hub.subscribe(listener, [], 0)
    listener.close()
    await turns()
    assert (listener.refused, hub.stats().subscriptions) == (0, 0)


async def test_subscriptions_are_counted_by_connection_and_belong_to_it() -> None:
    hub, one, other = hub_of(max_subscriptions=2), Listener(), Listener()
    mine = [hub.subscribe(one, [], None), hub.subscribe(one, ["system"], None)]
    with pytest.raises(TooLarge):
        hub.subscribe(one, [], None)
    theirs = hub.subscribe(other, [], None)
    with pytest.raises(NotFound):
        hub.unsubscribe(one, theirs)
    hub.unsubscribe(one, mine[0])
    with pytest.raises(NotFound):
        hub.unsubscribe(one, mine[0])
    hub.subscribe(one, [], None)
    assert (hub.stats().subscriptions, hub.stats().connections) == (3, 2)


async def test_subscribing_over_and_over_leaves_nothing_behind() -> None:
    hub, listener = hub_of(), Listener()
    for _ in range(100):
        hub.unsubscribe(listener, hub.subscribe(listener, [], None))
    await turns()
    assert listener.waiting == 1     # its end


async def test_each_subscription_of_a_connection_is_told_for_itself() -> None:
    hub, listener = hub_of(), Listener()
    both = [hub.subscribe(listener, [], None), hub.subscribe(listener, ["episodes"], None)]
    await turns()
    hub.publish("episodes", {"n": 0})
    assert [event["subscription"] for event in listener.events] == both


async def test_an_event_is_encoded_once_and_only_if_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []

    def encode(value: object) -> bytes:
        encoded.append(value)
        return b"{}"

    monkeypatch.setattr("nexusd.wire.events.encode", encode)
    hub, listeners = hub_of(), [Listener(), Listener()]
    for listener in listeners:
        hub.subscribe(listener, ["episodes"], None)
    await turns()
    hub.publish("sessions", {"n": 0})
    assert encoded == []
    hub.publish("episodes", {"n": 1})
    assert encoded.count({"n": 1}) == 1
    assert [len(listener.lines) for listener in listeners] == [1, 1]


async def test_publishing_never_raises_whatever_it_is_given() -> None:
    with structlog.testing.capture_logs() as entries:
        hub, listener = hub_of(), Listener()
        hub.subscribe(listener, [], None)
        await turns()
        hub.publish("episodes", {"n": object()})
        hub.publish("episodes", {"n": "\ud800"})
        hub.publish("episodes", {"n": 2})
    assert [event["data"] for event in listener.events] == [{}, {}, {"n": 2}]
    assert [entry["log_level"] for entry in entries] == ["error", "error"]


async def test_a_change_is_told_by_its_method_and_id_and_never_by_its_texts() -> None:
    hub, listener = hub_of(), Listener()
    hub.subscribe(listener, [], None)
    await turns()
    hub.changed(method("episodes.create"), NoParams(), Row(7))
    hub.changed(method("episodes.delete"), Row(8), {"deleted": {"episodes": 1}})  # type: ignore[arg-type]
    hub.changed(method("outbox.retry", lambda _p, result: {"rows": result}), NoParams(), 3)
    hub.changed(method("cache.clear"), NoParams(), None)
    assert [(event["topic"], event["data"]) for event in listener.events] == [
        ("episodes", {"method": "episodes.create", "id": 7}),
        ("episodes", {"method": "episodes.delete", "id": 8}),
        ("outbox", {"method": "outbox.retry", "rows": 3}),
        ("cache", {"method": "cache.clear"}),
    ]
    assert b"private" not in b"".join(listener.lines)


async def test_a_subject_that_fails_costs_the_caller_nothing() -> None:
    def fail(_params: Any, _result: Any) -> dict[str, Any]:
        raise KeyError("id")

    with structlog.testing.capture_logs() as entries:
        hub, listener = hub_of(), Listener()
        hub.subscribe(listener, [], None)
        await turns()
        hub.changed(method("episodes.create", fail), NoParams(), None)
    assert listener.events[0]["data"] == {"method": "episodes.create"}
    assert [entry["log_level"] for entry in entries] == ["error"]


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 12))
def test_whatever_the_pace_every_event_comes_once_in_order_or_is_announced_as_lost(
    seed: int, kept: int, since: int
) -> None:
    history: dict[int, str] = {}

    async def live() -> Listener:
        chance = random.Random(seed)
        hub, listener = hub_of(event_replay=kept), Listener(room=chance.randrange(3))
        hub.subscribe(Listener(), [], None)     # one that keeps up, beside it

        def publish() -> None:
            topic = chance.choice(["episodes", "sessions"])
            hub.publish(topic, {"n": len(history)})
            history[hub.seq] = topic

        for _ in range(12):
            publish()
        hub.subscribe(listener, ["episodes"], FIRST - 1 + since)
        for _ in range(40):
            if chance.random() < 0.7:
                publish()
            else:
                listener.read(room=chance.choice([0, 1, 2, None]))
            await turns(chance.randrange(3))
        listener.read()
        await turns(5)
        return listener

    listener = asyncio.run(live())
    position = FIRST - 1 + since
    lost: set[int] = set()
    for event in listener.events:
        if event["topic"] == "lagged":
            after, next_ = event["data"]["after"], event["data"]["next"]
            assert position <= after < next_ == event["seq"] + 1
            lost.update(range(after + 1, next_))
            position = event["seq"]
        else:
            assert event["seq"] > position, "told twice, or out of order"
            position = event["seq"]
    came = {event["seq"] for event in listener.events if event["topic"] != "lagged"}
    assert came.isdisjoint(lost)
    wanted = {seq for seq, topic in history.items() if topic == "episodes" and seq >= FIRST + since}
    assert came <= wanted
    assert wanted - lost == came


async def test_of_many_items_none_of_which_was_taken_nothing_is_told() -> None:
    hub = hub_of()
    many = method("episodes.createMany", subject=lambda _params, result: {"ids": result})
    hub.changed(many, NoParams(), [])
    hub.changed(many, NoParams(), [7])
    listener = Listener()
    hub.subscribe(listener, [], FIRST - 1)
    await turns()
    assert [event["data"]["ids"] for event in listener.events] == [[7]]


async def test_a_smaller_ring_forgets_the_oldest_and_a_larger_one_keeps_more_from_then_on() -> None:
    hub = hub_of(event_replay=4)
    for number in range(4):
        hub.publish("episodes", {"n": number})
    hub.set_limits(LimitsConfig(event_replay=2))
    late = Listener()
    hub.subscribe(late, [], FIRST)
    await turns()
    assert told(late) == [("lagged", FIRST, FIRST + 2), ("episodes", 2), ("episodes", 3)]
    hub.set_limits(LimitsConfig(event_replay=3))
    for number in range(4, 6):
        hub.publish("episodes", {"n": number})
    later = Listener()
    hub.subscribe(later, [], FIRST + 2)
    await turns()
    assert told(later) == [("episodes", 3), ("episodes", 4), ("episodes", 5)]


async def test_a_new_number_of_subscriptions_holds_for_the_next_one() -> None:
    hub, listener = hub_of(max_subscriptions=1), Listener()
    hub.subscribe(listener, [], None)
    hub.set_limits(LimitsConfig(max_subscriptions=2))
    hub.subscribe(listener, [], None)
    hub.set_limits(LimitsConfig(max_subscriptions=1))
    with pytest.raises(TooLarge):
        hub.subscribe(listener, [], None)
    assert hub.stats().subscriptions == 2
