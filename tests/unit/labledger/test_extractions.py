"""Extractions through the client, while they end."""

from types import SimpleNamespace
from typing import Any, cast

from domain.extraction import Extraction, ExtractionCompleted, ExtractionRequested, RequestExtraction
from domain.job import Job
from labledger.client.curves import Extractions
from labledger.client.lab import Lab
from tests.unit.domain.test_extraction import ID, IMAGE, RESULT

REQUEST = RequestExtraction(extraction_id=ID, graph_image_id=IMAGE)
REQUESTED = ExtractionRequested(**REQUEST.model_dump(), estimated_s=0.7)
COMPLETED = ExtractionCompleted(extraction_id=ID, attempt=1, duration_s=0.5, result=RESULT)


class Ending:
    """A lab whose extraction completes, in one write with its job, before the read of that number."""

    def __init__(self, before: int) -> None:
        self.before, self.reads = before, 0

    def over(self) -> bool:
        self.reads += 1
        return self.reads > self.before

    async def state(self, kind: str, _: Any) -> Any:
        over = self.over()
        if kind == "job":
            return Job(state="succeeded" if over else "running")
        return Extraction(requested=REQUESTED, state="completed" if over else "running")

    async def history(self, _kind: str, _id: Any) -> list[Any]:
        events = [REQUESTED, COMPLETED] if self.over() else [REQUESTED]
        return [SimpleNamespace(event=event, time="2026-01-01T00:00:00Z") for event in events]


async def test_what_is_completed_has_its_result_whenever_it_is_asked_for() -> None:
    for before in range(4):
        found = await Extractions(cast(Lab, Ending(before))).get(ID)
        assert found["state"] != "completed" or found["result"]["curves"], before
