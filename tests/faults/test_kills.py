"""kill -9 of any process, at random instants, while scans run. Then everything is as if nothing had happened.

More often: `pytest tests/faults --kills 20`. A failure is seen again with LABLEDGER_FAULTS_SEED; each test prints its own.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.lab import Lab
from tests.faults.proof import all_holds

ONE_BY_ONE, FRAMES = 1, 40


async def keep_scanning(lab: Lab, until: asyncio.Event, frame: int) -> None:
    """Two scans at once, and one waiting, as long as there is something to kill."""
    over: set[str] = set()

    def listener(_: str, type_: str, it: dict[str, Any]) -> None:
        if type_ == "scan.completed":
            over.add(it["scan_id"])

    with lab.listening(listener):
        while not until.is_set():
            if len(lab.scans) - len(over) < 3:
                await lab.scan(300, instrument=("axis", "other")[len(lab.scans) % 2], frame=frame)
            await asyncio.sleep(0.05)


EVERYTHING = ["station", "commands", "projections", "nats", "postgres"]


@pytest.mark.parametrize(
    ("victims", "frame"),
    [
        pytest.param(["station"], FRAMES, id="station, frames"),
        pytest.param(["station"], ONE_BY_ONE, id="station, one by one"),
        pytest.param(["commands"], FRAMES, id="commands, frames"),
        pytest.param(["commands"], ONE_BY_ONE, id="commands, one by one", marks=pytest.mark.slow),
        pytest.param(["nats"], FRAMES, id="nats, frames", marks=pytest.mark.slow),
        pytest.param(["nats"], ONE_BY_ONE, id="nats, one by one"),
        pytest.param(["projections"], FRAMES, id="projections, frames", marks=pytest.mark.slow),
        pytest.param(["postgres"], FRAMES, id="postgres, frames", marks=pytest.mark.slow),
        pytest.param(["projections", "postgres"], ONE_BY_ONE, id="projections and postgres, one by one"),
        pytest.param(EVERYTHING, FRAMES, id="anything, frames"),
        pytest.param(EVERYTHING, ONE_BY_ONE, id="anything, one by one"),
    ],
)
async def test_nothing_is_lost_and_nothing_is_twice_when_they_are_killed(
    make_lab: Callable[..., Lab], victims: list[str], frame: int, kills: int, chance: random.Random
) -> None:
    postgres = bool({"projections", "postgres"} & set(victims))
    await killed(make_lab(postgres=postgres), victims, frame, 2 * kills if victims == EVERYTHING else kills, chance)


async def killed(lab: Lab, victims: list[str], frame: int, kills: int, chance: random.Random) -> None:
    async with lab:
        await lab.start("commands", "station", *(["projections"] if lab.has_postgres else []))
        await lab.queue()
        enough = asyncio.Event()
        sending = asyncio.create_task(keep_scanning(lab, enough, frame))
        first = [await lab.scan(500, instrument=name, frame=frame) for name in ("axis", "other")]
        await lab.recorded(first[0], 1)
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.05, 1.2))
            victim = chance.choice(victims)
            lab.say(f"kill {victim}")
            await lab.kill(victim)
        enough.set()
        lab.say("enough")
        await sending
        await lab.completed()
        lab.say("completed")
        await all_holds(lab)
        lab.say("proven")
