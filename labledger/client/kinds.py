"""What can be done with scans, queues, jobs, samples, equipment, stations, and what is parked."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic import TypeAdapter

from bus.envelope import Stored
from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.streams import evt
from domain.aggregate import aggregates
from domain.plan import Plan, Template
from labledger.client.errors import LabError, NotDone, NotFound
from labledger.client.progress import Fold, Progress
from labledger.client.readings import Readings

if TYPE_CHECKING:
    from labledger.client.lab import Lab

log = logging.getLogger("labledger.client")


def plain(state: Any) -> dict[str, Any]:
    """An aggregate's state as JSON has it."""
    adapter: TypeAdapter[Any] = TypeAdapter(cast("type[Any]", type(state)))
    return adapter.dump_python(state, mode="json")


class Kind:
    def __init__(self, lab: "Lab") -> None:
        self._lab = lab

    async def _send(self, name: str, timeout_s: float | None = None, /, **body: Any) -> Outcome:
        """A command with the fields that were given."""
        given = {key: value for key, value in body.items() if value is not None}
        return await self._lab.send(name, given, timeout_s=timeout_s)


def as_template(plan: Any) -> Template | None:
    """The template, if it is one: a `Template`, or its JSON as a mapping or a text. Raises `ValidationError`."""
    if isinstance(plan, str | bytes):
        plan = json.loads(plan)
    if isinstance(plan, Template) or (isinstance(plan, Mapping) and "parameters" in plan):
        return Template.model_validate(plan)
    return None


def as_plan(plan: Any, values: Mapping[str, Any] | None = None) -> Plan:
    """A plan from what people have: a `Plan`, its JSON as a mapping or a text, or a template with values.

    Raises pydantic's `ValidationError` and `Refused` with what is wrong.
    """
    if isinstance(plan, str | bytes):
        plan = json.loads(plan)
    if isinstance(plan, Plan):
        return plan
    if (template := as_template(plan)) is not None:
        return template.fill(values or {})
    if isinstance(plan, Mapping) and "plan" in plan:
        plan = cast("Mapping[str, Any]", plan)["plan"]
    return Plan.model_validate(plan)


class Scans(Kind):
    """What can be done with scans."""

    async def submit(
        self,
        plan: Any,
        *,
        sample: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
        title: str | None = None,
        on_crash: str | None = None,
        frame: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        scan_id: str | UUID | None = None,
        replaces: str | UUID | None = None,
        deliver: Sequence[str] | None = None,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> UUID:
        """Request a scan; answers its id. `wait`: return when it has completed (raises `NotDone` if it ends otherwise).

        `replaces`: a job that waits in the queue, whose place the scan takes. `plan` is a `Plan`, its JSON, or a template with
        `values`. `deliver`: the targets of its artifacts, in place of those that the template or the lab's rules name; [] is
        nowhere. The same `scan_id` again is refused, not run twice.
        """
        id_ = UUID(str(scan_id or uuid7()))
        template = as_template(plan)
        body = as_plan(template or plan, values).model_dump(mode="json")
        if deliver is None and template is not None:
            deliver = template.deliver
        await self._send(
            "scan.request",
            timeout_s,
            scan_id=str(id_),
            plan=body,
            sample_id=sample,
            queue_id=queue,
            priority=priority,
            title=title,
            on_crash=on_crash,
            frame=frame,
            metadata=metadata,
            replaces=None if replaces is None else str(replaces),
            template=template.name if template else None,
            deliver=None if deliver is None else list(deliver),
        )
        if wait:
            await self.wait(id_)
        return id_

    async def pause(self, scan_id: str | UUID) -> Outcome:
        """Stop after the point under way. The outcome says that it was asked for; `watch` shows when it is done."""
        return await self._send("scan.pause", scan_id=str(scan_id))

    async def resume(self, scan_id: str | UUID) -> Outcome:
        return await self._send("scan.resume", scan_id=str(scan_id))

    async def abort(self, scan_id: str | UUID, reason: str = "") -> Outcome:
        """Stop after the point under way, and leave every instrument in its safe state."""
        return await self._send("scan.abort", scan_id=str(scan_id), reason=reason)

    async def restart(self, scan_id: str | UUID) -> Outcome:
        """Queue a scan that is over once more, from its first point."""
        return await self._send("scan.restart", scan_id=str(scan_id))

    async def get(self, scan_id: str | UUID) -> Progress:
        """Where a scan stands, from its events. Raises `NotFound`."""
        fold = Fold(UUID(str(scan_id)))
        await self._begin(fold)
        return fold.progress

    async def _begin(self, fold: Fold) -> tuple[int, int]:
        """Take what has happened; answers the last sequences of the scan and of its readings."""
        scan_id = fold.progress.scan_id
        history = await self._lab.history("scan", scan_id)
        if not history:
            raise NotFound(f"there is no scan {scan_id}: `labledger scan list` shows all")
        readings = await self._lab.last("readings", scan_id)
        found = [*history, readings] if readings is not None else history
        for stored in sorted(found, key=lambda stored: stored.seq):
            fold.take(stored)
        return history[-1].seq, readings.seq if readings else 0

    async def list(self, limit: int = 50, status: str | None = None) -> "list[Progress]":
        """The newest scans first. Which they are, the read model tells where there is one; where they stand, their events."""
        found: list[Progress] = []
        for scan_id in await self._newest(limit, status):
            progress = await self.get(scan_id)
            if status is None or progress.status == status:
                found.append(progress)
            if len(found) == limit:
                break
        return found

    async def _newest(self, limit: int, status: str | None) -> Sequence[str]:
        lab = self._lab
        if lab.postgres_url is not None:
            try:
                await lab.wait_for(await lab.last_sequence(), ["scans"], timeout_s=2.0)
                rows = await lab.query(
                    "select scan_id from labledger.scans where %s::text is null or state = %s"
                    " order by requested_at desc, scan_id desc limit %s",
                    [status, status, limit],
                )
                return [str(row["scan_id"]) for row in rows]
            except LabError as error:
                log.info("scans are listed from the events: %s", error)
        return (await lab.ids("scan"))[::-1]

    async def watch(self, scan_id: str | UUID) -> AsyncIterator[Progress]:
        """Progress at each event of the scan and of its readings, beginning with where it stands; ends when it is over.

        No event is missed: what is stored is read, then what comes is heard, and a hole in that is read again.
        """
        fold = Fold(UUID(str(scan_id)))
        after = await self._begin(fold)
        yield fold.progress
        if fold.progress.over:
            return
        queue: asyncio.Queue[Stored | BaseException] = asyncio.Queue()

        async def hear(kind: str, position: int) -> None:
            try:
                async for stored in self._lab.events(evt(kind, str(scan_id)), position):
                    queue.put_nowait(stored)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(hear(*it)) for it in zip(("scan", "readings"), after, strict=True)]
        try:
            while not fold.progress.over:
                stored = await queue.get()
                if isinstance(stored, BaseException):
                    raise stored
                yield fold.take(stored)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, scan_id: str | UUID, timeout_s: float | None = None) -> Progress:
        """Return when the scan has completed. Raises `NotDone` if it ended otherwise, `TimeoutError` after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            progress = None
            async for progress in self.watch(scan_id):  # noqa: B007
                pass
        assert progress is not None
        if progress.status != "completed":
            raise NotDone(progress)
        return progress

    async def readings(self, scan_id: str | UUID) -> Readings:
        return await self._lab.readings(scan_id)


class Queues(Kind):
    """What can be done with queues."""

    async def create(
        self,
        queue_id: str,
        *,
        mode: str | None = None,
        order: str | None = None,
        max_concurrent: int | None = None,
        title: str | None = None,
    ) -> Outcome:
        return await self._send(
            "queue.create", queue_id=queue_id, mode=mode, order=order, max_concurrent=max_concurrent, title=title
        )

    async def configure(
        self,
        queue_id: str,
        *,
        mode: str | None = None,
        order: str | None = None,
        max_concurrent: int | None = None,
        title: str | None = None,
        expected_revision: int | None = None,
    ) -> Outcome:
        return await self._send(
            "queue.configure",
            queue_id=queue_id,
            mode=mode,
            order=order,
            max_concurrent=max_concurrent,
            title=title,
            expected_revision=expected_revision,
        )

    async def start(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.start", queue_id=queue_id)

    async def pause(self, queue_id: str = "main", running_jobs: str = "finish") -> Outcome:
        """Dispatch nothing more. Running jobs `finish`, or `pause` too."""
        return await self._send("queue.pause", queue_id=queue_id, running_jobs=running_jobs)

    async def resume(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.resume", queue_id=queue_id)

    async def stop(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.stop", queue_id=queue_id)

    async def abort(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.abort", queue_id=queue_id)

    async def clear(self, queue_id: str = "main", expected_revision: int | None = None) -> Outcome:
        return await self._send("queue.clear", queue_id=queue_id, expected_revision=expected_revision)

    async def move(
        self,
        queue_id: str,
        job_id: str | UUID,
        to: int | str | Mapping[str, Any],
        expected_revision: int | None = None,
    ) -> Outcome:
        """`to`: a place counted from 1, "first", "last", {"before": job_id} or {"after": job_id}."""
        return await self._send(
            "queue.move", queue_id=queue_id, job_id=str(job_id), to=to, expected_revision=expected_revision
        )

    async def remove(self, queue_id: str, job_id: str | UUID, expected_revision: int | None = None) -> Outcome:
        return await self._send(
            "queue.remove", queue_id=queue_id, job_id=str(job_id), expected_revision=expected_revision
        )

    async def replace(
        self,
        queue_id: str,
        job_id: str | UUID,
        new_job_id: str | UUID,
        *,
        job_kind: str = "scan",
        priority: str | None = None,
        claims: Sequence[str] = (),
        title: str = "",
        expected_revision: int | None = None,
    ) -> Outcome:
        """Put another job in the place of a waiting one."""
        return await self._send(
            "queue.replace",
            queue_id=queue_id,
            job_id=str(job_id),
            new_job_id=str(new_job_id),
            job_kind=job_kind,
            priority=priority,
            claims=list(claims),
            title=title,
            expected_revision=expected_revision,
        )

    async def set_priority(
        self, queue_id: str, job_id: str | UUID, priority: str, expected_revision: int | None = None
    ) -> Outcome:
        return await self._send(
            "queue.set_priority",
            queue_id=queue_id,
            job_id=str(job_id),
            priority=priority,
            expected_revision=expected_revision,
        )

    async def run_job(self, queue_id: str, job_id: str | UUID) -> Outcome:
        """Manual mode: dispatch this job now."""
        return await self._send("queue.run_job", queue_id=queue_id, job_id=str(job_id))

    async def get(self, queue_id: str = "main") -> dict[str, Any]:
        """The queue as it stands: its settings, `running` and `waiting` jobs in the order in which they are served."""
        from domain.queue import Queue, in_order

        queue: Queue = await self._lab.state("queue", queue_id)
        return {"queue_id": queue_id} | plain(replace(queue, waiting=tuple(in_order(queue))))

    async def list(self) -> "list[dict[str, Any]]":
        return [await self.get(queue_id) for queue_id in await self._lab.ids("queue")]

    async def log(self, queue_id: str = "main", limit: int = 50) -> "list[Stored]":
        """The last things that happened to the queue, oldest first."""
        return (await self._lab.history("queue", queue_id))[-limit:]


class Jobs(Kind):
    async def get(self, job_id: str | UUID) -> dict[str, Any]:
        """The job as it stands. Raises `NotFound`."""
        state = await self._lab.state("job", job_id)
        return {"job_id": str(job_id)} | plain(state)

    async def retry(self, job_id: str | UUID) -> Outcome:
        return await self._send("job.retry", job_id=str(job_id))

    async def cancel(self, job_id: str | UUID, reason: str = "") -> Outcome:
        return await self._send("job.cancel", job_id=str(job_id), reason=reason)


class _Books(Kind):
    """Things of a kind that are kept in the lab's books."""

    KIND = ""

    async def get(self, id_: str) -> dict[str, Any]:
        """The entry as it stands. Raises `NotFound`."""
        state = await self._lab.state(self.KIND, id_)
        return {f"{self.KIND}_id": id_} | plain(state)

    async def list(self) -> list[dict[str, Any]]:
        return [await self.get(id_) for id_ in await self._lab.ids(self.KIND)]


class Samples(_Books):
    KIND = "sample"

    async def register(
        self,
        sample_id: str,
        material: str,
        *,
        tags: Sequence[str] = (),
        image: str | None = None,
        description: str | None = None,
        parent: str | None = None,
    ) -> Outcome:
        return await self._send(
            "sample.register",
            sample_id=sample_id,
            material=material,
            tags=list(tags),
            image=image,
            description=description,
            parent=parent,
        )

    async def update(self, sample_id: str, **fields: Any) -> Outcome:
        """`material`, `image`, `description`, `parent`; what is not given stays, None takes away."""
        return await self._lab.send("sample.update", {"sample_id": sample_id} | fields)

    async def tag(self, sample_id: str, *tags: str) -> Outcome:
        return await self._send("sample.tag", sample_id=sample_id, tags=list(tags))

    async def untag(self, sample_id: str, *tags: str) -> Outcome:
        return await self._send("sample.untag", sample_id=sample_id, tags=list(tags))

    async def archive(self, sample_id: str, reason: str = "") -> Outcome:
        return await self._send("sample.archive", sample_id=sample_id, reason=reason)


class Equipment(_Books):
    KIND = "equipment"

    async def register(self, equipment_id: str, kind: str, driver: str, **fields: Any) -> Outcome:
        return await self._send("equipment.register", equipment_id=equipment_id, kind=kind, driver=driver, **fields)

    async def update(self, equipment_id: str, **fields: Any) -> Outcome:
        return await self._send("equipment.update", equipment_id=equipment_id, **fields)

    async def set_status(self, equipment_id: str, status: str, reason: str = "") -> Outcome:
        return await self._send("equipment.set_status", equipment_id=equipment_id, status=status, reason=reason)

    async def calibrate(
        self,
        equipment_id: str,
        *,
        by: str | None = None,
        done_at: datetime | None = None,
        due_at: datetime | None = None,
        certificate: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Outcome:
        return await self._send(
            "equipment.calibrate",
            equipment_id=equipment_id,
            by=by or self._lab.actor,
            done_at=done_at or datetime.now(UTC),
            due_at=due_at,
            certificate=certificate,
            values=dict(values or {}),
        )

    async def maintain(
        self, equipment_id: str, note: str, *, by: str | None = None, done_at: datetime | None = None
    ) -> Outcome:
        return await self._send(
            "equipment.maintain",
            equipment_id=equipment_id,
            note=note,
            by=by or self._lab.actor,
            done_at=done_at or datetime.now(UTC),
        )


class Stations(_Books):
    KIND = "station"


class ParkedThings(Kind):
    """What was given up after its retries."""

    async def list(self, all_: bool = False) -> "list[dict[str, Any]]":
        """What waits for a person, oldest first; with `all_` also what was handled or dropped since."""
        found = [await self.get(id_) for id_ in await self._lab.ids("parked")]
        found = [one for one in found if all_ or one["state"] in ("parked", "retrying")]
        return sorted(found, key=lambda one: one["parked_at"])

    async def get(self, parked_id: str) -> dict[str, Any]:
        from domain.parked import Parked, ParkedAdded

        history = await self._lab.history("parked", parked_id)
        if not history:
            raise NotFound(f"nothing is parked under {parked_id}: see `labledger parked list`")
        aggregate = aggregates()["parked"]
        state: Parked = aggregate.fold(aggregate.initial, (stored.event for stored in history))
        added = [stored for stored in history if isinstance(stored.event, ParkedAdded)]
        last = cast("ParkedAdded", added[-1].event)
        return last.model_dump(mode="json") | {
            "state": state.state,
            "times": len(added),
            "parked_at": added[-1].time.isoformat(),
        }

    async def retry(self, parked_id: str) -> Outcome:
        return await self._send("parked.retry", parked_id=parked_id)

    async def drop(self, parked_id: str) -> Outcome:
        return await self._send("parked.drop", parked_id=parked_id)
