"""The bare loads that ours is compared with: as little as nats-py and psycopg can do for the same outcome.

They know nothing of labledger. Each returns a rate or latencies of one repetition, and leaves the server as it was.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from bench.servers import api, drop_stream, make_stream, wait_held

PLENTY_MSGS, PLENTY_BYTES = 10**7, 2**31


# nats-py leaves parts of its types open; these two close them.
def jetstream(nc: Client) -> JetStreamContext:
    untyped: Any = nc
    return untyped.jetstream()


async def subscribe(nc: Client, subject: str, see: Callable[[Msg], Awaitable[None]]) -> Subscription:
    """A core subscription with a callback, which never drops for being slow."""
    untyped: Any = nc
    limits = {"pending_msgs_limit": PLENTY_MSGS, "pending_bytes_limit": PLENTY_BYTES}
    return await untyped.subscribe(subject, cb=see, **limits)


@asynccontextmanager
async def stream(nc: Client, name: str, subjects: list[str]) -> AsyncGenerator[None]:
    """A stream for one repetition, so that each begins with an empty one."""
    await make_stream(nc, name, subjects)
    try:
        yield
    finally:
        await drop_stream(nc, name)


async def publish_in_sequence(nc: Client, count: int, size: int = 200) -> float:
    """Raw `js.publish` of `size` bytes without headers, each acknowledged before the next: messages per second."""
    js, body = jetstream(nc), b"x" * size
    async with stream(nc, "B", ["b.>"]):
        started = time.perf_counter()
        for _ in range(count):
            await js.publish("b.a", body)
        return count / (time.perf_counter() - started)


async def publish_at_once(nc: Client, count: int, tasks: int = 64, size: int = 200) -> float:
    """Raw `js.publish` by many tasks, each awaiting its acknowledgements: messages per second."""
    js, body = jetstream(nc), b"x" * size
    left = count

    async def work(subject: str) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await js.publish(subject, body)

    async with stream(nc, "B", ["b.>"]):
        started = time.perf_counter()
        await asyncio.gather(*(work(f"b.{k}") for k in range(tasks)))
        return count / (time.perf_counter() - started)


async def publish_in_batches(nc: Client, count: int, per_batch: int = 64, size: int = 200) -> float:
    """Atomic batches one after another, each message to a subject of its own: messages per second.

    With `sync_interval: always` the server syncs once a batch, so this is what committing as a group can reach.
    """
    body = b"x" * size
    batches = count // per_batch
    async with stream(nc, "B", ["b.>"]):
        started = time.perf_counter()
        for _ in range(batches):
            batch = uuid.uuid4().hex
            for k in range(1, per_batch):
                await nc.publish(f"b.{k}", body, headers={"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(k)})
            last = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(per_batch), "Nats-Batch-Commit": "1"}
            answer = json.loads((await nc.request(f"b.{per_batch}", body, headers=last, timeout=30)).data)
            if "error" in answer:
                raise RuntimeError(f"batch: {answer['error']}")
        return batches * per_batch / (time.perf_counter() - started)


# --- replay ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """A stream to replay, and the least that a loop can make of it in Postgres.

    `message(i)` is subject, body and headers of message i; `rows(batch)` the rows of a batch of messages; `columns`
    and `types` the table. Ours replays the same stream, so that both read the same bytes.
    """

    stream: str
    subjects: list[str]
    message: Callable[[int], tuple[str, bytes, dict[str, str] | None]]
    rows: Callable[[Sequence[Msg]], list[tuple[Any, ...]]]
    columns: str
    types: list[str]


SCANS = 20
_IDS = [uuid.UUID(int=(0x0192F3C17A4B7DEF << 64) + k) for k in range(SCANS)]
_NAMES = [f"meter.ch{k}" for k in range(8)]
_PREVIOUS = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def _event(i: int) -> tuple[str, bytes, dict[str, str] | None]:
    """A reading that was acknowledged by itself, as the recorder writes it: one event, one row."""
    scan, point = str(_IDS[i % SCANS]), i // SCANS
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(uuid.UUID(int=(0x0192F3C17A4B7DEF << 64) + (1 << 40) + i)),
        "ce-type": "readings.recorded.v1",
        "ce-source": "labledger/station/bench",
        "ce-time": "2026-11-20T12:00:00.000000Z",
        "ce-subject": f"readings.{scan}",
        "ce-causationid": scan,
        "ce-correlationid": scan,
        "ce-actor": "station bench",
        "ce-aggregateversion": str(point + 2),
        "ce-previoushash": _PREVIOUS,
        "ce-hash": _PREVIOUS,
        "content-type": "application/json",
        "Nats-Msg-Id": f"{scan}:1:{point}",
    }
    frame = {
        "scan_id": scan,
        "attempt": 1,
        "branch": 0,
        "first_point": point,
        "names": _NAMES,
        "units": ["V"] * 8,
        "time": [1.79e9 + i * 1e-3],
        "values": [[k * 0.123 + i] for k in range(8)],
        "arrays": {},
    }
    return f"evt.readings.{scan}", json.dumps(frame, separators=(",", ":")).encode(), headers


class _Frame(msgspec.Struct):
    scan_id: uuid.UUID
    attempt: int
    branch: int
    first_point: int
    time: list[float]
    values: list[list[float]]


_FRAME = msgspec.json.Decoder(_Frame)


def _event_rows(batch: Sequence[Msg]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for message in batch:
        frame = _FRAME.decode(message.data)
        taken = datetime.fromtimestamp(frame.time[0], UTC)
        values = [column[0] for column in frame.values]
        found.append((frame.scan_id, frame.first_point, frame.attempt, frame.branch, taken, values))
    return found


#: Readings as the event stream holds them: twenty scans, eight channels, an event's headers, one point an event.
EVENTS = History(
    stream="EVT",
    subjects=["evt.>"],
    message=_event,
    rows=_event_rows,
    columns="scan_id uuid, point bigint, attempt int, branch int, measured_at timestamptz, values float8[],"
    " primary key (scan_id, point, attempt)",
    types=["uuid", "int8", "int4", "int4", "timestamptz", "float8[]"],
)


async def fill(nc: Client, history: History, count: int) -> None:
    """Make the history's stream and put `count` messages into it, without waiting for each."""
    await make_stream(nc, history.stream, history.subjects)
    for i in range(count):
        subject, body, headers = history.message(i)
        await nc.publish(subject, body, headers=headers)
        if i % 500 == 499:
            await nc.flush(timeout=60)
    await wait_held(nc, history.stream, count)


def stream_sequence(reply: str) -> int:
    """The stream sequence in an ack subject (ADR-15: nine tokens, or eleven and more; never counted from the right)."""
    tokens = reply.split(".")
    return int(tokens[5] if len(tokens) == 9 else tokens[7])


async def copy_batch(db: psycopg.AsyncConnection, history: History, batch: Sequence[Msg]) -> None:
    """The batch's rows and the checkpoint in one transaction."""
    last = stream_sequence(batch[-1].reply)
    async with db.cursor() as cursor:
        async with cursor.copy("copy bare_rows from stdin (format binary)") as copy:
            copy.set_types(history.types)
            for row in history.rows(batch):
                await copy.write_row(row)
        # Compare and set: a second copy of this loop would change no row, and must stop.
        await cursor.execute("update bare_checkpoint set seq = %s where seq < %s", (last, last))
        if cursor.rowcount != 1:
            raise RuntimeError("another loop writes these rows")
    await db.commit()


async def bare_tables(db: psycopg.AsyncConnection, history: History) -> None:
    await db.execute("drop table if exists bare_rows, bare_checkpoint")
    await db.execute(f"create table bare_rows ({history.columns})".encode())
    await db.execute("create table bare_checkpoint (seq bigint not null)")
    await db.execute("insert into bare_checkpoint values (0)")
    await db.commit()


async def bare_replay(nc: Client, uri: str, history: History, count: int, batch: int) -> float:
    """Bare pull and COPY of the first `count` messages (a multiple of `batch`): events per second.

    A callback collects into a list, one task writes; the next pull is outstanding while Postgres works.
    """
    if count % batch:
        raise ValueError(f"{count} messages do not make batches of {batch}")
    name = f"bare{time.time_ns()}"
    config = {"durable_name": name, "ack_policy": "none", "deliver_policy": "all"}
    await api(nc, f"CONSUMER.DURABLE.CREATE.{history.stream}.{name}", {"stream_name": history.stream, "config": config})
    inbox, pull = nc.new_inbox(), f"$JS.API.CONSUMER.MSG.NEXT.{history.stream}.{name}"
    request = json.dumps({"batch": batch, "expires": 30_000_000_000}).encode()
    full: asyncio.Queue[list[Msg]] = asyncio.Queue()
    filling: list[Msg] = []

    async def collect(message: Msg) -> None:
        nonlocal filling
        if message.reply:  # a status has no reply subject
            filling.append(message)
            if len(filling) == batch:
                full.put_nowait(filling)
                filling = []

    db = await psycopg.AsyncConnection.connect(uri)
    async with db:
        await bare_tables(db, history)
        subscription = await subscribe(nc, inbox, collect)
        done = 0
        started = time.perf_counter()
        for _ in range(2):
            await nc.publish(pull, request, reply=inbox)
        while done < count:
            messages = await asyncio.wait_for(full.get(), 60)
            await copy_batch(db, history, messages)
            await nc.publish(pull, request, reply=inbox)
            done += len(messages)
        took_s = time.perf_counter() - started
        await subscription.unsubscribe()
        await api(nc, f"CONSUMER.DELETE.{history.stream}.{name}")
        stored = await (await db.execute("select count(*) from bare_rows")).fetchone()
        if stored is None or stored[0] < count:
            raise RuntimeError(f"{stored} rows were stored of {count}")
    return count / took_s


# --- latency --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from just before each publish to the moment its message was seen."""

    ms: list[float]

    def quantile(self, q: float) -> float:
        """The smallest latency that at least the share `q` of the messages did not exceed."""
        ordered = sorted(self.ms)
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


async def publish_paced(nc: Client, subject: str, count: int, interval_s: float, size: int = 200) -> None:
    """Acknowledged publishes at a steady pace; each body begins with the time (perf_counter) before its publish."""
    js = jetstream(nc)
    begin = time.perf_counter()
    for i in range(count):
        await asyncio.sleep(max(0.0, begin + i * interval_s - time.perf_counter()))
        await js.publish(subject, repr(time.perf_counter()).encode().ljust(size))


async def live_latencies(nc: Client, watcher: Client, count: int, interval_s: float) -> Latencies:
    """From publish into a stream to a core subscriber on another connection."""
    ms: list[float] = []
    every = asyncio.Event()

    async def see(message: Msg) -> None:
        ms.append(1e3 * (time.perf_counter() - float(message.data)))
        if len(ms) == count:
            every.set()

    async with stream(nc, "L", ["live.>"]):
        subscription = await subscribe(watcher, "live.a", see)
        await watcher.flush()
        await publish_paced(nc, "live.a", count, interval_s)
        await asyncio.wait_for(every.wait(), 10)
        await subscription.unsubscribe()
    return Latencies(ms)


async def row_latencies(nc: Client, reader: Client, uri: str, count: int, interval_s: float) -> Latencies:
    """From publish to the commit of its row: a pull that is always outstanding, one COPY of whatever has come."""
    ms: list[float] = []
    come: list[Msg] = []
    some = asyncio.Event()

    async def collect(message: Msg) -> None:
        if message.reply:
            come.append(message)
            some.set()

    def rows_of(batch: Sequence[Msg]) -> list[tuple[Any, ...]]:
        return [(stream_sequence(message.reply), float(message.data)) for message in batch]

    history = History("L", ["live.>"], _event, rows_of, "seq bigint primary key, sent float8", ["int8", "float8"])
    async with stream(nc, "L", ["live.>"]), await psycopg.AsyncConnection.connect(uri) as db:
        await bare_tables(db, history)
        config = {"durable_name": "rows", "ack_policy": "none", "deliver_policy": "all"}
        await api(nc, "CONSUMER.DURABLE.CREATE.L.rows", {"stream_name": "L", "config": config})
        inbox = reader.new_inbox()
        subscription = await subscribe(reader, inbox, collect)
        pull = json.dumps({"batch": count, "expires": 60_000_000_000}).encode()
        await reader.publish("$JS.API.CONSUMER.MSG.NEXT.L.rows", pull, reply=inbox)
        async with asyncio.TaskGroup() as group:
            group.create_task(publish_paced(nc, "live.a", count, interval_s))
            while len(ms) < count:
                await asyncio.wait_for(some.wait(), 10)
                some.clear()
                batch, come = come, []
                await copy_batch(db, history, batch)
                seen = time.perf_counter()
                ms.extend(1e3 * (seen - float(message.data)) for message in batch)
        await subscription.unsubscribe()
    return Latencies(ms)
