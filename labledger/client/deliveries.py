"""What can be done with deliveries and their targets."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bus.ids import uuid7
from bus.outcomes import Outcome
from domain.delivery import Delivery
from domain.job import Job
from domain.target import Checked
from labledger.client.errors import LabError, NotFound
from labledger.client.kinds import Kind, plain

#: A delivery in one of these states changes no more by itself.
OVER = ("delivered", "parked", "cancelled")
#: The most that `list` answers.
LIMIT = 1000


class Deliveries(Kind):
    async def request(
        self, target: str, artifact: str | None = None, *, delivery_id: str | UUID | None = None, **more: Any
    ) -> UUID:
        """Bring an artifact to a target; answers the delivery's id. `more`: `key`, `options`, `queue_id`, `priority`, `claims`,
        `title`, `scan_id`, `run_id`. The same `delivery_id` again is the same delivery."""
        id_ = UUID(str(delivery_id or uuid7()))
        await self._send("delivery.request", delivery_id=str(id_), target_id=target, artifact=artifact, **more)
        return id_

    async def send_file(self, file: str | Path, target: str, **more: Any) -> UUID:
        """Store a file, register it as an artifact, and bring it to a target; answers the delivery's id."""
        return await self.request(target, await self._lab.artifacts.add(file), **more)

    async def get(self, delivery_id: str | UUID) -> dict[str, Any]:
        """The delivery as it stands, from its events. Raises `NotFound`."""
        history = await self._lab.history("delivery", delivery_id)
        if not history:
            raise NotFound(f"there is no delivery {delivery_id}: `labledger deliveries list` shows them")
        state: Delivery = await self._lab.state("delivery", delivery_id)
        job: Job = await self._lab.state("job", delivery_id)
        assert state.requested is not None
        told = state.requested.model_dump(mode="json") | {
            "state": state.state,
            "attempt": state.attempt,
            "percent": job.percent,
            "note": job.note,
            "error_kind": state.kind,
            "error": state.error,
            "retry_at": job.retry_at,
            "requested_at": history[0].time,
            "updated_at": history[-1].time,
        }
        if state.receipt is not None:
            told["receipt"] = state.receipt.model_dump(mode="json")
        if verified := [one for one in history if one.type.startswith("delivery.verified.")]:
            told["verified"] = verified[-1].event.model_dump(mode="json", exclude={"delivery_id"})
        return told

    async def list(
        self, *, target: str | None = None, state: str | None = None, scan: str | None = None, limit: int = 50
    ) -> "list[dict[str, Any]]":
        """The newest first, from the read model. Raises `NotReachable` where there is none."""
        lab = self._lab
        await lab.wait_for(await lab.last_sequence(), ["deliveries"], timeout_s=5.0)
        return await lab.query(
            "select delivery_id, target_id, file_name, size, key, title, state, attempt, percent, error_kind, error, retry_at,"
            " outcome, location, duration_s, verified, requested_at, ended_at from labledger.deliveries"
            " where (%s::text is null or target_id = %s) and (%s::text is null or state = %s)"
            " and (%s::uuid is null or scan_id = %s::uuid) order by requested_at desc, delivery_id desc limit %s",
            [target, target, state, state, scan, scan, min(limit, LIMIT)],
        )

    async def retry(self, delivery_id: str | UUID) -> Outcome:
        """Let a parked or cancelled one be tried again."""
        return await self._send("delivery.retry", delivery_id=str(delivery_id))

    async def cancel(self, delivery_id: str | UUID, reason: str = "") -> Outcome:
        """Call off one that is not delivered yet; one that is under way is stopped."""
        return await self._send("delivery.cancel", delivery_id=str(delivery_id), reason=reason)

    async def wait(self, delivery_id: str | UUID, timeout_s: float = 60.0) -> dict[str, Any]:
        """Until it is delivered, parked or cancelled. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while (told := await self.get(delivery_id))["state"] not in OVER:
                await asyncio.sleep(0.1)
        return told

    async def verify(self, delivery_id: str | UUID, timeout_s: float = 60.0) -> dict[str, Any]:
        """Have the target asked again by its worker; answers what it found: `ok` and `checks`.

        Raises `LabError` when the target could not be asked, `TimeoutError`."""
        verification_id = str(uuid7())
        await self._send("delivery.verify", delivery_id=str(delivery_id), verification_id=verification_id)
        async with asyncio.timeout(timeout_s):
            while True:
                job: Job = await self._lab.state("job", verification_id)
                if job.state == "succeeded":
                    return (await self.get(delivery_id))["verified"]
                if job.state in ("failed", "cancelled"):
                    raise LabError(f"the target could not be asked: {job.reason}")
                await asyncio.sleep(0.1)


class Targets(Kind):
    async def get(self, target_id: str) -> dict[str, Any]:
        """What its workers say of it, and its last test. Raises `NotFound`."""
        return {"target_id": target_id} | plain(await self._lab.state("target", target_id))

    async def list(self) -> "list[dict[str, Any]]":
        return [await self.get(id_) for id_ in await self._lab.ids("target")]

    async def statistics(self) -> "list[dict[str, Any]]":
        """A row a target: counts, bytes, MB/s, kinds of failures, the oldest that waits."""
        lab = self._lab
        await lab.wait_for(await lab.last_sequence(), ["deliveries"], timeout_s=5.0)
        return await lab.query("select * from labledger.delivery_statistics order by target_id")

    async def note_test(self, target_id: str, checks: Sequence[Mapping[str, Any]]) -> Outcome:
        """Keep what a test of it found."""
        found = [Checked.model_validate(check).model_dump() for check in checks]
        return await self._send(
            "target.note_test", target_id=target_id, checks=found, tested_at=f"{datetime.now(UTC):%FT%TZ}"
        )
