"""What both clients promise: each test runs over the blocking and over the asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import (
    Act,
    ScriptedDaemon,
    does_it_and_hangs_up,
    hangs_up,
    held,
    is_busy,
    refuses,
    sends_garbage,
    stays_silent,
)

from nexusd.client import (
    AsyncClient,
    Client,
    ClientClosed,
    ConnectionFailed,
    DeadlineExceeded,
    IdempotencyMismatch,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Notification,
    ProtocolViolated,
    Retry,
    RpcError,
)
from nexusd.errors import DiskFull, OutcomeUnknown, TooLarge
from nexusd.model.episodes import CreateEpisode, Episode
from nexusd.model.memory import MemoryFilter, MemoryHits

IMPATIENT = Retry(tries=4, first_s=0.001, longest_s=0.002)
EXCHANGE = {"sessionId": 1, "userMessage": "Where is the key?", "aiResponse": "Under the mat."}


class BlockingAsyncClient:
    """An AsyncClient that a test can call like a Client; the loop runs while a call does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await method(*args, **kwargs)

        return lambda *args, **kwargs: self._runner.run(awaited(*args, **kwargs))

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


MakeClient = Callable[..., Client]


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    with ExitStack() as stack:

        def make(address: str | Path, **options: Any) -> Any:
            options = {"retry": IMPATIENT, "timeout_s": 10.0, **options}
            if request.param == "blocking":
                return stack.enter_context(Client(address, **options))
            client = BlockingAsyncClient(address, **options)
            stack.callback(client.end)
            return client

        yield make


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        yield daemon


@pytest.fixture
def client(make: MakeClient, daemon: ScriptedDaemon) -> Client:
    return make(daemon.address)


# --- calls and their results ---


def test_call_answers_the_result_as_it_came(client: Client) -> None:
    assert client.call("echo", {"a": [1, None]}, b="ß\n") == {"a": [1, None], "b": "ß\n"}


def test_result_is_decoded_as_the_type_that_was_asked_for(client: Client) -> None:
    episode = client.call("episodes.create", EXCHANGE, result=Episode)
    assert isinstance(episode, Episode)
    assert (episode.user_message, episode.session_id) == ("Where is the key?", 1)


def test_parameter_structs_are_sent_under_their_wire_names(client: Client, daemon: ScriptedDaemon) -> None:
    client.call("episodes.create", CreateEpisode(session_id=1, user_message="a", ai_response="b"))
    assert daemon.calls("episodes.create")[0]["userMessage"] == "a"
    assert daemon.calls("episodes.create")[0]["idempotencyKey"]


def test_result_of_another_type_is_a_violation_and_not_a_wrong_object(client: Client) -> None:
    with pytest.raises(ProtocolViolated, match=r"echo answered something unexpected"):
        client.call("echo", result=Episode)


def test_parameter_given_twice_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="got a twice"):
        client.call("echo", {"a": 1}, a=2)


def test_parameters_that_are_no_json_are_refused_before_anything_is_sent(
    client: Client, daemon: ScriptedDaemon
) -> None:
    with pytest.raises(ValueError, match="not valid UTF-8"):
        client.call("echo", text="\ud800", idempotencyKey="k")
    assert daemon.calls("echo") == []


def test_tcp_is_spoken_as_well(make: MakeClient, tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "unused", tcp=True) as daemon:
        assert make(daemon.address).call("echo", a=1) == {"a": 1}


def test_message_larger_than_any_buffer_arrives_whole_in_both_directions(client: Client) -> None:
    text = "memory " * 400_000
    assert client.call("echo", text=text) == {"text": text}


def test_notifications_go_to_the_callback_and_not_to_a_caller(
    make: MakeClient, daemon: ScriptedDaemon
) -> None:
    seen: list[Notification] = []
    client = make(daemon.address, on_notification=seen.append)
    client.call("echo")
    daemon.notify("event", {"seq": 7})
    assert client.call("echo", a=1) == {"a": 1}
    assert [(note.method, bytes(note.params)) for note in seen] == [("event", b'{"seq": 7}')]


# --- errors ---


def test_error_comes_back_as_the_class_that_the_daemon_raised(client: Client, daemon: ScriptedDaemon) -> None:
    with pytest.raises(NotFound) as caught:
        client.call("episodes.get", id=99)
    assert (caught.value.message, caught.value.request_id) == ("No episode has this id.", "r-1")
    assert not caught.value.retryable
    assert len(daemon.calls("episodes.get")) == 1


def test_bad_fields_are_told_one_by_one(client: Client, daemon: ScriptedDaemon) -> None:
    fields = [{"path": "limit", "expected": "an integer"}, {"path": "query", "expected": "a text"}]
    daemon.acts["echo"] = [refuses(-32602, "invalid_params", fields=fields)]
    with pytest.raises(InvalidParams) as caught:
        client.call("echo")
    assert [(field.path, field.expected) for field in caught.value.fields] == [
        ("limit", "an integer"), ("query", "a text"),
    ]  # fmt: skip
    assert caught.value.__notes__ == ["limit: an integer", "query: a text", "requestId r-1"]


def test_kind_of_a_newer_daemon_is_kept(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [refuses(-32077, "moon_phase", "Not tonight.")]
    with pytest.raises(RpcError) as caught:
        client.call("echo")
    said = (caught.value.kind, caught.value.code, caught.value.message)
    assert said == ("moon_phase", -32077, "Not tonight.")


def test_error_that_names_no_request_belongs_to_the_only_one_on_the_way(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [refuses(-32005, "too_large", nameless=True)]
    with pytest.raises(TooLarge):
        client.call("echo")


# --- trying again ---


def test_retry_after_a_lost_reply_carries_the_same_key_and_doubles_nothing(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["episodes.create"] = [does_it_and_hangs_up, does_it_and_hangs_up]
    episode = client.call("episodes.create", EXCHANGE, result=Episode)
    keys = [params["idempotencyKey"] for params in daemon.calls("episodes.create")]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert [episode["id"] for episode in daemon.episodes] == [episode.id]


def test_two_calls_never_share_a_key(client: Client, daemon: ScriptedDaemon) -> None:
    client.call("episodes.create", EXCHANGE)
    client.call("episodes.create", EXCHANGE)
    first, second = daemon.calls("episodes.create")
    assert first["idempotencyKey"] != second["idempotencyKey"]
    assert len(daemon.episodes) == 2


def test_callers_own_key_is_sent_as_it_is(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.create"] = [hangs_up]
    client.call("episodes.create", EXCHANGE, idempotencyKey="mine")
    assert [params["idempotencyKey"] for params in daemon.calls("episodes.create")] == ["mine", "mine"]


def test_read_is_repeated_without_a_key(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [hangs_up, does_it_and_hangs_up]
    assert client.call("echo", a=1) == {"a": 1}
    assert daemon.calls("echo") == [{"a": 1}] * 3


@pytest.mark.parametrize(
    "act",
    [
        is_busy(1),
        refuses(-32007, "starting", retryable=True),
        refuses(-32006, "stopping", retryable=True),
        refuses(-32014, "outcome_unknown", retryable=True),
    ],
)
def test_error_that_passes_by_itself_is_waited_out(client: Client, daemon: ScriptedDaemon, act: Act) -> None:
    daemon.acts["episodes.create"] = [act, act]
    client.call("episodes.create", EXCHANGE)
    assert len({params["idempotencyKey"] for params in daemon.calls("episodes.create")}) == 1
    assert len(daemon.episodes) == 1


def test_busy_daemon_is_left_alone_as_long_as_it_asked(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [is_busy(120)]
    began = time.monotonic()
    client.call("echo")
    assert time.monotonic() - began >= 0.12


def test_daemon_that_stays_busy_ends_in_its_own_error_after_the_tries(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [is_busy(1)] * 9
    with pytest.raises(RpcError) as caught:
        client.call("echo")
    assert (caught.value.kind, caught.value.retry_after_ms) == ("busy", 1)
    assert len(daemon.calls("echo")) == IMPATIENT.tries


def test_error_that_somebody_has_to_mend_is_told_at_once(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.create"] = [refuses(-32012, "disk_full", retryable=True)]
    with pytest.raises(DiskFull):
        client.call("episodes.create", EXCHANGE)
    assert len(daemon.calls("episodes.create")) == 1


def test_method_that_the_daemon_does_not_explain_is_never_sent_twice(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["robots.feed"] = [does_it_and_hangs_up]
    with pytest.raises(ConnectionFailed, match="was lost"):
        client.call("robots.feed")
    assert len(daemon.calls("robots.feed")) == 1


def test_unknown_outcome_of_an_unexplained_method_is_left_to_the_caller(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["robots.feed"] = [refuses(-32014, "outcome_unknown", retryable=True)]
    with pytest.raises(OutcomeUnknown):
        client.call("robots.feed")
    assert len(daemon.calls("robots.feed")) == 1


def test_daemon_that_explains_nothing_still_answers_calls(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["help"] = [refuses(-32601, "method_not_found")] * 9
    assert client.call("echo", a=1) == {"a": 1}
    with pytest.raises(MethodNotFound):
        client.call("robots.feed")


def test_a_method_is_asked_about_once(client: Client, daemon: ScriptedDaemon) -> None:
    for _ in range(3):
        client.call("episodes.create", EXCHANGE)
    assert daemon.calls("help") == [{"method": "episodes.create"}]


def test_calls_with_names_of_their_own_ask_about_nothing(client: Client, daemon: ScriptedDaemon) -> None:
    client.remember("Where is the key?", "Under the mat.", session="kitchen")
    assert daemon.calls("help") == []


def test_idempotency_mismatch_is_no_reason_to_try_again(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.create"] = [refuses(-32015, "idempotency_mismatch")]
    with pytest.raises(IdempotencyMismatch):
        client.call("episodes.create", EXCHANGE, idempotencyKey="used")
    assert len(daemon.calls("episodes.create")) == 1


# --- connections ---


def test_many_calls_share_one_connection(client: Client, daemon: ScriptedDaemon) -> None:
    for number in range(20):
        client.call("echo", n=number)
    assert daemon.connections == 1


def test_daemon_that_was_restarted_is_found_again(client: Client, daemon: ScriptedDaemon) -> None:
    client.call("episodes.create", EXCHANGE)
    daemon.vanish()
    daemon.listen()
    client.call("episodes.create", EXCHANGE)
    assert len(daemon.episodes) == 2


def test_nobody_listening_is_a_failed_connection_that_names_the_place(
    make: MakeClient, tmp_path: Path
) -> None:
    with pytest.raises(ConnectionFailed, match=r"nowhere\.sock: No such file or directory"):
        make(tmp_path / "nowhere.sock").call("echo")


def test_connect_tries_once_and_says_so(make: MakeClient, tmp_path: Path) -> None:
    client = make(tmp_path / "nowhere.sock", retry=Retry(tries=10_000, first_s=5, longest_s=5))
    with pytest.raises(ConnectionFailed):
        client.connect()


def test_refused_tcp_port_is_a_failed_connection(make: MakeClient, tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "unused", tcp=True) as daemon:
        address = daemon.address
    with pytest.raises(ConnectionFailed, match="no connection to tcp://127"):
        make(address).call("echo")


def test_garbage_is_a_violation_and_the_next_call_begins_anew(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["echo"] = [sends_garbage]
    with pytest.raises(ProtocolViolated):
        client.call("echo")
    assert len(daemon.calls("echo")) == 1
    assert client.call("echo", a=1) == {"a": 1}
    assert daemon.connections == 2


def test_deadline_holds_over_all_tries(make: MakeClient, tmp_path: Path) -> None:
    client = make(tmp_path / "nowhere.sock", retry=Retry(tries=10_000, first_s=0.02, longest_s=0.02))
    began = time.monotonic()
    with pytest.raises(ConnectionFailed):
        client.call("echo", timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_silence_ends_at_the_deadline_and_the_late_reply_reaches_nobody(
    client: Client, daemon: ScriptedDaemon
) -> None:
    daemon.acts["echo"] = [held]
    with pytest.raises(DeadlineExceeded, match="echo got no answer in time") as caught:
        client.call("echo", n=1, timeout_s=0.05)
    assert isinstance(caught.value, TimeoutError)
    daemon.release()
    assert client.call("echo", n=2) == {"n": 2}
    assert daemon.connections == 1


def test_daemons_own_waiting_does_not_count_against_the_deadline(
    make: MakeClient, daemon: ScriptedDaemon
) -> None:
    client = make(daemon.address, timeout_s=0.05)
    daemon.answers["outbox.wait"] = {"done": True, "pending": 0, "dead": 0}

    async def waits(daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await asyncio.sleep(0.2)  # what the call asked for
        await daemon.behave(writer, request)

    daemon.acts["outbox.wait"] = [waits]
    assert client.wait_indexed(timeout_ms=10_000).done


def test_closed_client_says_so(client: Client) -> None:
    client.call("echo")
    client.close()
    with pytest.raises(ClientClosed):
        client.call("echo")


def test_client_may_be_closed_twice_and_before_it_connected(make: MakeClient, daemon: ScriptedDaemon) -> None:
    client = make(daemon.address)
    client.close()
    client.close()
    assert daemon.connections == 0


# --- calls with names ---


def test_remember_makes_the_session_once(client: Client, daemon: ScriptedDaemon) -> None:
    first = client.remember("Where is the key?", "Under the mat.", session="kitchen")
    second = client.remember("And now?", "", session="kitchen", tokenCount=3)
    assert list(daemon.sessions) == ["kitchen"]
    assert (first.session_id, second.session_id, second.token_count) == (1, 1, 3)


def test_remember_takes_a_session_that_somebody_else_just_made(
    client: Client, daemon: ScriptedDaemon
) -> None:
    async def another_was_quicker(
        daemon: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]
    ) -> None:
        missing = daemon.reply_to(request)
        daemon.reply_to({"id": 0, "method": "sessions.create", "params": {"externalId": "kitchen"}})
        await daemon.send(writer, missing)

    daemon.acts["sessions.getByExternalId"] = [another_was_quicker]
    assert client.remember("Where is the key?", "Under the mat.", session="kitchen").session_id == 1
    assert len(daemon.sessions) == 1


def test_remember_in_a_session_by_its_id_is_one_request(client: Client, daemon: ScriptedDaemon) -> None:
    client.remember("Where is the key?", "Under the mat.", session=7, wait=True, idempotency_key="k")
    assert [request["method"] for request in daemon.received] == ["episodes.create"]
    assert daemon.calls("episodes.create") == [
        {**EXCHANGE, "sessionId": 7, "waitFor": "indexed", "idempotencyKey": "k"}
    ]


def test_search_sends_only_the_filter_that_was_given(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.answers["memory.search"] = {"items": [], "degraded": ["index"]}
    found = client.search("key", limit=3, filter=MemoryFilter(session_id=4))
    assert found == MemoryHits(items=[], degraded=["index"])
    assert daemon.calls("memory.search") == [
        {"query": "key", "mode": "hybrid", "limit": 3, "explain": False, "filter": {"sessionId": 4}}
    ]


def test_silent_daemon_is_not_asked_again_within_the_call(client: Client, daemon: ScriptedDaemon) -> None:
    daemon.acts["episodes.create"] = [stays_silent]
    with pytest.raises(DeadlineExceeded):
        client.call("episodes.create", EXCHANGE, timeout_s=0.5)
    daemon.wait_for("episodes.create")
    assert len(daemon.calls("episodes.create")) == 1
