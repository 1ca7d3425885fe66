"""The roles that processes play, put together: adapters into ports, consumers onto the broker.

    commands      decides commands, reacts to events, fires timers, watches stations
    projections   fills the read models
    station NAME  holds the instruments of one station and runs scans on them
    extract       reads curves from images, fits models to them and makes the artifacts of scans, in a pool of processes
    deliver       brings artifacts to the targets of the settings, each target by a worker of its own

Each runs until it is told to stop (SIGTERM, Ctrl-C), any number of times over on any number of machines; only a station
runs once, which its leases see to.
"""

import asyncio
import importlib
import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import handlers
from bus import broker as brokers
from bus import streams
from bus.commands import CommandConsumer
from bus.connection import Bus, connect
from bus.envelope import Meta
from bus.ledger import Ledger
from bus.parking import Parking
from bus.reactions import Consumer, Reactor
from bus.roles import Role
from bus.store import EventStore
from domain.errors import LeaseLost, Refused
from domain.ports import Blobs
from handlers import route_artifacts
from handlers.dispatch_jobs import ANY, ASSIGN, assign_scan
from handlers.fire_timers import fire_timer
from handlers.station import StationRunner, StationSettings
from handlers.watch_stations import Watchdog
from labledger.blobs import blobs_of, spec_of
from labledger.settings import Connection, Settings, SettingsError

if TYPE_CHECKING:
    from faststream.nats import NatsBroker

    from handlers.worker import Worker
    from labledger.targets import OpenedTarget

log = logging.getLogger("labledger")


def loop_factory() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def release() -> str:
    try:
        return version("labledger")
    except PackageNotFoundError:
        return "0"


def consumers() -> list[Consumer]:
    """Every consumer in `handlers`. The folder is the list; importing it also brings in the handlers of commands."""
    found: list[Consumer] = []
    for module in pkgutil.iter_modules(handlers.__path__, "handlers."):
        consumer = getattr(importlib.import_module(module.name), "consumer", None)
        if isinstance(consumer, Consumer):
            found.append(consumer)
    return found


async def connected(connection: Connection, name: str, *, first_try_s: float = 30.0) -> Bus:
    return await connect(list(connection.nats_urls), name, connection.credentials, first_try_s=first_try_s)


async def provision(settings: Settings) -> None:
    """Create the streams, or see that they are right. Raises `StreamDiffers`."""
    bus = await connected(settings.connection(Role.PROVISIONER), "labledger-provisioner")
    try:
        await streams.provision(bus, settings.nats.replicas)
    finally:
        await bus.close()


async def _streams_there(bus: Bus, *names: str) -> None:
    """Wait until the provisioner has done its work."""
    told = False
    while not await streams.provisioned(bus, names):
        if not told:
            log.info("waiting for the streams: `labledger provision` creates them")
            told = True
        await asyncio.sleep(0.2)


async def run_commands(settings: Settings, stopped: asyncio.Event) -> None:
    """Decide commands and react to events, until stopped."""
    from adapters.storage.clean_up import Folders

    connection = settings.connection(Role.COMMANDS)
    bus = await connected(connection, "labledger-commands")
    await _streams_there(bus, streams.EVT, streams.CMD)
    ledger = Ledger(EventStore(bus))
    parking = Parking(ledger)
    commands = CommandConsumer(bus, ledger, parking)
    ports = {"remover": Folders(settings.clean_up.folders), route_artifacts.RULES: settings.deliver}
    reactor = Reactor(ledger, parking, ports)
    broker = brokers.make_broker(list(connection.nats_urls), "labledger-commands-work", connection.credentials)
    inbox = connection.credentials.inbox_prefix
    found = consumers()

    brokers.subscribe(
        broker,
        commands.on_message,
        stream=streams.CMD,
        subject="cmd.*.*",
        durable="commands",
        inbox_prefix=inbox,
        batch=64,
    )
    for consumer in found:
        reactor.attach(broker, consumer, inbox)
    brokers.subscribe(
        broker,
        lambda msg: assign_scan(msg, ledger),
        stream=streams.CMD,
        subject=f"cmd.work.scan.{ASSIGN}",
        durable="assign-scans",
        inbox_prefix=inbox,
    )
    brokers.subscribe(
        broker,
        lambda msg: fire_timer(msg, bus),
        stream=streams.TIM,
        subject="timer.>",
        durable="timers",
        inbox_prefix=inbox,
    )
    watchdog = asyncio.create_task(Watchdog(bus, ledger, settings.lease.ttl_s).run())
    await _started(broker, stopped)
    log.info("commands: ready, with %d consumers", len(found))
    try:
        await _until(stopped, watchdog)
    finally:
        await broker.stop()
        await bus.close()


async def run_station(settings: Settings, stopped: asyncio.Event, name: str) -> None:
    """Hold the instruments of a station and run scans on them, until stopped or replaced."""
    from adapters.instruments.rack import InstrumentConfig, Rack

    station = settings.stations.get(name)
    if station is None:
        known = ", ".join(settings.stations) or "none"
        raise SettingsError(f"there is no station {name!r} in the settings; there are: {known}")
    if name == ASSIGN:
        raise SettingsError(f"a station cannot be called {name!r}: choose another name")
    configs = {key: InstrumentConfig.model_validate(value) for key, value in station.instruments.items()}
    if not configs:
        raise SettingsError(f"station {name!r} has no instruments: add [stations.{name}.instruments.NAME]")
    connection = settings.connection(Role.STATION)
    bus = await connected(connection, f"labledger-station-{name}")
    await _streams_there(bus, streams.EVT, streams.CMD)
    rack = Rack(configs)
    runner = StationRunner(
        bus,
        Ledger(EventStore(bus, patience_s=60)),
        rack,
        blobs_of(settings, Role.STATION),
        StationSettings(
            station_id=name,
            version=release(),
            drivers={key: (config.driver, config.address) for key, config in configs.items()},
            ttl_s=settings.lease.ttl_s,
            beat_s=settings.lease.beat_s,
        ),
        connect=lambda: connected(connection, f"labledger-recorder-{name}"),
        loop_factory=loop_factory,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        stack.callback(rack.close)
        await runner.start()
        durable = f"station-{name}"
        # The predecessor's unfinished work comes back at once, not when its time to acknowledge is over.
        await bus.api(f"CONSUMER.DELETE.{streams.CMD}.{durable}")
        broker = brokers.make_broker(
            list(connection.nats_urls), f"labledger-station-{name}-work", connection.credentials
        )
        brokers.subscribe(
            broker,
            runner.on_work,
            stream=streams.CMD,
            subject=f"cmd.work.scan.{name}",
            durable=durable,
            inbox_prefix=connection.credentials.inbox_prefix,
            batch=1,
            ack_wait_s=30.0,  # a scan keeps its message alive itself
            max_ack_pending=256,
        )
        beats = asyncio.create_task(runner.run())
        stack.callback(beats.cancel)
        await _started(broker, stopped)
        stack.push_async_callback(broker.stop)
        log.info("station %s: ready, run %s", name, runner.instance)
        try:
            await _until(stopped, beats)
        finally:
            with suppress(Exception):
                await runner.stop()


async def run_extract(settings: Settings, stopped: asyncio.Event, **ports: str) -> None:
    """Do extractions, model fits and the artifacts of scans, until stopped. `ports`: an `extractor` or `fitter` in place of ours, as `module:name`."""
    from adapters.processes.pool import ProcessPool
    from handlers.make_artifacts import ARTIFACTS, Artifacts
    from handlers.run_extractions import trades
    from handlers.worker import Worker

    connection = settings.connection(Role.EXTRACT)
    bus = await connected(connection, "labledger-extract")
    await _streams_there(bus, streams.EVT, streams.CMD)
    ask = settings.curves
    llm = {"url": ask.llm_url, "model": ask.llm_model, "key": ask.llm_key.get_secret_value()} if ask.llm_key else None
    credentials = connection.credentials
    nats = {"urls": list(connection.nats_urls), "user": credentials.user, "password": credentials.password}
    nats["inbox_prefix"] = credentials.inbox_prefix
    pool = ProcessPool(
        settings.extract.processes or os.cpu_count() or 1,
        "labledger.pooled:tasks",
        {"blobs": spec_of(settings, Role.EXTRACT), "llm": llm, "nats": nats} | ports,
    )
    limits = {"extraction": settings.extract.limit_s, "spice_fit": settings.extract.fit_limit_s}
    all_trades = trades(pool, limits) | {ARTIFACTS: Artifacts(pool, settings.extract.artifacts_limit_s)}
    worker = Worker(bus, Ledger(EventStore(bus, patience_s=60)), all_trades)
    broker = brokers.make_broker(list(connection.nats_urls), "labledger-extract-work", connection.credentials)
    for kind in worker.trades:
        brokers.subscribe(
            broker,
            worker.on_work,
            stream=streams.CMD,
            subject=f"cmd.work.{kind}.{ANY}",
            durable=f"work-{kind}",
            inbox_prefix=connection.credentials.inbox_prefix,
            batch=1,  # whatever one worker cannot begin yet is left to the others
        )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        stack.callback(pool.close)
        await _started(broker, stopped)
        stack.push_async_callback(broker.stop)
        log.info("extract: ready, worker %s with %d processes", worker.name, pool.slots)
        try:
            await _until(stopped)
        finally:
            await worker.stop()


async def run_deliver(settings: Settings, stopped: asyncio.Event, only: str | None = None) -> None:
    """Deliver to every target of the settings, or to `only` one, until stopped.

    Each has a durable consumer and slots of its own, so that one that is down keeps none waiting. To one whose credentials are
    missing nothing is sent; what is asked for waits in its queue.
    """
    from labledger.targets import open_target

    connection = settings.connection(Role.DELIVER)

    async def nats() -> Bus:
        return await connected(connection, "labledger-target")

    opened = [open_target(settings, name, nats) for name in ([only] if only else settings.targets)]
    if not opened:
        log.warning("there are no targets in the settings: add [targets.NAME] with an adapter, and start again")
    bus = await connected(connection, "labledger-deliver")
    await _streams_there(bus, streams.EVT, streams.CMD)
    ledger = Ledger(EventStore(bus, patience_s=60))
    blobs = blobs_of(settings, Role.DELIVER)
    broker = brokers.make_broker(list(connection.nats_urls), "labledger-deliver-work", connection.credentials)
    workers: list[Worker] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        for it in opened:
            stack.push_async_callback(it.target.close)
            worker = await serve_target(it, broker, bus, ledger, blobs, connection.credentials.inbox_prefix)
            if worker is not None:
                workers.append(worker)
        await _started(broker, stopped)
        stack.push_async_callback(broker.stop)
        log.info("deliver: ready, %d of %d targets are served", len(workers), len(opened))
        try:
            await _until(stopped)
        finally:
            await asyncio.gather(*(worker.stop() for worker in workers))


async def serve_target(
    it: "OpenedTarget", broker: "NatsBroker", bus: Bus, ledger: Ledger, blobs: Blobs, inbox_prefix: str
) -> "Worker | None":
    """Say what the target is, and have a worker of its own take what is dispatched to it; None where credentials are missing."""
    from domain.target import OpenTarget
    from handlers.run_deliveries import trades
    from handlers.worker import Worker

    missing = tuple(it.target.missing())
    order = OpenTarget(
        target_id=it.name,
        adapter=it.adapter,
        system=it.target.kind,
        description=dict(it.target.describe()),
        missing=missing,
        concurrency=it.concurrency,
    )
    # Twice is harmless: it is said anew only when something about it is different.
    await ledger.handle("target", it.name, order, Meta.new("worker deliver", "labledger/deliver"))
    if missing:
        log.warning("target %s: local only, missing: %s", it.name, ", ".join(missing))
        return None
    worker = Worker(bus, ledger, trades(it.name, it.adapter, it.target, it.retry, it.concurrency, blobs))
    for kind in worker.trades:
        brokers.subscribe(
            broker,
            worker.on_work,
            stream=streams.CMD,
            subject=f"cmd.work.{kind}.{it.name}",
            durable=f"work-{kind}-{it.name}",
            inbox_prefix=inbox_prefix,
            batch=1,  # whatever one worker cannot begin yet is left to the others
            ack_wait_s=worker.settings.ack_wait_s,
        )
    return worker


async def run_projections(settings: Settings, stopped: asyncio.Event) -> None:
    """Fill the read models, until stopped."""
    from bus.projector import Projector
    from projections import projections

    connection = settings.connection(Role.PROJECTIONS)
    if connection.postgres_url is None:
        raise SettingsError("no address of Postgres: set LABLEDGER_POSTGRES_URL, or use `labledger up`")
    bus = await connected(connection, "labledger-projections")
    await _streams_there(bus, streams.EVT)
    projector = Projector(
        bus,
        connection.postgres_url,
        projections(),
        batch_events=settings.projections.batch_events,
        batch_s=settings.projections.batch_s,
    )
    running = asyncio.create_task(projector.run())
    try:
        await _until(stopped, running)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await bus.close()


async def _started(broker: "NatsBroker", stopped: asyncio.Event) -> None:
    """Start it, which takes as long as NATS is away, unless somebody asks to stop meanwhile."""
    starting, waiting = asyncio.create_task(brokers.start(broker)), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
    finally:
        starting.cancel()
        waiting.cancel()


async def _until(stopped: asyncio.Event, *tasks: "asyncio.Task[None]") -> None:
    """Until somebody asks to stop, or one of the tasks ends (which none should)."""
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError("a loop that runs for ever has ended")
    finally:
        waiting.cancel()
        for task in tasks:
            task.cancel()


def run_role(role: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a role to its end, on SIGTERM and Ctrl-C in good order."""

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await role(stopped)

    # A thread that measures must not keep the beats waiting for the interpreter's lock.
    sys.setswitchinterval(0.001)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            runner.run(main())
        except (Refused, LeaseLost) as error:
            # No defect: another run has the instruments. Whoever started us may start us again.
            log.error("%s; this process ends", error)
            raise SystemExit(1) from None
