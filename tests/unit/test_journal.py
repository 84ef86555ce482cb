"""Entries in the journal: fields to filter by, one for a whole traceback, and nobody waits for it."""

from __future__ import annotations

import inspect
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog
from fakes.journal import FakeJournal, parse
from hypothesis import given
from hypothesis import strategies as st
from logging_journald import JournaldTransport

from nexusd.config_sections import LogConfig
from nexusd.journal import ENTRIES_LOST, Journal, message_id, render_fields
from nexusd.log import LogControl, configure, log_stray_errors

Configured = Callable[..., LogControl]
Logger = structlog.typing.FilteringBoundLogger


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    with FakeJournal(tmp_path / "journal") as listening:
        yield listening


@pytest.fixture
def configured() -> Iterator[Configured]:
    made: list[LogControl] = []

    def configured_(config: LogConfig, stream: TextIO, journal_stream: str | None = None) -> LogControl:
        made.append(configure(config, stream, journal_stream))
        return made[-1]

    yield configured_
    for control in made:
        control.close()


@pytest.fixture
def control(journal: FakeJournal, configured: Configured) -> LogControl:
    return configured(LogConfig(level="info", format="journal", journal_socket=str(journal.path)), io.StringIO())


def log(name: str = "nexusd.test") -> Logger:
    logger: Logger = structlog.get_logger(name)
    return logger


@pytest.mark.usefixtures("control")
def test_an_entry_has_a_sentence_for_people_and_fields_to_filter_by(journal: FakeJournal) -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    log().warning("slow request", method="memory.search", request_id="ab-1", peer="uid:7", duration_ms=1200.125)
    entry = journal.next()
    assert entry == {
        "MESSAGE": "slow request: method=memory.search request_id=ab-1 peer=uid:7 duration_ms=1200.125",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "nexusd",
        "MESSAGE_ID": message_id("slow request"),
        "CODE_FILE": __file__,
        "CODE_LINE": str(line),
        "CODE_FUNC": "test_an_entry_has_a_sentence_for_people_and_fields_to_filter_by",
        "NEXUS_LOGGER": "nexusd.test",
        "NEXUS_METHOD": "memory.search",
        "NEXUS_REQUEST_ID": "ab-1",
        "NEXUS_PEER": "uid:7",
        "NEXUS_DURATION_US": "1200125",
    }


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(("level", "priority"), [("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")])
def test_each_level_has_its_priority_there_too(journal: FakeJournal, level: str, priority: str) -> None:
    getattr(log(), level)("it happened")
    entry = journal.next()
    assert (entry["PRIORITY"], entry["MESSAGE"]) == (priority, "it happened")


@pytest.mark.usefixtures("control")
def test_a_traceback_is_one_entry_with_the_kind_of_error(journal: FakeJournal) -> None:
    try:
        os.close(-1)
    except OSError:
        log().exception("task failed", task="outbox")
    [entry] = journal.entries()
    first, *rest = entry["MESSAGE"].split("\n")
    assert first == "task failed: task=outbox kind=OSError"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "OSError: [Errno 9] Bad file descriptor"
    assert entry["NEXUS_ERROR_KIND"] == "OSError"
    assert entry["PRIORITY"] == "3"


@pytest.mark.usefixtures("control")
def test_texts_and_tokens_are_in_no_field_of_an_entry(journal: FakeJournal) -> None:
    said = "flowerpot"
    try:
        int(said)
    except ValueError:
        log().exception("failed", user_message=said, query=said, reason=KeyError(said), row={"text": said})
    entry = journal.next()
    assert said not in str(entry)
    assert entry["NEXUS_REASON"] == "KeyError (message withheld)"
    assert entry["NEXUS_USER_MESSAGE"] == "[withheld]"


@pytest.mark.usefixtures("control")
def test_an_error_that_has_a_kind_of_its_own_keeps_it(journal: FakeJournal) -> None:
    log().error("unforeseen error", kind="internal_error", exc_info=ZeroDivisionError("by zero"))
    entry = journal.next()
    assert entry["NEXUS_ERROR_KIND"] == "internal_error"
    assert entry["MESSAGE"].endswith("\nZeroDivisionError: by zero")


@pytest.mark.usefixtures("control")
def test_an_entry_that_is_too_long_for_a_datagram_goes_as_a_sealed_file(journal: FakeJournal) -> None:
    fields = {f"field_{number}": "x" * 2000 for number in range(400)}  # each as long as a value may be
    log().info("much to say", **fields)
    log().info("little to say")
    entry = journal.next()
    assert journal.by_memory_file == 1
    assert {name: entry[f"NEXUS_{name.upper()}"] for name in fields} == fields
    assert journal.next()["MESSAGE"] == "little to say"
    assert journal.by_memory_file == 1


def test_a_journal_that_does_not_keep_up_makes_nobody_wait_and_what_was_lost_is_told(
    journal: FakeJournal, control: LogControl
) -> None:
    for number in range(2000):  # nobody reads: past its queue, a socket that blocks would do so for ever
        log().info("entry", number=number)
    kept = journal.entries()
    lost = control.dropped
    assert 0 < len(kept) < 2000
    assert len(kept) + lost == 2000
    log().info("there is room again")
    there, told = journal.entries()
    assert there["MESSAGE"] == "there is room again"
    assert (told["MESSAGE"], told["NEXUS_LOST"]) == (f"{ENTRIES_LOST}: lost={lost}", str(lost))
    assert (told["PRIORITY"], told["MESSAGE_ID"]) == ("4", message_id(ENTRIES_LOST))
    log().info("and that was said once")
    assert len(journal.entries()) == 1
    assert control.dropped == lost


def test_an_entry_as_a_file_makes_nobody_wait_either(journal: FakeJournal, control: LogControl) -> None:
    while not control.dropped:
        log().info("entry")
    log().info("much to say", **{f"field_{number}": "x" * 2000 for number in range(400)})
    assert control.dropped == 2
    assert {entry["MESSAGE"] for entry in journal.entries()} == {"entry"}


def test_a_journal_that_is_started_again_gets_the_entries_from_then_on(
    journal: FakeJournal, control: LogControl
) -> None:
    log().info("before")
    assert journal.next()["MESSAGE"] == "before"
    journal.close()
    log().info("meanwhile")
    log().info("meanwhile")
    with FakeJournal(journal.path) as again:
        log().info("after")
        assert [entry["MESSAGE"] for entry in again.entries()] == ["after", f"{ENTRIES_LOST}: lost=2"]
    assert control.dropped == 2


def test_entries_of_many_threads_all_arrive_or_are_counted(journal: FakeJournal, control: LogControl) -> None:
    seen = []

    def read() -> None:
        while (entry := journal.next())["MESSAGE"] != "end":
            seen.append(entry)

    reader = threading.Thread(target=read)
    reader.start()
    threads = [threading.Thread(target=lambda: [log().info("entry") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = control.dropped
    log().info("end")
    while control.dropped > before:     # there was no room for it
        before = control.dropped
        log().info("end")
    reader.join()
    log().info("after")     # there is room now: what is still owed of the count is told
    assert sum(entry["MESSAGE"] == "entry" for entry in seen) + control.dropped >= 2000
    told = sum(int(entry["NEXUS_LOST"]) for entry in [*seen, *journal.entries()] if "NEXUS_LOST" in entry)
    assert told == control.dropped


@pytest.mark.usefixtures("control")
def test_what_other_libraries_log_names_their_own_place_and_has_no_id(journal: FakeJournal) -> None:
    logging.getLogger("asyncio").error("odd %s", "thing")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware", UserWarning, stacklevel=1)
    odd, beware = journal.entries()
    assert (odd["MESSAGE"], odd["NEXUS_LOGGER"], odd["CODE_FILE"]) == ("odd thing", "asyncio", __file__)
    assert odd["CODE_FUNC"] == "test_what_other_libraries_log_names_their_own_place_and_has_no_id"
    assert beware["CODE_FILE"] == __file__
    assert "MESSAGE_ID" not in odd
    assert "MESSAGE_ID" not in beware


def test_the_id_of_a_kind_of_entry_never_changes() -> None:
    assert message_id("ready") == "8be44ab989875509bcbd7997121b0b3b"
    assert message_id("ready") != message_id("ready ")


values = st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.lists(st.text(max_size=5), max_size=3))


@given(st.dictionaries(st.text(max_size=80), values, max_size=5), st.text(max_size=40))
def test_whatever_an_entry_holds_the_journal_can_take_it(fields: dict[str, object], sentence: str) -> None:
    # names that become one field are not ours: what a sentence comes with is chosen in the code
    names = {"".join(c if c.isascii() and c.isalnum() else "_" for c in name.upper())[:58] for name in fields}
    if len(names) < len(fields) or names & {"LEVEL", "EVENT", "LOGGER", "EXCEPTION", "KIND", "ERROR_KIND"}:
        return
    if names & {"DURATION_MS", "DURATION_US", "PATHNAME", "LINENO", "FUNC_NAME"}:
        return
    (entry,), _ = render_fields(None, "info", {**fields, "event": sentence, "level": "info"})
    data = io.BytesIO()
    for name, value in entry:
        JournaldTransport.pack(data, name, value)
    read = parse(data.getvalue())
    assert len(read) == 3 + sum(value is not None for value in fields.values())
    assert "\n" not in read["MESSAGE"]
    assert read["MESSAGE"].isprintable()


# --- which of the outputs ---------------------------------------------------------------------------------


def config_for(journal: FakeJournal, **more: str) -> LogConfig:
    return LogConfig(**{"journal_socket": str(journal.path), **more})  # type: ignore[arg-type]


def test_a_stream_that_systemd_connected_to_the_journal_means_the_journal(
    journal: FakeJournal, configured: Configured, tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        found = os.fstat(stream.fileno())
        control = configured(config_for(journal), stream, f"{found.st_dev}:{found.st_ino}")
        log().info("hello")
        assert control.kind == "journal"
    assert journal.next()["MESSAGE"] == "hello"
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize("journal_stream", [None, "", "1:2", "nonsense"])
def test_a_stream_that_was_redirected_gets_the_entries_itself(
    journal: FakeJournal, configured: Configured, tmp_path: Path, journal_stream: str | None
) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        control = configured(config_for(journal), stream, journal_stream)
        log().info("hello")
    assert control.kind == "logfmt"
    assert journal.entries() == []
    assert "event=hello" in (tmp_path / "stderr").read_text()


def test_a_stream_without_a_descriptor_is_not_the_journal(journal: FakeJournal, configured: Configured) -> None:
    assert configured(config_for(journal), io.StringIO(), "1:2").kind == "logfmt"


def test_what_was_chosen_goes_before_what_the_stream_is(
    journal: FakeJournal, configured: Configured, tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        found = os.fstat(stream.fileno())
        named = f"{found.st_dev}:{found.st_ino}"
        assert configured(config_for(journal, format="logfmt"), stream, named).kind == "logfmt"
    assert configured(config_for(journal, format="journal"), io.StringIO()).kind == "journal"


def test_where_no_journal_listens_the_stream_gets_the_entries_and_says_why(
    configured: Configured, tmp_path: Path
) -> None:
    stream = io.StringIO()
    control = configured(LogConfig(format="journal", journal_socket=str(tmp_path / "nothing")), stream)
    log().info("hello")
    assert control.kind == "logfmt"
    first, second = stream.getvalue().splitlines()
    assert 'event="no journal to log to"' in first
    assert "event=hello" in second


def test_a_journal_that_may_not_be_looked_at_is_none(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_socket", refuse)
    assert configured(LogConfig(format="journal"), io.StringIO()).kind == "logfmt"


def test_a_closed_journal_counts_and_raises_nothing(journal: FakeJournal) -> None:
    writer = Journal(journal.path)
    writer.close()
    writer.write([("MESSAGE", "x")])
    assert writer.dropped == 1


def test_the_daemon_does_not_log_where_it_logs_from(journal: FakeJournal, control: LogControl) -> None:
    """The hooks for what nobody caught stand in the log's own module, and have no better place to name."""
    del control
    hook = sys.excepthook
    try:
        log_stray_errors()
        thread = threading.Thread(target=lambda: 1 / 0, name="writer")
        thread.start()
        thread.join()
    finally:
        sys.excepthook = hook
        threading.excepthook = threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
    entry = journal.next()
    assert entry["MESSAGE"].startswith("uncaught error in a thread: thread=writer kind=ZeroDivisionError\nTraceback")
    assert "nexusd/log.py" not in entry["CODE_FILE"]
