"""Hand each dispatched job to its worker.

A scan goes to the station that holds its instruments. While no station does, the order to assign it waits in the stream
and is looked at again (`assign_scan`), without holding up anything else.
"""

import logging

from nats.aio.msg import Msg

from bus import retry
from bus.connection import Bus
from bus.ledger import Ledger
from bus.reactions import Consumer, Reaction
from bus.work import Work, send_work
from domain.job import Job
from domain.lease import Lease
from domain.queue import JobDispatched

log = logging.getLogger("labledger.reactions")

consumer = Consumer("dispatch-jobs")

#: The target that means "find the station"; no station may be called so.
ASSIGN = "assign"
ANY = "any"


@consumer.on(JobDispatched)
async def dispatch_job(event: JobDispatched, at: Reaction) -> None:
    # Twice is harmless: the work carries the dispatch's number, and a job starts only once under it.
    job: Job = (await at.ledger.refresh("job", str(event.job_id))).state
    if job.submitted is None or job.state not in ("waiting", "retrying"):
        return
    work = Work(
        job_id=event.job_id,
        job_kind=event.job_kind,
        queue_id=event.queue_id,
        dispatch=event.dispatch,
        spec=job.submitted.spec,
    )
    bus: Bus = at.ledger.store.bus
    if event.job_kind != "scan":
        # A delivery goes to the workers of its target, anything else to whoever has the trade.
        await send_work(bus, str(job.submitted.spec.get("target_id", ANY)), work)
        return
    station = await station_for(at.ledger, job.submitted.claims)
    await send_work(bus, station or ASSIGN, work)


async def station_for(ledger: Ledger, instruments: tuple[str, ...]) -> str | None:
    """The station that holds all these instruments, or None."""
    stations: set[str | None] = set()
    for name in instruments:
        lease: Lease = (await ledger.refresh("lease", name)).state
        stations.add(lease.holder.station_id if lease.holder else None)
    return stations.pop() if len(stations) == 1 else None


async def assign_scan(msg: Msg, ledger: Ledger) -> float | None:
    """Send waiting work to the station that holds its instruments by now; answers when to look again, or None."""
    try:
        work = Work.model_validate_json(msg.data)
    except ValueError as error:
        log.error("work that is none: %s", error)
        return None
    job: Job = (await ledger.refresh("job", str(work.job_id))).state
    if job.submitted is None or job.state not in ("waiting", "retrying"):
        return None
    station = await station_for(ledger, job.submitted.claims)
    if station is None:
        return min(retry.delay_s(retry.deliveries(msg)), 2.0)
    await send_work(ledger.store.bus, station, work)
    return None
