"""The persistence module for `eventsourcing` applications, beyond what the library's own cases ask of it."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactoryError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.system import ProcessApplication, SingleThreadedRunner, System
from eventsourcing.utils import Environment

from bus import streams
from bus.connection import Credentials, connect
from bus.envelope import Head, Meta, Stored
from bus.errors import Unavailable
from bus.persistence import (
    JetStreamApplicationRecorder,
    JetStreamFactory,
    LedgerAggregate,
    LedgerEvent,
)
from bus.store import Change, EventStore
from domain.aggregate import aggregates
from domain.errors import UnknownEvent
from domain.plan import Plan
from domain.sample import RegisterSample, SampleRegistered
from domain.scan import AbortScan, RequestScan, StartScan
from labledger import audit
from labledger.embedded.nats_server import NatsServer

PLAN = Plan.model_validate(
    {
        "nodes": [
            {
                "kind": "move",
                "instrument": "stage",
                "channel": "x",
                "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 10},
                "children": [{"kind": "measure", "instrument": "dmm", "channels": ["voltage"]}],
            }
        ]
    }
)


class Notebook(Aggregate):
    @event("Opened")
    def __init__(self, title: str) -> None:
        self.title = title
        self.lines: list[str] = []

    @event("Written")
    def write(self, line: str) -> None:
        self.lines.append(line)


class Notebooks(Application[UUID]):
    def open(self, title: str) -> UUID:
        notebook = Notebook(title)
        self.save(notebook)
        return notebook.id

    def write(self, id_: UUID, *lines: str) -> None:
        notebook: Notebook = self.repository.get(id_)
        for line in lines:
            notebook.write(line)
        self.save(notebook)

    def read(self, id_: UUID) -> list[str]:
        notebook: Notebook = self.repository.get(id_)
        return notebook.lines


class Lab:
    """A server with our streams, and factories and applications on it."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.made: list[Any] = []
        self.run(streams.provision)

    def credentials(self, user: str) -> Credentials:
        it = self.server.users[user]
        return Credentials(it.name, it.password, it.inbox_prefix)

    def run(self, work: Callable[[Any], Any], user: str = "provisioner") -> Any:
        """Do something with a connection of our own async code."""

        async def go() -> Any:
            bus = await connect(self.server.url, "test", self.credentials(user))
            try:
                return await work(bus)
            finally:
                await bus.close()

        return asyncio.run(go())

    def settings(self, user: str = "commands", **more: str) -> dict[str, str]:
        it = self.server.users[user]
        return {
            "PERSISTENCE_MODULE": "bus.persistence",
            "NATS_URL": self.server.url,
            "NATS_USER": it.name,
            "NATS_PASSWORD": it.password,
            "NATS_INBOX_PREFIX": it.inbox_prefix,
        } | more

    def factory(self, name: str = "Tests", user: str = "commands", **more: str) -> JetStreamFactory:
        factory = JetStreamFactory(Environment(name, self.settings(user, **more)))
        self.made.append(factory)
        return factory

    def recorder(self, **more: str) -> JetStreamApplicationRecorder:
        return self.factory(**more).application_recorder()

    def application(self, user: str = "commands", **more: str) -> Notebooks:
        application = Notebooks(self.settings(user, **more))
        self.made.append(application)
        return application

    def connection_file(self, folder: Path) -> Path:
        """As `labledger up` writes it."""
        users = {
            name: {"user": it.name, "password": it.password, "inbox_prefix": it.inbox_prefix}
            for name, it in self.server.users.items()
        }
        file = folder / "connection.json"
        file.write_text(json.dumps({"version": 1, "nats": {"url": self.server.url, "users": users}}))
        return file

    def history(self, kind: str, id_: Any) -> list[Stored]:
        return self.run(lambda bus: EventStore(bus).history(kind, str(id_)))

    def decide(self, kind: str, id_: Any, *commands: Any) -> list[Any]:
        """What our own code would store for these commands."""

        async def go(bus: Any) -> list[Any]:
            aggregate, store = aggregates()[kind], EventStore(bus)
            found = await store.history(kind, str(id_))
            state, written = aggregate.fold(aggregate.initial, (one.event for one in found)), []
            head = found[-1].head if found else Head()
            for command in commands:
                events = aggregate.decide(state, command)
                state = aggregate.fold(state, events)
                written += await store.append([Change(kind, str(id_), events, head)], Meta.new("ada"))
                head = written[-1].head
            return written

        return self.run(go)


@pytest.fixture
def lab(make_nats: Callable[..., NatsServer]) -> Iterator[Lab]:
    lab = Lab(make_nats(sync_interval="2m"))
    yield lab
    for one in lab.made:
        one.close()


def stored(id_: Any, version: int, topic: str = "notes:Written", state: bytes = b'{"line": "x"}') -> StoredEvent:
    return StoredEvent(id_, version, topic, state)


def store_of(recorder: JetStreamApplicationRecorder) -> Any:
    """What lives in the loop thread."""
    return recorder.link.call(lambda store: _itself(store))


async def _itself(store: Any) -> Any:
    return store


# --------------------------------------------------------------------------------------------------------- what is stored


def test_an_applications_events_lie_in_our_envelope(lab: Lab) -> None:
    application = lab.application(EVENT_ACTOR="ada")
    id_ = application.open("monday")
    application.write(id_, "cold today", "warm now")
    found = lab.history("notebooks", id_)
    assert [one.subject for one in found] == [f"evt.notebooks.{id_}"] * 3
    assert [one.version for one in found] == [1, 2, 3]
    assert [one.type for one in found] == [f"{__name__}:Notebook.{name}" for name in ("Opened", "Written", "Written")]
    assert [one.actor for one in found] == ["ada"] * 3
    assert found[0].headers["content-type"] == "application/json"
    assert json.loads(found[1].data)["line"] == "cold today"
    assert found[1].previous_hash == found[0].hash
    # Two events of one save: one cause, one transaction.
    assert found[1].causation == found[2].causation != found[0].causation
    assert application.read(id_) == ["cold today", "warm now"]


def test_an_audit_holds_over_the_events_of_applications_and_ours(lab: Lab) -> None:
    application, counting_from_0 = lab.application(), lab.recorder()
    id_ = application.open("monday")
    lab.decide("sample", "wafer", RegisterSample(sample_id="wafer", material="Si"))
    application.write(id_, "a", "b")
    other = uuid4()
    counting_from_0.insert_events([stored(other, 0), stored(other, 1)])
    report = lab.run(audit.verify, "auditor")
    assert report.ok
    assert (report.events, report.aggregates) == (6, 3)


def test_a_body_that_is_not_json_says_so(lab: Lab) -> None:
    application = lab.application(COMPRESSOR_TOPIC="zlib")
    id_ = application.open("monday")
    (found,) = lab.history("notebooks", id_)
    assert found.headers["content-type"] == "application/octet-stream"
    assert json.loads(zlib.decompress(found.data))["title"] == "monday"
    notebook: Notebook = application.repository.get(id_)
    assert notebook.title == "monday"


def test_one_insert_keeps_the_order_in_which_the_events_were_given(lab: Lab) -> None:
    recorder = lab.recorder()
    a, b = uuid4(), uuid4()
    ids = recorder.insert_events([stored(a, 1), stored(b, 1), stored(a, 2), stored(b, 2)])
    assert ids == [1, 2, 3, 4]
    log = recorder.select_notifications(None, 10)
    assert [(one.originator_id, one.originator_version) for one in log] == [(a, 1), (b, 1), (a, 2), (b, 2)]
    with pytest.raises(IntegrityError):  # all or nothing, over several aggregates
        recorder.insert_events([stored(a, 3), stored(b, 2)])
    assert len(recorder.select_events(a)) == 2
    assert lab.run(audit.verify).ok


def test_a_gap_in_the_versions_is_refused(lab: Lab) -> None:
    recorder = lab.recorder()
    id_ = uuid4()
    with pytest.raises(IntegrityError, match="gap"):
        recorder.insert_events([stored(id_, 7)])
    recorder.insert_events([stored(id_, 1)])
    with pytest.raises(IntegrityError, match="gap"):
        recorder.insert_events([stored(id_, 3)])
    assert lab.history("tests", id_)[-1].version == 1


@pytest.mark.parametrize("first", [0, 1])
def test_another_process_goes_on_where_the_first_one_counted(lab: Lab, first: int) -> None:
    id_ = uuid4()
    lab.recorder().insert_events([stored(id_, first)])
    elsewhere = lab.recorder()
    elsewhere.insert_events([stored(id_, first + 1)])
    with pytest.raises(IntegrityError):
        lab.recorder().insert_events([stored(id_, first + 1)])
    assert [one.originator_version for one in elsewhere.select_events(id_)] == [first, first + 1]
    assert [one.originator_version for one in elsewhere.select_notifications(None, 9)] == [first, first + 1]


def test_a_recorder_that_knows_an_older_end_conflicts_once_and_then_goes_on(lab: Lab) -> None:
    here, there = lab.recorder(), lab.recorder()
    id_ = uuid4()
    here.insert_events([stored(id_, 1)])
    there.insert_events([stored(id_, 2)])
    with pytest.raises(IntegrityError):
        here.insert_events([stored(id_, 2)])
    assert here.insert_events([stored(id_, 3)]) == [3]


def test_what_cannot_be_stored_is_refused_in_words(lab: Lab) -> None:
    recorder = lab.recorder()
    with pytest.raises(DataError, match="part of a subject"):
        recorder.insert_events([stored("customer 1.>", 1)])
    with pytest.raises(DataError, match="bytes"):
        recorder.insert_events([stored(uuid4(), 1, state=b"x" * 950_000)])
    id_ = uuid4()
    with pytest.raises(NotSupportedError, match="1000"):
        recorder.insert_events([stored(id_, n) for n in range(1, 1002)])
    with pytest.raises(ProgrammingError, match="process recorder"):
        recorder.insert_events([stored(id_, 1)], tracking=Tracking("upstream", 1))
    assert recorder.max_notification_id() is None


def test_text_ids_stay_text_when_asked(lab: Lab) -> None:
    recorder = lab.recorder(ORIGINATOR_ID_TYPE="text")
    text = str(uuid4())
    recorder.insert_events([stored(text, 1), stored("bench-7", 1)])
    assert [one.originator_id for one in recorder.select_notifications(None, 9)] == [text, "bench-7"]
    ids = [one.originator_id for one in lab.recorder().select_notifications(None, 9)]
    assert ids == [UUID(text), "bench-7"]


# ---------------------------------------------------------------------------------------------------------------- our scans


def test_a_notebook_reads_the_history_of_a_scan(lab: Lab) -> None:
    scan_id = uuid4()
    lab.decide(
        "scan",
        scan_id,
        RequestScan(scan_id=scan_id, plan=PLAN, title="IV"),
        StartScan(scan_id=scan_id, attempt=1, station_id="s1", instance="i"),
        AbortScan(scan_id=scan_id, reason="smoke"),
    )
    scans = lab.application(user="projections", EVENT_KIND="scan")
    events = cast("list[LedgerEvent]", list(scans.events.get(scan_id)))
    assert [one.type for one in events] == ["scan.requested.v1", "scan.started.v1", "scan.abort_requested.v1"]
    assert [one.originator_version for one in events] == [1, 2, 3]
    assert {one.actor for one in events} == {"ada"}
    assert events[0].timestamp.tzinfo is not None and events[0].timestamp <= events[2].timestamp
    assert events[0].event.model_dump()["title"] == "IV"
    # As of any version, by the domain's own rules.
    states = {version: cast("LedgerAggregate", scans.repository.get(scan_id, version=version)) for version in (1, 2, 3)}
    history = lab.history("scan", scan_id)
    scan = aggregates()["scan"]
    for version, then in states.items():
        assert then.version == version
        assert then.state == scan.fold(scan.initial, (one.event for one in history[:version]))
    assert states[1].state != states[2].state != states[3].state
    topics = [one.topic for one in scans.recorder.select_notifications(None, 9, topics=["scan.started.v1"])]
    assert topics == ["scan.started.v1"]
    with pytest.raises(AggregateNotFoundError):
        scans.repository.get(uuid4())


def test_an_application_cannot_write_into_our_kinds(lab: Lab) -> None:
    recorder = lab.recorder(EVENT_KIND="scan")
    id_ = uuid4()
    with pytest.raises(NotSupportedError, match="send a command"):
        recorder.insert_events([stored(id_, 1)])
    with pytest.raises(NotSupportedError):
        lab.factory(EVENT_KIND="readings").aggregate_recorder("snapshots").insert_events([stored(id_, 1)])
    assert lab.history("scan", id_) == []


def test_a_type_that_we_do_not_know_is_told_and_not_skipped(lab: Lab) -> None:
    class FromTomorrow(SampleRegistered):
        TYPE = "sample.registered.v9"  # type: ignore[misc]

    change = Change("sample", "wafer", [FromTomorrow(sample_id="wafer", material="Si")], Head())
    lab.run(lambda bus: EventStore(bus).append([change], Meta.new()))
    samples = lab.application(EVENT_KIND="sample")
    (found,) = cast("list[LedgerEvent]", list(samples.events.get(cast("Any", "wafer"))))
    assert found.type == "sample.registered.v9"
    with pytest.raises(UnknownEvent):
        samples.repository.get(cast("Any", "wafer"))


def test_notification_ids_are_sequences_of_the_shared_stream(lab: Lab) -> None:
    application = lab.application()
    first = application.open("monday")
    lab.decide("sample", "wafer", RegisterSample(sample_id="wafer", material="Si"))
    application.write(first, "a")
    log = application.recorder.select_notifications(None, 10)
    assert [one.id for one in log] == [1, 3]
    assert [one.id for one in application.recorder.select_notifications(2, 10)] == [3]
    assert application.recorder.max_notification_id() == 3
    assert lab.recorder(EVENT_KIND="sample").max_notification_id() == 2
    assert lab.recorder(EVENT_KIND="nothing").max_notification_id() is None


# ------------------------------------------------------------------------------------------------- lost answers, NATS away


class Lossy:
    """Loses the answers to writes, after the server has stored them."""

    def __init__(self, recorder: JetStreamApplicationRecorder, left: int) -> None:
        self.bus, self.left, self.lost = store_of(recorder).bus, left, 0
        self._request = self.bus.request
        self.bus.request = self._lossy

    async def _lossy(self, subject: str, *args: Any, **kwargs: Any) -> Any:
        answer = await self._request(subject, *args, **kwargs)
        if self.left and not subject.startswith("$JS"):
            self.left -= 1
            self.lost += 1
            raise Unavailable("the answer was lost on its way (test)")
        return answer


@pytest.mark.parametrize("count", [1, 3])
def test_an_insert_whose_answer_is_lost_is_stored_once(lab: Lab, count: int) -> None:
    recorder = lab.recorder()
    lossy = Lossy(recorder, left=1)
    id_ = uuid4()
    assert recorder.insert_events([stored(id_, n + 1) for n in range(count)]) == list(range(1, count + 1))
    assert lossy.lost == 1
    assert len(lab.history("tests", id_)) == count
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(id_, 1)])


@pytest.mark.parametrize("stored_by_then", [True, False])
def test_an_insert_that_ended_in_doubt_can_be_given_again(lab: Lab, stored_by_then: bool) -> None:
    recorder = lab.recorder(NATS_TIMEOUT_S="0.5")
    bus = store_of(recorder).bus
    request = bus.request

    async def deaf(subject: str, *args: Any, **kwargs: Any) -> Any:
        if stored_by_then:
            await request(subject, *args, **kwargs)
        raise Unavailable("no answer comes back (test)")

    async def last(subject: str) -> None:
        return None  # nothing was there before the insert

    id_ = uuid4()
    events = [stored(id_, 1), stored(id_, 2)]
    bus.request, store_of(recorder).last = deaf, last
    with pytest.raises(OperationalError):
        recorder.insert_events(events)
    bus.request = request
    del store_of(recorder).last
    assert len(lab.history("tests", id_)) == (2 if stored_by_then else 0)
    recorder.select_events(id_)  # by now it even knows that versions 1 and 2 are there
    assert recorder.insert_events(events) == [1, 2]
    assert len(lab.history("tests", id_)) == 2
    with pytest.raises(IntegrityError):  # it is settled: now it is another insert
        recorder.insert_events(events)


def test_of_two_threads_with_the_very_same_event_one_fails(lab: Lab) -> None:
    """Two withdrawals of the same amount, without a time stamp in them, are two."""
    recorders = [lab.recorder(), lab.recorder()]
    for recorder in recorders:
        recorder.max_notification_id()
    outcomes: list[str] = []

    def insert(recorder: JetStreamApplicationRecorder, id_: UUID, start: threading.Barrier) -> None:
        start.wait()
        try:
            recorder.insert_events([stored(id_, 1)])
            outcomes.append("stored")
        except IntegrityError:
            outcomes.append("conflict")

    for _ in range(20):
        outcomes.clear()
        id_, start = uuid4(), threading.Barrier(4)
        threads = [threading.Thread(target=insert, args=(recorders[n % 2], id_, start)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["conflict"] * 3 + ["stored"]
        assert len(lab.history("tests", id_)) == 1


@pytest.mark.faults
def test_while_nats_is_away_calls_fail_in_time_and_then_go_on(lab: Lab) -> None:
    recorder, patient = lab.recorder(NATS_TIMEOUT_S="1"), lab.recorder(NATS_TIMEOUT_S="20")
    id_ = uuid4()
    recorder.insert_events([stored(id_, 1)])
    assert len(patient.select_events(id_)) == 1
    lab.server.kill()
    began = time.monotonic()
    with pytest.raises(OperationalError):
        recorder.select_events(id_)
    with pytest.raises(OperationalError):
        recorder.insert_events([stored(id_, 2)])
    assert time.monotonic() - began < 15  # their second each, and not the patience of the other
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(patient.select_events, id_)
        writing = pool.submit(patient.insert_events, [stored(uuid4(), 1)])
        lab.server.start()
        assert len(reading.result(30)) >= 1
        assert writing.result(30)
    recorder.insert_events([stored(id_, 2)])
    assert [one.originator_version for one in patient.select_events(id_)] == [1, 2]


def test_without_a_server_the_first_call_says_so(lab: Lab) -> None:
    factory = lab.factory(NATS_URL="nats://127.0.0.1:9", NATS_TIMEOUT_S="0.5")
    with pytest.raises(OperationalError, match=r"127\.0\.0\.1:9"):
        factory.application_recorder().max_notification_id()


def test_a_wrong_password_is_no_matter_of_patience(lab: Lab) -> None:
    recorder = lab.recorder(NATS_PASSWORD="guessed-wrong", NATS_TIMEOUT_S="300")
    began = time.monotonic()
    with pytest.raises(InterfaceError, match="refused the credentials") as told:
        recorder.max_notification_id()
    assert time.monotonic() - began < 60  # without a server it would have tried for five minutes
    assert "guessed-wrong" not in str(told.value)


def test_a_server_without_streams_says_what_to_do(make_nats: Callable[..., NatsServer], lab: Lab) -> None:
    lab.server = make_nats()
    with pytest.raises(InterfaceError, match="labledger up"):
        lab.recorder().max_notification_id()
    made = lab.factory(user="provisioner", MAKE_STREAMS="y").application_recorder()
    assert made.insert_events([stored(uuid4(), 1)]) == [1]


# ------------------------------------------------------------------------------------------------- subscriptions, threads


def test_a_subscription_waits_and_another_thread_may_stop_it(lab: Lab) -> None:
    application = lab.application()
    seen: list[int] = []
    subscription = application.recorder.subscribe(topics=[f"{__name__}:Notebook.Written"])

    def read() -> None:
        with subscription:
            seen.extend(one.id for one in subscription)

    reader = threading.Thread(target=read)
    reader.start()
    id_ = application.open("monday")
    application.write(id_, "a", "b")
    deadline = time.monotonic() + 10
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen == [2, 3]
    assert reader.is_alive()
    subscription.stop()
    reader.join(5)
    assert not reader.is_alive()


@pytest.mark.parametrize("poll", ["0", "0.02"])
@pytest.mark.faults
def test_a_subscription_outlives_a_kill_of_the_server(lab: Lab, poll: str) -> None:
    application, reading = lab.application(), lab.application(NATS_POLL_S=poll)
    id_ = application.open("monday")
    with reading.recorder.subscribe(gt=0) as subscription:
        assert next(subscription).id == 1
        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(next, subscription)
            lab.server.kill()
            lab.server.start()
            application.write(id_, "after the crash")
            assert later.result(30).id == 2


def test_close_ends_subscriptions_and_the_thread(lab: Lab) -> None:
    application = lab.application()
    application.open("monday")
    (thread,) = [one for one in threading.enumerate() if one.name == "eventsourcing-notebooks-nats"]
    subscription = application.recorder.subscribe(gt=1)
    ended = threading.Event()

    def read() -> None:
        for _ in subscription:
            pass
        ended.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    time.sleep(0.2)
    application.close()
    assert ended.wait(5)
    assert not thread.is_alive()
    application.close()
    with pytest.raises(InterfaceError, match="closed"):
        application.recorder.max_notification_id()
    subscription.stop()


def test_a_call_under_way_ends_when_the_connection_is_closed(lab: Lab) -> None:
    recorder = lab.recorder()
    recorder.max_notification_id()

    async def for_ever(_: Any) -> None:
        await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(recorder.link.call, for_ever)
        time.sleep(0.1)
        recorder.link.close()
        with pytest.raises(InterfaceError, match="closed"):
            waiting.result(5)


def test_a_forgotten_recorder_leaves_no_thread(lab: Lab) -> None:
    factory = JetStreamFactory(Environment("Forgotten", lab.settings()))
    recorder = factory.application_recorder()
    del factory
    gc.collect()
    recorder.max_notification_id()  # the recorder alone keeps the connection
    (thread,) = [one for one in threading.enumerate() if one.name == "eventsourcing-forgotten-nats"]
    del recorder
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_the_loop_thread_refuses_to_wait_for_itself(lab: Lab) -> None:
    recorder = lab.recorder()

    async def mistaken(_: Any) -> None:
        recorder.max_notification_id()

    with pytest.raises(ProgrammingError, match="for ever"):
        recorder.link.call(mistaken)


def test_many_threads_share_a_recorder(lab: Lab) -> None:
    application = lab.application()
    ids = [application.open(str(n)) for n in range(8)]

    def write(id_: UUID) -> None:
        for n in range(15):
            application.write(id_, str(n))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, ids))
    assert all(application.read(id_) == [str(n) for n in range(15)] for id_ in ids)
    assert lab.run(audit.verify).events == 8 * 16


# ----------------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_saves_reading_the_events_before_it(lab: Lab) -> None:
    application = lab.application(IS_SNAPSHOTTING_ENABLED="y")
    id_ = application.open("monday")
    application.write(id_, *[str(n) for n in range(50)])
    application.take_snapshot(id_)
    application.write(id_, "last")
    # Another process, which has read nothing yet.
    elsewhere = lab.application(IS_SNAPSHOTTING_ENABLED="y")
    store = store_of(cast("JetStreamApplicationRecorder", elsewhere.recorder))
    fetched: list[int] = []
    batches = store._direct_batch

    async def counted(*args: Any) -> Any:
        batch, more = await batches(*args)
        fetched.append(len(batch))
        return batch, more

    store._direct_batch = counted
    assert elsewhere.read(id_)[-1] == "last"
    assert sum(fetched) == 1


def test_snapshots_may_vanish(lab: Lab) -> None:
    application = lab.application(IS_SNAPSHOTTING_ENABLED="y")
    id_ = application.open("monday")
    for n in range(4):
        application.write(id_, str(n))
        application.take_snapshot(id_)
    assert application.snapshots is not None
    kept = [one.originator_version for one in application.snapshots.get(id_)]
    assert kept == [4, 5]  # the two newest
    with pytest.raises(IntegrityError):
        application.take_snapshot(id_)
    before: Notebook = application.repository.get(id_, version=2)
    assert before.lines == ["0"]
    lab.run(lambda bus: bus.api("STREAM.PURGE.SNAP"))
    assert list(application.snapshots.get(id_)) == []
    assert application.read(id_) == ["0", "1", "2", "3"]


def test_a_snapshot_that_is_too_large_is_left_out(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    snapshots = lab.factory().aggregate_recorder("snapshots")
    id_ = uuid4()
    snapshots.insert_events([stored(id_, 1, state=b"x" * 1_100_000)])
    assert snapshots.select_events(id_) == []
    assert "left out" in caplog.text


# ------------------------------------------------------------------------------------------------- tracking, processes


class Counting(ProcessApplication[UUID]):
    """Opens a notebook of its own for each one opened upstream."""

    def policy(self, domain_event: Any, processing_event: Any) -> None:
        if isinstance(domain_event, Notebook.Event) and type(domain_event).__name__ == "Opened":
            processing_event.collect_events(Notebook(f"copy of {domain_event.originator_id}"))


def test_a_process_application_stores_its_position_with_its_events(lab: Lab) -> None:
    runner = SingleThreadedRunner(System([[Notebooks, Counting]]), env=lab.settings())
    runner.start()
    try:
        notebooks, counting = runner.get(Notebooks), runner.get(Counting)
        notebooks.open("monday")
        notebooks.open("tuesday")
        assert counting.recorder.max_tracking_id("Notebooks") == notebooks.recorder.max_notification_id()
        assert len(counting.recorder.select_notifications(None, 10)) == 2
        (first, _, third, last) = lab.run(_tail_of_evt)[-4:]
        assert [first.kind, third.kind, last.kind] == ["tracking", "counting", "tracking"]
        assert third.headers["Nats-Batch-Id"] == last.headers["Nats-Batch-Id"]
        assert json.loads(last.data) == {"application_name": "Notebooks", "notification_id": third.seq - 1}
        assert lab.run(audit.verify).ok
    finally:
        runner.stop()


async def _tail_of_evt(bus: Any) -> list[Stored]:
    return [one async for batch in EventStore(bus).everything() for one in batch]


def test_two_processes_cannot_both_advance_a_position(lab: Lab) -> None:
    here, there = lab.factory().process_recorder(), lab.factory().process_recorder()
    here.insert_events([stored(uuid4(), 1)], tracking=Tracking("Shop, main", 5))
    assert there.max_tracking_id("Shop, main") == 5
    late = uuid4()
    with pytest.raises(IntegrityError):
        there.insert_events([stored(late, 1)], tracking=Tracking("Shop, main", 5))
    assert there.select_events(late) == []
    there.insert_events([stored(late, 1)], tracking=Tracking("Shop, main", 6))
    with pytest.raises(IntegrityError):
        here.insert_tracking(Tracking("Shop, main", 6))


# ------------------------------------------------------------------------------------------------------------- settings


class Table(TrackingRecorder):
    """A view kept in a table."""

    def insert_tracking(self, tracking: Tracking) -> None:
        raise AssertionError("never made")

    def max_tracking_id(self, application_name: str) -> int | None:
        raise AssertionError("never made")


def test_a_view_in_tables_is_refused_in_words(lab: Lab) -> None:
    with pytest.raises(InfrastructureFactoryError, match="a database's persistence module"):
        lab.factory().tracking_recorder(cast("Any", Table))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"NATS_URL": ""}, "connection.json"),
        ({"EVENT_KIND": "My Shop"}, "EVENT_KIND"),
        ({"EVENT_KIND": "tracking"}, "EVENT_KIND"),
        ({"NATS_TIMEOUT_S": "soon"}, "seconds"),
        ({"ORIGINATOR_ID_TYPE": "int"}, "uuid or text"),
        ({"NATS_URL": "", "LABLEDGER_CONNECTION_FILE": "/nowhere/connection.json"}, "/nowhere/connection.json"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], words: str) -> None:
    with pytest.raises(InfrastructureFactoryError, match=words):
        JetStreamFactory(Environment("Shop", {"NATS_URL": "nats://127.0.0.1:9"} | settings))


def test_a_login_in_the_address_is_used_and_not_told(lab: Lab) -> None:
    it = lab.server.users["commands"]
    bare = {"NATS_USER": "", "NATS_PASSWORD": ""}
    address = lab.server.url.replace("://", f"://{it.name}:{it.password}@")
    assert lab.recorder(**bare, NATS_URL=address).max_notification_id() is None
    wrong = lab.server.url.replace("://", "://commands:guessed-wrong@")
    with pytest.raises(InterfaceError) as told:
        lab.recorder(**bare, NATS_URL=wrong).max_notification_id()
    assert "guessed-wrong" not in "".join(traceback.format_exception(told.value))


def test_the_connection_file_of_a_lab_is_enough(lab: Lab, tmp_path: Path) -> None:
    file = lab.connection_file(tmp_path)
    settings = {"PERSISTENCE_MODULE": "bus.persistence", "LABLEDGER_CONNECTION_FILE": str(file)}
    with Notebooks(settings) as application:
        assert application.recorder.max_notification_id() is None
        application.open("monday")
    with pytest.raises(InfrastructureFactoryError, match="no user 'nobody'"):
        Notebooks(settings | {"NATS_USER": "nobody"})


@pytest.mark.parametrize("user", ["dashboard", "auditor"])
def test_users_outside_of_the_lab_can_read(lab: Lab, user: str) -> None:
    application = lab.application()
    id_ = application.open("monday")
    application.write(id_, "a")
    outside = lab.application(user=user, NATS_POLL_S="0.02", NATS_TIMEOUT_S="300")
    assert outside.read(id_) == ["a"]
    assert outside.recorder.max_notification_id() == 2
    with outside.recorder.subscribe() as subscription:
        assert [next(subscription).id, next(subscription).id] == [1, 2]
    # At once: who waited out the five minutes would be noticed.
    with pytest.raises(InterfaceError, match=rf"user '{user}' may not publish to evt\.notebooks\."):
        outside.write(id_, "b")
    assert application.read(id_) == ["a"]


# ------------------------------------------------------------------------------------------------------------- the example


def test_the_example_runs_an_application_and_reads_a_scan(lab: Lab, tmp_path: Path) -> None:
    scan_id = uuid4()
    start = StartScan(scan_id=scan_id, attempt=1, station_id="s1", instance="i")
    lab.decide("scan", scan_id, RequestScan(scan_id=scan_id, plan=PLAN), start)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "examples/notebook_eventsourcing.py", str(lab.connection_file(tmp_path))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "page 'Monday' has ['cold in the lab', 'warmer after lunch'] at version 3, sequence 5",
        "at version 2 it had ['cold in the lab']",
    ]
    assert [line.split()[2:] for line in lines[2:4]] == [["scan.requested.v1", "ada"], ["scan.started.v1", "ada"]]
    assert lines[4:] == [
        "at version 1 the scan was queued",
        "at version 2 the scan was running",
        "it was asked for 10 points with dmm, stage",
    ]
    assert lab.run(audit.verify).ok
