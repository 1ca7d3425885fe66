"""When the first chart of a document is read, the others are ordered: each gets an extraction of its own."""

import logging
from uuid import uuid5

from bus.ledger import Transaction
from bus.reactions import Consumer, Reaction
from domain.errors import Refused
from domain.extraction import Extraction, ExtractionCompleted, RequestExtraction, part_of
from handlers.request_extraction import place_extraction

log = logging.getLogger("labledger.extractions")

consumer = Consumer("read-other-charts")


@consumer.on(ExtractionCompleted)
async def read_the_other_charts(event: ExtractionCompleted, at: Reaction) -> None:
    # Twice is harmless: each chart's extraction has an id that follows from the first one's.
    if not event.result.others:
        return
    extraction: Extraction = (await at.ledger.refresh("extraction", str(event.extraction_id))).state
    first = extraction.requested
    assert first is not None

    async def place(tx: Transaction) -> None:
        for chart in event.result.others:
            parameters = first.parameters.model_copy(update={"page": chart.page, "chart": chart.chart})
            request = RequestExtraction(
                extraction_id=uuid5(event.extraction_id, part_of(chart.page, chart.chart)),
                graph_image_id=first.graph_image_id,
                method=first.method,
                parameters=parameters,
                queue_id=first.queue_id,
                priority=first.priority,
                batch_id=first.batch_id,
            )
            await place_extraction(tx, request)

    try:
        await at.ledger.transact(place, at.meta, lock=("queue", first.queue_id))
    except Refused as error:
        # The batch was cancelled meanwhile, or is full: then nobody waits for the others.
        log.info("charts beside extraction %s: %s", event.extraction_id, error)
