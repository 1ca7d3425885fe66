"""Three nats-servers, three copies of each stream: the loss of any one of them is a pause of a few seconds."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from labledger.embedded.cluster import Cluster
from tests.faults.lab import PATIENCE_S, Lab
from tests.faults.proof import all_holds


async def led(lab: Lab, cluster: Cluster) -> int:
    """Who leads EVT."""
    found: list[int] = []

    async def leader() -> bool:
        answer = await asyncio.to_thread(cluster.leader, "EVT")
        if answer is not None:
            found.append(answer)
        return answer is not None

    await lab.until(leader, "EVT has a leader")
    return found[0]


async def test_the_leader_is_killed_during_a_scan_and_then_all_are_restarted_one_by_one(
    make_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path / "cluster")
    async with make_lab(cluster=cluster) as lab:
        await lab.start("commands", "station")
        await lab.queue()
        for instrument in ("axis", "other"):
            await lab.scan(800, instrument=instrument, frame=30)
        await lab.recorded(lab.scans[0], 60)
        leader = await led(lab, cluster)
        await asyncio.to_thread(cluster.kill, leader)
        # A command that is sent while there is no leader is taken by the next one.
        during = await lab.scan(100)
        await lab.outcome(during.command)
        await lab.completed()
        await asyncio.to_thread(cluster.start, PATIENCE_S)

        rolling = [await lab.scan(2500, instrument=it, frame=30) for it in ("axis", "other")]
        await lab.recorded(rolling[0], 60)
        for server in cluster.servers:
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(cluster.wait_healthy, PATIENCE_S)
        await lab.completed()
        await all_holds(lab)
        assert [it.exits for it in lab.processes.values()] == [[], []], lab.last_words()
