"""A rebuild waits for those who read at length, and nobody waits for the rebuild."""

import asyncio
import time

from bus import postgres
from bus.projector import rebuild, wait_for
from bus.subscription import last_sequence
from projections import named
from tests.integration.bus.place import Place
from tests.integration.projections.test_projector import caught_up, equal_to_a_rebuild, lived, projecting, rows_of


async def test_a_long_report_holds_up_the_switch_and_nobody_else(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        life = await lived(place, orders=20)
        await caught_up(place, postgres_url)
        bus = await place.bus("projections")
        async with (
            await postgres.connect(postgres_url, "report") as report,
            await postgres.connect(postgres_url, "reader") as reader,
            await postgres.connect(postgres_url, "rebuild") as rebuilding,
        ):
            await report.execute("begin")
            await report.execute("select * from labledger.queues")
            rebuilt = asyncio.create_task(rebuild(bus, rebuilding, named("queues")))
            longest_s = 0.0
            end = time.monotonic() + 4
            while time.monotonic() < end:
                began = time.monotonic()
                await reader.execute("select * from labledger.queues")
                longest_s = max(longest_s, time.monotonic() - began)
                await asyncio.sleep(0.05)
            assert longest_s < 2.0, "the switch lets go after half a second"
            assert not rebuilt.done()
            await life.go_on(10)  # the live one goes on meanwhile
            await wait_for(postgres_url, await last_sequence(bus), timeout_s=15)
            before = await rows_of(reader, "queue_log")
            await report.execute("rollback")
            generation, _ = await asyncio.wait_for(rebuilt, 15)
            assert generation == 2
            assert await rows_of(reader, "queue_log") == before
        await caught_up(place, postgres_url)
        await equal_to_a_rebuild(place, postgres_url)
