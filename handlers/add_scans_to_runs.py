"""A scan whose metadata names a run is a measurement of it, with the scan's raw data, as soon as that has been made.

The metadata of the scan has `run_id`, `device_name`, `die_x`, `die_y`, and where the run does not say it `lot_name`, `wafer_name`,
`test_station_name`; `measurement_type` is "scan" unless given. What else is in it goes along as `test_meta`.
"""

import uuid
from typing import Any

from pydantic import ValidationError

from bus.reactions import Consumer, Reaction
from domain.artifact import ArtifactRegistered
from domain.errors import Refused
from domain.run import AddMeasurement, MeasurementData
from domain.scan import Scan
from handlers.deliver_runs import add_measurement

consumer = Consumer("add-scans-to-runs")

_ABOUT = set(MeasurementData.model_fields) - {"test_meta", "extra_meta"}


class NotAdded(Exception):
    """The scan says that it belongs to a run, and cannot be added to it. Parked, so that a person sees it and can retry."""


@consumer.on(ArtifactRegistered)
async def add_scan(event: ArtifactRegistered, at: Reaction) -> None:
    # Twice is harmless: the measurement's id follows from scan, run and raw data.
    if event.role != "raw_data" or event.scan_id is None:
        return
    scan: Scan = (await at.ledger.refresh("scan", str(event.scan_id))).state
    run_id = scan.metadata.get("run_id")
    if run_id is None:
        return
    about: dict[str, Any] = {name: value for name, value in scan.metadata.items() if name in _ABOUT}
    rest = {name: value for name, value in scan.metadata.items() if name not in _ABOUT and name != "run_id"}
    meta = rest | {"scan_id": str(event.scan_id), "title": scan.title, "sample_id": scan.sample_id}
    try:
        command = AddMeasurement.model_validate(
            {
                "run_id": run_id,
                "measurement_id": uuid.uuid5(event.scan_id, f"{run_id} {event.artifact_id}"),
                "data": {"measurement_type": "scan", **about, "test_meta": meta},
                "sha256": event.artifact_id,
                "size_bytes": event.size,
                "file_name": event.file_name,
                "media_type": event.media_type,
            }
        )
        await add_measurement(command, at.ledger, at.meta)
    except ValidationError as error:
        wrong = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors(include_url=False))
        raise NotAdded(
            f"scan {event.scan_id} is to be a measurement of run {run_id}, but its metadata: {wrong}"
        ) from None
    except Refused as refusal:
        raise NotAdded(f"scan {event.scan_id} cannot be added to run {run_id}: {refusal}") from refusal
