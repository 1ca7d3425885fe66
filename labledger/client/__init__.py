"""A Python client of the lab: everything that the command line does.

    async with Lab.connect(data_dir="lab") as lab:
        scan = await lab.scans.submit(plan, sample="W12-3")
        async for progress in lab.scans.watch(scan):
            print(progress.points, "of", progress.total_points)
        readings = await lab.readings(scan)

In a notebook, the same without `await`:

    lab = Lab.sync(data_dir="lab")
    scan = lab.scans.submit(plan, wait=True)
    lab.readings(scan)["meter.voltage"]

It signs in as an outside service does (role `publisher`): it sends commands, reads events by direct get and hears them live
on `live.evt.>`. It makes no consumers and can write no event. What it tells comes from the events themselves, so that one always
reads one's own writes; `query` asks the read models in Postgres, and `wait_for` waits until they have come as far.
"""

from bus.envelope import Stored
from bus.outcomes import Outcome
from labledger.client.errors import (
    CommandError,
    CommandInvalid,
    CommandParked,
    CommandRefused,
    LabError,
    NoOutcomeYet,
    NotAllowed,
    NotDone,
    NotFound,
    NotReachable,
)
from labledger.client.kinds import as_plan
from labledger.client.lab import Lab, split_url
from labledger.client.plain import SyncLab
from labledger.client.progress import Progress
from labledger.client.readings import Readings

__all__ = [
    "CommandError",
    "CommandInvalid",
    "CommandParked",
    "CommandRefused",
    "Lab",
    "LabError",
    "NoOutcomeYet",
    "NotAllowed",
    "NotDone",
    "NotFound",
    "NotReachable",
    "Outcome",
    "Progress",
    "Readings",
    "Stored",
    "SyncLab",
    "as_plan",
    "split_url",
]
