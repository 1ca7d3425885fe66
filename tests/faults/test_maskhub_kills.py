"""kill -9 of what delivers to MaskHub: before, during and after the outside call, and with lost answers. MaskHub knows no idempotency key,
and still everything is there once and has one receipt."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.run import analysis_of, opening_of
from tests.doubles.maskhub import environ
from tests.doubles.server import Outside, outside
from tests.faults.lab import Lab
from tests.faults.shipper import Shipper, make_files
from tests.faults.test_deliveries import COUNT, QUICK, Deliverer, killed_while_it_delivers
from tests.faults.test_extraction_workers import body

RUN = "killed-run"
ABOUT = {"mask_id": 42, "run_name": "killed run", "lot_name": "L", "wafer_name": "W", "station": "bench"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Outside]:
    with outside("maskhub", tmp_path / "hub") as double:
        yield double


def measurement(number: int, sha256: str, size: int) -> dict[str, Any]:
    told = {
        "device_name": f"ring_{number}",
        "measurement_type": "spectrum",
        "die_x": number % 10,
        "die_y": number // 10,
    }
    return {
        "run_id": RUN,
        "measurement_id": str(UUID(int=number)),
        "data": told,
        "sha256": sha256,
        "size_bytes": size,
        "file_name": f"ring_{number}.parquet",
    }


async def test_a_run_of_100_measurements_is_there_once(
    hub: Outside, make_lab: Callable[..., Lab], chance: random.Random
) -> None:
    mode = chance.choice(("real_time", "batch"))
    async with make_lab() as lab:
        options = {"settle_s": 0.5, "http": {"idle_s": 5, "answer_s": 5}}
        target = {"adapter": "maskhub.runs", "retry": QUICK, "options": options}
        deliverer = Deliverer(lab, {"maskhub": target}, environ(hub.url))
        await lab.start("commands")
        await deliverer.known()
        for kind in ("drop_after", "drop", "reset", "status"):
            hub.fail(kind, method="POST", path="/v3/measurements", times=4, status=502, after_bytes=300)
        for path in ("/runs/$", "/attachments/", "trigger_die_analysis"):
            hub.fail("drop_after", method="POST", path=path)
        await lab.send("run.start", {"run_id": RUN, "mode": mode, "metadata": ABOUT})
        for number in range(COUNT):
            data = f"PAR1 {number} PAR1".encode() * 50
            await lab.send("run.add_measurement", measurement(number, deliverer.blobs.put(data), len(data)))
        attachments = [str(uuid4()) for _ in range(3)]
        for id_ in attachments:
            told = {"run_id": RUN, "attachment_id": id_, "sha256": deliverer.blobs.put(id_.encode()), "size_bytes": 36}
            await lab.send("run.attach", told | {"file_name": f"{id_}.txt"})
        await lab.send("run.finish", {"run_id": RUN, "analyse": True})
        measurements = [str(UUID(int=number)) for number in range(COUNT)]
        ids = [str(opening_of(RUN)), *measurements, *attachments, str(analysis_of(RUN))]

        events = await killed_while_it_delivers(deliverer, ids, chance)

        stored = await asyncio.to_thread(hub.contents)
        keys = {body(it)["key"] for it in events if it.type.startswith("run.measurement_added.")}
        assert stored["per_key"] == dict.fromkeys(keys, 1) and len(keys) == COUNT
        assert Counter(one["name"] for one in stored["attachments"]) == {f"{id_}.txt": 1 for id_ in attachments}
        assert [one["name"] for one in stored["runs"]] == ["killed run"] and len(stored["stations"]) == 1
        assert stored["analyses"] == ["killed run"]

        async def noted() -> bool:
            told = [body(it)["delivery_id"] for it in await lab.events() if it.type.startswith("run.part_delivered.")]
            return Counter(told) == dict.fromkeys(ids, 1)

        await lab.until(noted, "the run knows that all of it has arrived, each once")


SHIPPED = {
    "step": "measurement",
    "key": "k" * 64,
    "mask_id": 42,
    "run_name": "killed run",
    "lot_name": "L",
    "wafer_name": "W",
    "die_x": 1,
    "die_y": 2,
    "device_name": "ring",
    "measurement_type": "spectrum",
    "test_station_name": "bench",
    "file_name": "ring.parquet",
    "media_type": "application/vnd.apache.parquet",
}
OPENING = {
    "step": "run",
    "mask_id": 42,
    "run_name": "killed run",
    "test_software_name": "edwa",
    "test_software_version": "1.0.0",
}


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        ("before", {"kind": "slow", "method": "GET", "seconds": 60}),
        ("during", {"kind": "stall", "method": "POST", "after_bytes": 100_000, "seconds": 60}),
        ("after", {"kind": "slow_after", "method": "POST", "seconds": 60}),
    ],
)
@pytest.mark.parametrize("lookups", [True, False], ids=["it can be looked up", "it cannot be looked up"])
def test_killed_at_a_chosen_moment(
    hub: Outside, tmp_path: Path, moment: str, fault: dict[str, Any], lookups: bool
) -> None:
    (path,) = make_files(tmp_path / "files", 1, 2_000_000)
    opening = Shipper(tmp_path / "opening", "maskhub.runs", {}, environ(hub.url))
    opening.order(0, None, options=OPENING)
    opening.finish()
    hub.switch(lookups=lookups)
    shipper = Shipper(tmp_path / "ship", "maskhub.runs", {"settle_s": 0.5}, environ(hub.url))
    shipper.order(0, path, options=SHIPPED)
    hub.fail(**fault, path="/v3/measurements")
    if moment == "after":
        shipper.kill_when(lambda: len(hub.contents()["measurements"]) == 1)
    else:
        shipper.kill_when(lambda: any(one.fault for one in hub.seen()))
    hub.heal()
    assert shipper.kills == 1
    if lookups or moment == "before":
        (receipt,) = shipper.finish()
        assert receipt["outcome"] == ("existed" if moment == "after" else "stored")
    else:
        # Nobody can say whether it arrived, so it is not sent again, however often it is tried.
        shipper.kill_when(lambda: shipper.log().count("may have arrived") > 2)
    stored = hub.contents()
    assert stored["per_key"] == ({} if moment == "during" and not lookups else {"k" * 64: 1})
