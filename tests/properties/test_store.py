"""Whatever writers do and whichever answers are lost: the history is one chain, and each append is in it once or not."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import streams
from bus.connection import Credentials, connect
from bus.envelope import Head, Meta
from bus.errors import Conflict
from bus.ids import uuid7
from bus.store import Change, EventStore, Written
from domain.parked import ParkedRetried
from labledger.embedded.nats_server import NatsServer
from tests.integration.bus.place import LostAnswers


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder), sync_interval="2m") as server:
        yield server


#: (writer, how many events for each aggregate, whether it has looked at the histories first, whether its answer is lost)
APPEND = st.tuples(
    st.integers(0, 2),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)


@given(appends=st.lists(APPEND, min_size=1, max_size=14))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_append_is_stored_whole_and_once_or_not_at_all(server: NatsServer, appends: list[tuple]) -> None:
    asyncio.run(_check(server, appends))


async def _check(server: NatsServer, appends: list[tuple]) -> None:
    user = server.users["provisioner"]
    bus = await connect(server.url, "property", Credentials(user.name, user.password, user.inbox_prefix))
    await streams.provision(bus)
    store, lost = EventStore(bus, patience_s=5), LostAnswers(bus)
    run = uuid7()
    known: list[dict[str, Head]] = [{}, {}, {}]
    expected: dict[str, list[Written]] = {name: [] for name in "abc"}
    for number, (writer, sizes, looks, loses) in enumerate(appends):
        heads = known[writer]
        if looks:
            for name in sizes:
                last = await store.last(f"evt.parked.{run}{name}")
                heads[name] = last.head if last else Head()
        stale = any(heads.get(n, Head()) != (expected[n][-1].head if expected[n] else Head()) for n in sizes)
        changes = [
            Change(
                "parked",
                f"{run}{name}",
                [ParkedRetried(parked_id="p", park_seq=number)] * count,
                heads.get(name, Head()),
            )
            for name, count in sizes.items()
        ]
        lost.left = int(loses)
        try:
            written = await store.append(changes, Meta(causation=f"{run}-{number}"))
            assert not stale, "who had not seen the last event won"
        except Conflict:
            assert stale, "who had seen everything lost"
            continue
        finally:
            lost.left = 0
        for one in written:
            name = one.subject[-1]
            expected[name].append(one)
            heads[name] = one.head
    for name, written in expected.items():
        stored = await store.history("parked", f"{run}{name}")
        assert [Written.of(event) for event in stored] == written
        head = Head()
        for event in stored:
            assert event.wrong(head) is None
            head = event.head
    await bus.close()
