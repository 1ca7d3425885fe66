"""An order to a queue reaches the scans that run from it."""

from tests.integration.bus.place import until
from tests.integration.handlers.lab import Lab, config, line
from tests.integration.handlers.test_scan_orders import idle


async def test_a_queue_pauses_resumes_and_aborts_what_runs(lab: Lab) -> None:
    await lab.station("bench", t=config("trivial", lab.world))
    scan_id = await lab.request(line(400, settle_s=0.02), frame={"points": 1})
    behind = await lab.request(line(5))
    await lab.measured(scan_id, 2)
    await lab.order("queue.pause", queue_id="main", running_jobs="pause")
    await lab.reaches(scan_id, "paused")
    await lab.order("queue.resume", queue_id="main")
    await lab.reaches(scan_id, "running")
    await lab.order("queue.abort", queue_id="main")
    await lab.reaches(scan_id, "aborted")
    await until(lambda: idle(lab))
    assert (await lab.scan(behind)).status == "queued", "what waits in a stopped queue waits on"
    await lab.order("queue.start", queue_id="main")
    await lab.reaches(behind, "completed")


async def test_a_cleared_queue_aborts_what_waited(lab: Lab) -> None:
    await lab.station("bench", t=config("trivial", lab.world))
    first = await lab.request(line(100, settle_s=0.02), frame={"points": 1})
    waiting = [await lab.request(line(5)) for _ in range(3)]
    await lab.order("queue.clear", queue_id="main")
    for scan_id in waiting:
        await lab.reaches(scan_id, "aborted")
    assert (await lab.reaches(first, "running", "completed")).status is not None
