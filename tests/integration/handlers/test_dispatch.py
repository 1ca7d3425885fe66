"""Work goes to the station that holds the instruments, also when it comes later than the work."""

from tests.integration.handlers.lab import Lab, config, line
from tests.integration.handlers.test_scan_orders import registered


async def test_work_waits_for_a_station_and_holds_up_nobody(lab: Lab) -> None:
    await registered(lab, "late")
    waiting = await lab.request(line(5, "late"))
    await lab.station("bench", t=config("trivial", lab.world))
    await lab.reaches(await lab.request(line(5)), "completed")
    assert (await lab.scan(waiting)).status == "queued"
    await lab.station("second", late=config("trivial", lab.world))
    await lab.reaches(waiting, "completed")


async def test_work_that_is_none_is_thrown_away_by_who_assigns(lab: Lab) -> None:
    bus = await lab.place.bus("commands")
    await bus.publish("cmd.work.scan.assign", b"{}", {"x": "y"})
    await lab.station("bench", t=config("trivial", lab.world))
    await lab.reaches(await lab.request(line(5)), "completed")
    assert (await lab.place.opened[0].api("STREAM.INFO.CMD"))["state"]["messages"] <= 1
