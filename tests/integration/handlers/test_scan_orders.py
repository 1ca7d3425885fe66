"""Orders over several aggregates, and what follows from them: scan, job and queue never disagree."""

from bus.ids import uuid7
from bus.ledger import Ledger
from domain.equipment import RegisterEquipment
from tests.integration.bus.place import meta, until
from tests.integration.handlers.lab import Lab, line


async def registered(lab: Lab, name: str = "t") -> Ledger:
    ledger = await lab.place.ledger("station")
    command = RegisterEquipment(equipment_id=name, kind="both", driver="d", address="")
    await ledger.handle("equipment", name, command, meta(f"register-{name}"))
    return ledger


async def idle(lab: Lab) -> bool:
    return (await lab.reader.refresh("queue", "main")).state.state == "idle"


async def test_scan_job_and_place_in_the_queue_begin_together(lab: Lab) -> None:
    await registered(lab)
    outcome = await lab.order("scan.request", scan_id=uuid7(), plan=line(5))
    types = [event.type.rpartition(".v")[0] for event in outcome.events]
    assert types == ["scan.requested", "job.submitted", "queue.job_added", "queue.started", "queue.job_dispatched"]
    sequences = [event.sequence for event in outcome.events]
    assert sequences == list(range(sequences[0], sequences[0] + 5)) and outcome.sequence == sequences[-1]


async def test_what_nobody_could_run_is_refused_whole(lab: Lab) -> None:
    before = await lab.order("scan.request", scan_id=uuid7(), plan=line(5))
    assert before.outcome == "refused" and "no instrument 't' is registered" in before.reason
    await registered(lab)  # by another process: what was known here is stale
    scan_id = uuid7()
    assert (await lab.order("scan.request", scan_id=scan_id, plan=line(5), sample_id="s")).outcome == "refused"
    assert (await lab.order("scan.request", scan_id=scan_id, plan=line(5), queue_id="none")).outcome == "refused"
    assert (await lab.scan(scan_id)).status is None and await lab.job(scan_id) == "none"
    await lab.order("sample.register", sample_id="s", material="Si")
    assert (await lab.order("scan.request", scan_id=scan_id, plan=line(5), sample_id="s")).outcome == "accepted"
    retired = await lab.order("equipment.set_status", equipment_id="t", status="maintenance")
    assert retired.outcome == "accepted", retired.reason
    refused = await lab.order("scan.request", scan_id=uuid7(), plan=line(5))
    assert refused.outcome == "refused" and "maintenance" in refused.reason


async def test_a_scan_that_is_aborted_in_the_queue_takes_its_job_with_it_and_restarts_under_a_new_one(lab: Lab) -> None:
    await registered(lab)
    scan_id = await lab.request(line(5))
    aborted = await lab.order("scan.abort", scan_id=scan_id)
    assert [e.type for e in aborted.events][:2] == ["scan.aborted.v1", "job.cancelled.v1"]
    await until(lambda: idle(lab))
    restarted = await lab.order("job.retry", job_id=scan_id)
    assert restarted.outcome == "accepted", restarted.reason
    scan = await lab.scan(scan_id)
    assert (scan.status, scan.attempt) == ("queued", 2)


async def test_a_job_that_is_cancelled_or_removed_ends_its_scan(lab: Lab) -> None:
    await registered(lab)
    one, two = await lab.request(line(5)), await lab.request(line(5))
    assert (await lab.order("queue.remove", queue_id="main", job_id=two)).outcome == "accepted"
    await lab.reaches(two, "aborted")
    assert (await lab.order("job.cancel", job_id=one)).outcome == "accepted"
    await lab.reaches(one, "aborted")
    await until(lambda: idle(lab))
    assert {await lab.job(one), await lab.job(two)} == {"cancelled"}


async def test_a_scan_takes_the_place_of_one_that_waits(lab: Lab) -> None:
    await registered(lab)
    running, old, last = [await lab.request(line(5)) for _ in range(3)]
    new = uuid7()
    refused = await lab.order("scan.request", scan_id=new, plan=line(7), replaces=running)
    assert refused.outcome == "refused" and "running" in refused.reason
    assert (await lab.scan(new)).status is None, "nothing of it is left"
    taken = await lab.order("scan.request", scan_id=new, plan=line(7), replaces=old)
    assert taken.outcome == "accepted", taken.reason
    queue = (await lab.reader.refresh("queue", "main")).state
    assert [str(entry.job_id) for entry in queue.waiting] == [new, str(last)]

    async def old_is_over() -> bool:
        return (await lab.scan(old)).status == "aborted" and await lab.job(old) == "cancelled"

    await until(old_is_over)


async def test_no_place_is_given_to_a_job_that_does_not_exist(lab: Lab) -> None:
    await registered(lab)
    _, waiting = [await lab.request(line(5)) for _ in range(2)]
    order = {"queue_id": "main", "job_id": waiting, "new_job_id": uuid7(), "job_kind": "scan"}
    refused = await lab.order("queue.replace", **order)
    assert refused.outcome == "refused" and "replaces" in refused.reason
    queue = (await lab.reader.refresh("queue", "main")).state
    assert [str(entry.job_id) for entry in queue.waiting] == [str(waiting)]
