"""Work: a dispatched job on its way to a worker, on `cmd.work.<job kind>.<target>` of the stream CMD.

The target is a station's name, or `any`. The message stays in the stream until its worker acknowledges it at the job's
end; a worker that dies leaves it to the next one (or to its own next run). Twice is harmless: the job says whether this
dispatch is still to be done (`domain.job`).
"""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from bus.connection import Bus
from bus.errors import BusError


class Work(BaseModel):
    """One dispatched job. `dispatch` is the queue's number of this dispatch."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    job_kind: str
    queue_id: str
    dispatch: int
    spec: dict[str, JsonValue]


async def send_work(bus: Bus, target: str, work: Work) -> None:
    """Hand a job to the workers of `target`. The message id makes a repeat within the hour one message."""
    subject = f"cmd.work.{work.job_kind}.{target}"
    headers: dict[str, Any] = {
        "Nats-Msg-Id": f"{work.job_id}:{work.dispatch}:{target}",
        "ce-id": f"{work.job_id}:{work.dispatch}",
    }
    ack = await bus.publish(subject, work.model_dump_json().encode(), headers)
    if ack.err_code:
        raise BusError(f"cannot send the work of job {work.job_id}: {ack.error}")
