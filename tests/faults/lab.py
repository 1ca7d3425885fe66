"""A private lab for one test: its servers, and every role as a process of its own that can be killed.

    async with Lab(folder) as lab:
        await lab.start("commands", "projections", "station")
        scan = await lab.scan(points=400)
        await lab.kill("station")            # SIGKILL; the harness starts it again, as a service manager would
        await lab.completed(scan)
        proof = await lab.proof()            # all that must hold, see proof.py

The harness is itself an outsider: it sends commands as a publisher and hears events on `live.evt.>`. It remembers each command
that was acknowledged and each event that it heard, so that afterwards they can be asked for.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from nats.aio.msg import Msg

from bus import outcomes, postgres
from bus.connection import Bus
from bus.envelope import Stored
from bus.errors import Unavailable
from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.projector import compare, live_generation
from bus.roles import Role
from bus.subscription import last_sequence, read_all
from domain.events import decode
from labledger import wiring
from labledger.embedded.cluster import Cluster
from labledger.embedded.servers import Servers
from labledger.settings import Settings
from projections import projections
from tests.faults.nursery import ROOT, Forked, nursery

#: Nothing takes so long on a machine that works: whoever waits longer has found a fault.
PATIENCE_S = float(os.environ.get("LABLEDGER_FAULTS_PATIENCE_S", "90"))

Heard = Callable[[str, str, dict[str, Any]], None]


def seed() -> int:
    """The seed of this run: printed with each test, and set by LABLEDGER_FAULTS_SEED to see a failure again."""
    given = os.environ.get("LABLEDGER_FAULTS_SEED")
    return int(given) if given else random.SystemRandom().randrange(1_000_000)


@dataclass
class Process:
    """One role. `wanted`: the harness starts it again when it ends."""

    name: str
    words: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    program: str = "labledger.cli:main"
    wanted: bool = True
    running: Forked | None = None
    #: How each of its runs ended: negative numbers are signals.
    exits: list[int] = field(default_factory=list[int])
    starts: int = 0
    keeper: "asyncio.Task[None] | None" = None

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            os.kill(self.pid, number)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Sent:
    """A command, and the sequence under which the stream acknowledged it."""

    id: str
    name: str
    body: dict[str, Any]
    acknowledged: int = 0


@dataclass
class ScanSent:
    id: str
    points: int
    start: float
    stop: float
    on_crash: str
    command: Sent


class Lab:
    """See the top of this module. `cluster` takes the place of the single nats-server."""

    def __init__(
        self,
        folder: Path,
        *,
        instruments: Mapping[str, Mapping[str, Any]] | None = None,
        cluster: Cluster | None = None,
        postgres: bool = False,
    ) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.cluster = cluster
        self.latency_s = 0.001
        self.instruments: Mapping[str, Mapping[str, Any]] = instruments or {
            name: self.slow(name) for name in ("axis", "other")
        }
        which = "both" if postgres else "nats"
        self.servers = Servers(folder, which="postgres" if cluster else which)
        self.has_postgres = postgres or cluster is not None
        self.processes: dict[str, Process] = {}
        self.sent: dict[str, Sent] = {}
        self.scans: list[ScanSent] = []
        #: What was heard live: sequence to (subject, hash, body).
        self.heard: dict[int, tuple[str, str, bytes]] = {}
        self._listeners: list[Heard] = []
        self._bus: Bus | None = None
        self._reader: Bus | None = None

    def control(self, instrument: str) -> Path:
        """The file that orders faults of an instrument (adapters/instruments/faults.py)."""
        return self.folder / f"faults-{instrument}.json"

    def slow(self, instrument: str) -> dict[str, Any]:
        """The leanest instrument, slowed down, so that scans last; with a fault layer."""
        faults = {"latency_s": self.latency_s, "control": str(self.control(instrument))}
        return {"driver": "simulated_trivial", "faults": faults}

    def fault(self, instrument: str, **order: Any) -> None:
        path = self.control(instrument)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(order))
        new.replace(path)

    # -- servers and processes --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.servers.start)
        settings = self.settings = Settings.model_validate(self._values())
        if self.cluster is not None:
            await asyncio.to_thread(self._tell_of_cluster, self.cluster)
        await wiring.provision(settings)
        self._bus = await wiring.connected(settings.connection(Role.PUBLISHER), "tests-publisher")
        self._reader = await wiring.connected(settings.connection(Role.COMMANDS), "tests-reader")
        await self._bus.nc.subscribe("live.evt.>", cb=self._on_live)
        await self._bus.nc.flush(timeout=30)
        return self

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "data_dir": str(self.folder),
            "stations": {"bench": {"instruments": {name: dict(it) for name, it in self.instruments.items()}}},
        }
        if self.cluster is not None:
            values["nats"] = {"url": self.cluster.urls, "replicas": 3}
        return values

    def _tell_of_cluster(self, cluster: Cluster) -> None:
        cluster.start(PATIENCE_S)
        users = {
            user.name: {"user": user.name, "password": user.password, "inbox_prefix": user.inbox_prefix}
            for user in cluster.servers[0].users.values()
        }
        path = self.folder / "connection.json"
        told = json.loads(path.read_text()) | {"nats": {"url": cluster.urls[0], "users": users}}
        path.write_text(json.dumps(told))

    async def _write_down(self) -> None:
        """The history as text beside the logs, for whoever looks for a fault."""
        with contextlib.suppress(Exception):
            lines = [
                f"{it.seq:6} {it.stored_at:%H:%M:%S.%f} {it.subject} {it.type} {it.causation} {it.data[:300].decode()}\n"
                for it in await self.events()
            ]
            (self.folder / "events.txt").write_text("".join(lines))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self._write_down()
        for process in self.processes.values():
            process.wanted = False
            process.signal(signal.SIGKILL)
        await asyncio.gather(*(p.keeper for p in self.processes.values() if p.keeper), return_exceptions=True)
        for bus in (self._bus, self._reader):
            if bus is not None:
                await bus.close()
        if self.servers.nats is not None:
            # In good order it would write down all its consumers, which takes half a second.
            await asyncio.to_thread(self.servers.nats.kill)
        await asyncio.to_thread(self.servers.stop)
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.stop)

    async def start(self, *names: str) -> None:
        """Start roles, and wait until they are at work. `station` is the station bench; `station-2` another run of it."""
        for name in names:
            if name not in self.processes:
                role = name.split("-")[0]
                words = ("station", "bench") if role == "station" else (role,)
                env = {
                    "LABLEDGER_DATA_DIR": str(self.folder),
                    "LABLEDGER_STATIONS": json.dumps(self._values()["stations"]),
                }
                if self.cluster is not None:
                    env |= {"LABLEDGER_NATS_URL": ",".join(self.cluster.urls), "LABLEDGER_NATS_REPLICAS": "3"}
                self.processes[name] = Process(name, words, env, self.folder / f"{name}.log")
            process = self.processes[name]
            if process.keeper is not None and not process.wanted:
                await process.keeper  # the end of its last run must be noticed first, or both would start it
            process.wanted = True
            process.keeper = asyncio.create_task(self._keep(process))
        for name in names:
            await self.until(lambda name=name: self.processes[name].running is not None, f"{name} runs")
        if "station" in names:
            await self.station_up()

    async def _keep(self, process: Process) -> None:
        """What a service manager does: start, wait, start again."""
        base = {key: value for key, value in os.environ.items() if not key.startswith("LABLEDGER_")}
        env = base | dict(process.env) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        while process.wanted:
            process.running = nursery().start(
                process.program, ["run", *process.words], env=env, cwd=self.folder, log=process.log
            )
            process.starts += 1
            process.exits.append(await process.running.ended())
            await asyncio.sleep(0.1)

    async def station_up(self) -> None:
        """Wait until the newest run of the station holds its instruments."""

        async def up() -> bool:
            events = await self.history("station", "bench")
            pid = self.processes["station"].pid
            return (
                bool(events) and events[-1].type == "station.started.v1" and json.loads(events[-1].data)["pid"] == pid
            )

        await self.until(up, "the station is up")
        # Its instruments are entered into the books right after.
        for name in self.instruments:
            await self.until(lambda name=name: self.history("equipment", name), f"{name} is registered")

    async def kill(self, name: str, *, down_s: float = 0.0) -> None:
        """SIGKILL to a role or a server. It comes back after `down_s`: a role by its keeper, a server by this call."""
        if name in ("nats", "postgres"):
            server = self.servers.nats if name == "nats" else self.servers.postgres
            assert server is not None
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(server.start)
            return
        process = self.processes[name]
        # The one that was killed before may not be back yet.
        await self.until(lambda: process.running is not None and process.running.returncode is None, f"{name} runs")
        died = len(process.exits)
        process.wanted = down_s == 0
        process.signal(signal.SIGKILL)
        await self.until(lambda: len(process.exits) > died, f"{name} is dead")
        if down_s:
            assert process.keeper is not None
            await process.keeper
            await asyncio.sleep(down_s)
            await self.start(name)

    async def end(self, name: str) -> None:
        """SIGKILL, for good."""
        process = self.processes[name]
        process.wanted = False
        process.signal(signal.SIGKILL)
        assert process.keeper is not None
        await process.keeper

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def until(self, true: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> float:
        """Wait until it is so; answers how long that took (seconds). What is costly to see is looked at less often."""
        began = time.monotonic()
        while True:
            looked = time.monotonic()
            try:
                answer = true()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return time.monotonic() - began
            except Unavailable:
                pass
            if time.monotonic() - began > timeout_s:
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.last_words()}")
            await asyncio.sleep(min(0.5, max(0.02, 2 * (time.monotonic() - looked))))

    def say(self, text: str) -> None:
        """For whoever reads the captured output of a test that failed."""
        print(f"{time.monotonic() - self.began:8.2f} s  {text}", flush=True)

    def last_words(self) -> str:
        """The ends of the processes' logs, for whoever looks for the fault."""
        parts = [f"--- {p.name}: runs {p.starts}, ends {p.exits}\n{p.said()[-3000:]}" for p in self.processes.values()]
        return "\n".join(parts)

    # -- as a publisher ----------------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        assert self._bus is not None
        return self._bus

    @property
    def reader(self) -> Bus:
        assert self._reader is not None
        return self._reader

    async def _on_live(self, msg: Msg) -> None:
        headers = msg.headers or {}
        subject = msg.subject.removeprefix("live.")
        self.heard[int(headers["Nats-Sequence"])] = (subject, headers["ce-hash"], msg.data)
        if self._listeners:
            body = json.loads(msg.data)
            for listener in list(self._listeners):
                listener(subject, headers["ce-type"].rpartition(".v")[0], body)

    @contextlib.contextmanager
    def listening(self, listener: Heard) -> Any:
        """Call `listener(subject, type, body)` for each event, the moment it is heard."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def at(
        self, type_: str, act: Callable[[], None], where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> None:
        """Act at the instant an event of this type is heard, and come back."""
        done = asyncio.Event()

        def listener(_: str, type_heard: str, body: dict[str, Any]) -> None:
            if type_heard == type_ and not done.is_set() and where(body):
                act()
                done.set()

        with self.listening(listener):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await done.wait()
            except TimeoutError:
                raise AssertionError(f"no {type_} was heard\n{self.last_words()}") from None

    async def at_or_before(self, type_: str) -> None:
        """Wait until an event of this type is in the stream."""

        async def there() -> bool:
            return any(stored.type.startswith(f"{type_}.v") for stored in await self.events())

        await self.until(there, f"there is {type_}")

    async def send(self, name: str, body: dict[str, Any], command_id: str | None = None) -> Sent:
        """Publish a command until it is acknowledged, always under the same id."""
        sent = Sent(command_id or uuid7(), name, body)
        headers = {"ce-id": sent.id, "ce-actor": "tests", "Nats-Msg-Id": sent.id}
        deadline = time.monotonic() + PATIENCE_S
        while not sent.acknowledged:
            try:
                ack = await self.bus.publish(f"cmd.{name}", json.dumps(body).encode(), headers, timeout_s=1.0)
                assert not ack.err_code or time.monotonic() < deadline, ack
                sent.acknowledged = ack.seq
            except Unavailable:
                assert time.monotonic() < deadline, f"cannot publish {name}\n{self.last_words()}"
                await asyncio.sleep(0.1)
        self.sent[sent.id] = sent
        return sent

    async def outcome(self, sent: Sent, timeout_s: float = PATIENCE_S) -> Outcome:
        """What a command led to, as it is kept under the command's id."""
        found: list[Outcome] = []

        async def answered() -> bool:
            outcome = await outcomes.recall(self.bus, sent.id)
            if outcome is not None:
                found.append(outcome)
            return outcome is not None

        await self.until(answered, f"{sent.name} {sent.id} has an outcome", timeout_s)
        return found[0]

    async def order(self, name: str, body: dict[str, Any]) -> Outcome:
        return await self.outcome(await self.send(name, body))

    async def queue(self, max_concurrent: int = 2) -> None:
        outcome = await self.order("queue.create", {"queue_id": "main", "max_concurrent": max_concurrent})
        assert outcome.outcome == "accepted", outcome

    async def scan(
        self,
        points: int = 400,
        *,
        instrument: str = "axis",
        frame: int = 50,
        on_crash: str = "resume",
        channel: str = "position",
        channels: tuple[str, ...] = ("a", "c"),
    ) -> ScanSent:
        """Request a scan whose readings can be foretold: at position x an instrument reads a = x and c = x * x."""
        scan_id = uuid7()
        start, stop = 0.0, 1.0
        measure = {"kind": "measure", "instrument": instrument, "channels": list(channels)}
        move = {
            "kind": "move",
            "instrument": instrument,
            "channel": channel,
            "positions": {"kind": "linear", "start": start, "stop": stop, "num": points},
            "children": [measure],
        }
        body = {
            "scan_id": scan_id,
            "plan": {"nodes": [move]},
            "frame": {"points": frame, "ms": 1000},
            "on_crash": on_crash,
        }
        scan = ScanSent(scan_id, points, start, stop, on_crash, await self.send("scan.request", body))
        self.scans.append(scan)
        return scan

    # -- what is there -----------------------------------------------------------------------------------------------

    async def history(self, kind: str, id_: str) -> list[Stored]:
        from bus.store import EventStore

        return await EventStore(self.reader).history(kind, id_)

    async def types(self, kind: str, id_: str) -> list[str]:
        return [stored.type.rpartition(".v")[0] for stored in await self.history(kind, id_)]

    async def events(self) -> list[Stored]:
        """The whole truth."""
        for _ in range(20):
            try:
                return [stored async for batch in read_all(self.reader) for stored in batch]
            except Unavailable:
                await asyncio.sleep(0.5)
        raise AssertionError("EVT cannot be read")

    async def ends(self, scan: ScanSent, how: str = "completed", timeout_s: float = PATIENCE_S) -> None:
        async def over() -> bool:
            types = await self.types("scan", scan.id)
            assert (
                not types
                or types[-1] in (f"scan.{how}",)
                or types[-1] not in ("scan.completed", "scan.aborted", "scan.failed")
            ), f"scan {scan.id} ended otherwise: {types}\n{self.last_words()}"
            return bool(types) and types[-1] == f"scan.{how}"

        await self.until(over, f"scan {scan.id} is {how}", timeout_s)

    async def completed(self, *scans: ScanSent) -> None:
        for scan in scans or self.scans:
            outcome = await self.outcome(scan.command)
            assert outcome.outcome == "accepted", outcome
            await self.ends(scan)

    # -- read models -------------------------------------------------------------------------------------------------

    @property
    def _projects(self) -> bool:
        return "projections" in self.processes

    async def _postgres(self) -> Any:
        url = self.settings.connection(Role.PROJECTIONS).postgres_url
        assert url is not None
        return await postgres.connect(url, "tests")

    async def read_models_follow(self) -> None:
        """Wait until every read model shows all that there is now."""
        if not self._projects:
            return
        end = await last_sequence(self.reader)

        async def all_there() -> bool:
            try:
                async with await self._postgres() as connection:
                    live = [await live_generation(connection, it.name) for it in projections()]
            except psycopg.OperationalError:
                return False
            return all(it is not None and it["state"] == "running" and it["sequence"] >= end for it in live)

        await self.until(all_there, f"all read models show sequence {end}")

    async def read_models_are_true(self) -> None:
        """Each read model equals one that is built anew from the events, row for row."""
        if not self._projects:
            return
        assert projections()
        async with await self._postgres() as connection:
            for projection in projections():
                _, tables = await compare(self.reader, connection, projection)
                for difference in tables:
                    assert difference.equal, f"{projection.name}: {difference}"
            rows = {str(row["scan_id"]): row for row in await _all(connection, "select * from labledger.scans")}
            query = (
                "select scan_id::text as scan_id, count(*) as rows, count(distinct point) as points"
                " from labledger.readings group by scan_id"
            )
            counted = {row["scan_id"]: (row["rows"], row["points"]) for row in await _all(connection, query)}
            for scan in self.scans:
                if rows[scan.id]["state"] == "completed":
                    assert rows[scan.id]["points_done"] == scan.points == counted[scan.id][1]
                    assert scan.on_crash != "resume" or counted[scan.id][0] == scan.points

    async def recorded(self, scan: ScanSent, points: int) -> None:
        """Wait until so many points of the scan are durable."""

        async def there() -> bool:
            events = await self.history("readings", scan.id)
            return bool(events) and next_point(events[-1]) >= points

        await self.until(there, f"{points} points of scan {scan.id}")


async def _all(connection: Any, query: str) -> list[dict[str, Any]]:
    return await (await connection.execute(query)).fetchall()


def next_point(stored: Stored) -> int:
    event: Any = decode(stored.type, stored.data)
    return int(event.from_point if stored.type.startswith("readings.opened") else event.next_point)


async def side_by_side(*scenarios: Coroutine[Any, Any, None]) -> None:
    """Scenarios that mostly wait, each in a lab of its own."""
    async with asyncio.TaskGroup() as group:
        for scenario in scenarios:
            group.create_task(scenario)
