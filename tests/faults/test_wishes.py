"""What people ask for while something is down: pause, abort, hold for a person, restart from the beginning."""

import asyncio
import signal
from collections.abc import Callable

from tests.faults.lab import Lab, ScanSent, side_by_side
from tests.faults.proof import all_holds, body, name


async def under_way(lab: Lab, on_crash: str = "resume") -> ScanSent:
    await lab.start("commands", "station")
    await lab.queue()
    scan = await lab.scan(500, frame=20, on_crash=on_crash)
    await lab.recorded(scan, 60)
    return scan


async def down(lab: Lab) -> None:
    """The station dies and stays away until it is started again."""
    await lab.end("station")


async def a_scan_that_is_to_be_restarted_after_a_crash_begins_at_its_first_point(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab, "restart")
        await lab.kill("station")
        await lab.completed(scan)
        events = await all_holds(lab)
        assert [body(it)["from_point"] for it in events if name(it) == "scan.continued"] == [0]


async def a_scan_that_is_to_be_held_after_a_crash_waits_for_a_person(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab, "hold")
        await lab.kill("station")
        await lab.station_up()

        async def held() -> bool:
            return (await lab.types("scan", scan.id))[-1] == "scan.held"

        await lab.until(held, "it is held")
        durable = len(await lab.history("readings", scan.id))
        await asyncio.sleep(2.5)
        assert await held() and len(await lab.history("readings", scan.id)) <= durable + 1
        assert (await lab.order("scan.resume", {"scan_id": scan.id})).outcome == "accepted"
        await lab.completed(scan)
        await all_holds(lab)


async def a_held_scan_can_be_aborted_and_leaves_its_queue(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab, "hold")
        await lab.kill("station")

        async def held() -> bool:
            return (await lab.types("scan", scan.id))[-1] == "scan.held"

        await lab.until(held, "it is held")
        assert (await lab.order("scan.abort", {"scan_id": scan.id})).outcome == "accepted"
        await lab.ends(scan, "aborted")
        after = await lab.scan(50)
        await lab.completed(after)
        await all_holds(lab, completed=[after])


async def a_scan_that_is_aborted_while_its_station_is_down_is_over_at_once(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        await down(lab)
        # Asked before anybody knows that the station is dead.
        assert (await lab.order("scan.abort", {"scan_id": scan.id, "reason": "smoke"})).outcome == "accepted"
        await lab.ends(scan, "aborted", 20)
        await lab.start("station")
        after = await lab.scan(50)
        await lab.completed(after)
        events = await all_holds(lab, completed=[after])
        aborted = [body(it) for it in events if name(it) == "scan.aborted"]
        assert [it["reason"] for it in aborted] == ["smoke"]
        assert "scan.continued" not in await lab.types("scan", scan.id)
        job = [name(it) for it in events if it.subject == f"evt.job.{scan.id}"]
        assert job[-1] == "job.cancelled"


async def a_scan_that_is_paused_while_its_station_is_down_stays_so_until_it_is_resumed(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        await down(lab)
        assert (await lab.order("scan.pause", {"scan_id": scan.id})).outcome == "accepted"
        await lab.start("station")
        await asyncio.sleep(2.5)
        assert "scan.continued" not in await lab.types("scan", scan.id)
        assert (await lab.order("scan.resume", {"scan_id": scan.id})).outcome == "accepted"
        await lab.completed(scan)
        await all_holds(lab)


async def a_paused_scan_outlives_its_station(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        assert (await lab.order("scan.pause", {"scan_id": scan.id})).outcome == "accepted"

        async def paused() -> bool:
            return (await lab.types("scan", scan.id))[-1] == "scan.paused"

        await lab.until(paused, "it is paused")
        await lab.kill("station")
        await lab.station_up()
        assert (await lab.order("scan.resume", {"scan_id": scan.id})).outcome == "accepted"
        await lab.completed(scan)
        await all_holds(lab)


async def an_abort_during_an_outage_of_nats_takes_effect_after_it(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        away = asyncio.create_task(lab.kill("nats", down_s=4))
        await asyncio.sleep(1)
        outcome = await lab.order("scan.abort", {"scan_id": scan.id})
        await away
        assert outcome.outcome == "accepted"
        await lab.ends(scan, "aborted")
        after = await lab.scan(50)
        await lab.completed(after)
        await all_holds(lab, completed=[after])


async def a_pause_during_an_outage_of_nats_takes_effect_after_it(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        away = asyncio.create_task(lab.kill("nats", down_s=4))
        await asyncio.sleep(1)
        outcome = await lab.order("scan.pause", {"scan_id": scan.id})
        await away
        assert outcome.outcome == "accepted"

        async def paused() -> bool:
            return (await lab.types("scan", scan.id))[-1] == "scan.paused"

        await lab.until(paused, "it is paused")
        assert (await lab.order("scan.resume", {"scan_id": scan.id})).outcome == "accepted"
        await lab.completed(scan)
        await all_holds(lab)


async def a_station_that_is_asked_to_stop_hands_its_scan_to_its_next_run(lab: Lab) -> None:
    async with lab:
        scan = await under_way(lab)
        station = lab.processes["station"]
        station.signal(signal.SIGTERM)
        await lab.completed(scan)
        assert station.exits == [0]
        events = await all_holds(lab)
        assert [name(it) for it in events if it.subject == "evt.station.bench"] == [
            "station.started",
            "station.stopped",
            "station.started",
        ]


async def test_what_the_crash_policy_of_a_scan_says_is_done(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        a_scan_that_is_to_be_restarted_after_a_crash_begins_at_its_first_point(make_lab()),
        a_scan_that_is_to_be_held_after_a_crash_waits_for_a_person(make_lab()),
        a_held_scan_can_be_aborted_and_leaves_its_queue(make_lab()),
    )


async def test_what_people_ask_for_while_a_station_is_down_is_done(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        a_scan_that_is_aborted_while_its_station_is_down_is_over_at_once(make_lab()),
        a_scan_that_is_paused_while_its_station_is_down_stays_so_until_it_is_resumed(make_lab()),
        a_paused_scan_outlives_its_station(make_lab()),
    )


async def test_what_people_ask_for_while_nats_is_away_is_done_afterwards(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        an_abort_during_an_outage_of_nats_takes_effect_after_it(make_lab()),
        a_pause_during_an_outage_of_nats_takes_effect_after_it(make_lab()),
        a_station_that_is_asked_to_stop_hands_its_scan_to_its_next_run(make_lab()),
    )
