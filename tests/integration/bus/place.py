"""What the tests of the bus share: a server with our streams, and connections to it as each role."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from bus import streams
from bus.connection import Bus, Credentials, connect
from bus.envelope import Meta
from bus.ledger import Ledger
from bus.store import Change, EventStore
from bus.subscription import read_all
from domain.events import Event
from domain.parked import ParkedRetried
from domain.queue import AddJob
from labledger.embedded.nats_server import NatsServer


@dataclass
class Place:
    server: NatsServer
    opened: list[Bus] = field(default_factory=list[Bus])

    def credentials(self, user: str) -> Credentials:
        it = self.server.users[user]
        return Credentials(it.name, it.password, it.inbox_prefix)

    async def bus(self, user: str = "commands") -> Bus:
        bus = await connect(self.server.url, f"test-{user}", self.credentials(user))
        self.opened.append(bus)
        return bus

    async def store(self, user: str = "commands", patience_s: float = 10.0) -> EventStore:
        return EventStore(await self.bus(user), patience_s=patience_s)

    async def ledger(self, user: str = "commands") -> Ledger:
        return Ledger(await self.store(user))

    async def restart(self) -> None:
        """kill -9, and up again on the same port."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def close(self) -> None:
        for bus in self.opened:
            await bus.close()


async def make_place(server: NatsServer) -> Place:
    place = Place(server)
    provisioner = await place.bus("provisioner")
    await streams.provision(provisioner)
    return place


def noted(number: int, id_: str = "p") -> Event:
    """Any small event; the number tells it from others."""
    return ParkedRetried(parked_id=id_, park_seq=number)


def after(stored: list[Any] | Any, *events: Event, id_: str = "p", fenced: bool = False) -> Change:
    """A change of the aggregate `parked.<id>` that follows the last of what was stored."""
    from bus.envelope import Head

    head = stored[-1].head if stored else Head()
    return Change("parked", id_, events, head, fenced)


def add_job(queue_id: str, number: int | None = None) -> AddJob:
    return AddJob(queue_id=queue_id, job_id=uuid4() if number is None else UUID(int=number), job_kind="delivery")


def meta(causation: str) -> Meta:
    return Meta(causation=causation, actor="tester")


async def everything(bus: Bus, *subjects: str) -> list[Any]:
    """All that is stored, in order."""
    found: list[Any] = []
    async for batch in read_all(bus, subjects=subjects or ("evt.>",)):
        found += batch
    return found


async def until(true: Callable[[], Awaitable[Any] | Any], timeout_s: float = 15.0, what: str = "it") -> Any:
    """The first truthy answer; fails when none comes in time."""
    end = time.monotonic() + timeout_s
    while True:
        answer = true()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {timeout_s:g} s")
        await asyncio.sleep(0.02)


class LostAnswers:
    """A connection that drops the next answers after the server has stored what was sent."""

    def __init__(self, bus: Bus) -> None:
        self.left = 0
        self.lost = 0
        self._request = bus.request
        bus.request = self._lossy  # type: ignore[method-assign]

    async def _lossy(self, subject: str, *args: Any, **kwargs: Any) -> Any:
        from bus.errors import Unavailable

        answer = await self._request(subject, *args, **kwargs)
        if self.left and not subject.startswith("$JS.API"):
            self.left -= 1
            self.lost += 1
            raise Unavailable("the answer was lost on its way (test)")
        return answer


@dataclass
class Handlers:
    """The process that decides commands, on a broker of its own; it can be stopped and started."""

    place: Place
    consumers: tuple[Any, ...] = ()
    #: What reactions are handed; may be changed while it runs.
    ports: dict[str, Any] = field(default_factory=dict[str, Any])
    _parts: list[Any] = field(default_factory=list[Any])

    async def start(self) -> "Handlers":
        from bus import broker as brokers
        from bus.commands import CommandConsumer
        from bus.parking import Parking
        from bus.reactions import Reactor
        from handlers import fire_timers, retry_parked, scan_orders

        assert scan_orders
        credentials = self.place.credentials("commands")
        bus = await connect(self.place.server.url, "handlers", credentials)
        ledger = Ledger(EventStore(bus))
        parking = Parking(ledger)
        broker = brokers.make_broker(self.place.server.url, "handlers", credentials)
        inbox = credentials.inbox_prefix
        commands = CommandConsumer(bus, ledger, parking)
        brokers.subscribe(
            broker, commands.on_message, stream="CMD", subject="cmd.*.*", durable="commands", inbox_prefix=inbox
        )
        self.reactor = Reactor(ledger, parking, self.ports)
        for consumer in (retry_parked.consumer, *self.consumers):
            self.reactor.attach(broker, consumer, inbox)
        brokers.subscribe(
            broker,
            lambda msg: fire_timers.fire_timer(msg, bus),
            stream="TIM",
            subject="timer.>",
            durable="timers",
            inbox_prefix=inbox,
        )
        await brokers.start(broker)
        self._parts = [broker, bus]
        self.ledger = ledger
        return self

    async def stop(self) -> None:
        if self._parts:
            broker, bus = self._parts
            self._parts = []
            await broker.stop()
            await bus.close()
