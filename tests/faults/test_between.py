"""Killed exactly between two effects: the instant is an event that was just stored, heard on the live subject."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from tests.faults.lab import Lab, side_by_side
from tests.faults.proof import all_holds, body, name

POINTS = 200


def last_frame(it: dict[str, Any]) -> bool:
    return it["first_point"] + len(it["time"]) == POINTS


async def killed_at(
    lab: Lab, victim: str, type_: str, where: Callable[[dict[str, Any]], bool] = lambda _: True
) -> None:
    async with lab:
        await lab.start("commands", "station")
        await lab.queue(max_concurrent=1)
        process = lab.processes[victim]
        killing = asyncio.create_task(lab.at(type_, lambda: process.signal(signal.SIGKILL), where))
        await asyncio.sleep(0)
        first = await lab.scan(POINTS, frame=25)
        second = await lab.scan(POINTS, frame=25)
        await killing
        await lab.completed(first, second)
        events = await all_holds(lab)
        assert process.exits == [-signal.SIGKILL]
        attempts = [body(it)["attempt"] for it in events if name(it) == "scan.completed"]
        if victim == "commands":
            assert attempts == [1, 1]  # what decides may die: what measures does not notice
        if type_ == "readings.closed":
            assert attempts == [1, 1]  # the scan was over with that, in one batch


async def test_the_station_is_killed_between_two_effects(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        killed_at(make_lab(), "station", "scan.started"),
        killed_at(make_lab(), "station", "readings.recorded"),
        killed_at(make_lab(), "station", "readings.recorded", last_frame),
        killed_at(make_lab(), "station", "readings.closed"),
    )


async def test_the_command_handler_is_killed_between_two_effects(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        killed_at(make_lab(), "commands", "scan.requested"),  # stored, and its outcome not yet
        killed_at(make_lab(), "commands", "queue.job_dispatched"),
        killed_at(make_lab(), "commands", "job.succeeded"),
        killed_at(make_lab(), "commands", "queue.job_finished"),
    )


async def test_a_command_that_is_sent_again_under_its_id_after_a_kill_has_one_effect(
    make_lab: Callable[..., Lab],
) -> None:
    async with make_lab() as lab:
        await lab.start("commands", "station")
        await lab.queue()
        commands = lab.processes["commands"]
        killing = asyncio.create_task(lab.at("scan.requested", lambda: commands.signal(signal.SIGKILL)))
        await asyncio.sleep(0)
        scan = await lab.scan(50)
        await killing
        for _ in range(3):
            again = await lab.send("scan.request", scan.command.body, scan.command.id)
            assert again.id == scan.command.id
        first = await lab.outcome(scan.command)
        assert first.outcome == "accepted" and first.events
        await lab.completed(scan)
        assert await lab.order("scan.request", scan.command.body) != first  # another id: it exists already
        await all_holds(lab)
