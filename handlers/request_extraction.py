"""Orders about images, extractions and model fits that touch several aggregates: one decision, stored as one atomic batch.

An extraction, its job, its place in the queue and in its batch begin together and never disagree; the same goes for a fit. The
job has the id of the extraction, or of the fit.
"""

from typing import Any
from uuid import UUID

from bus.commands import handles
from bus.envelope import Meta
from bus.ledger import Ledger, Outcome, Transaction
from domain.errors import NotFound, WrongState
from domain.extraction import (
    QUEUE,
    Extraction,
    Parameters,
    PlaceExtraction,
    RequestExtraction,
    estimated_s,
)
from domain.graph_image import (
    AttachGraphImage,
    DetachGraphImage,
    GraphImage,
    RegisterGraphImage,
    must_be_usable,
)
from domain.job import SubmitJob
from domain.product import AddImage, Product, RemoveImage
from domain.queue import CreateQueue
from domain.spice_model import PlaceFit, RequestFit
from handlers.enqueue import enqueue

EXTRACTION, SPICE_FIT = "extraction", "spice_fit"

#: A worker that dies takes an attempt with it, through no fault of the image: it may happen often. What fails by itself is
#: given up sooner (`handlers/run_extractions.py: FAILURES`).
ATTEMPTS = 10
BACKOFF_S = 2.0
#: The queue that is made with the first extraction: urgent ones first, and so many at once over all workers.
NEW_QUEUE = CreateQueue(queue_id=QUEUE, order="priority", max_concurrent=8)


def _job(kind: str, job_id: UUID, spec: dict[str, Any], order: RequestExtraction | RequestFit, title: str) -> SubmitJob:
    return SubmitJob(
        job_id=job_id,
        queue_id=order.queue_id,
        job_kind=kind,
        spec=spec,
        priority=order.priority,
        max_attempts=ATTEMPTS,
        backoff_s=BACKOFF_S,
        title=title,
        batch_id=order.batch_id,
    )


async def place_extraction(tx: Transaction, request: RequestExtraction) -> None:
    """Decide that an image is to be extracted, within a transaction."""
    image: GraphImage = await tx.state("graph_image", request.graph_image_id)
    must_be_usable(image, request.graph_image_id)
    if request.corrects is not None:
        request = await _corrected(tx, request)
    if request.parameters.page is not None and request.parameters.page > image.pages:
        raise NotFound(
            f"image {request.graph_image_id} has {image.pages} pages; there is no page {request.parameters.page}"
        )
    title = (request.title or f"{image.file_name} {request.parameters.part}".strip())[:200]
    request = request.model_copy(update={"title": title})
    seconds = estimated_s(request.method, image.pixels, request.parameters.calibration is not None)
    order = PlaceExtraction(extraction_id=request.extraction_id, request=request, estimated_s=seconds)
    await tx.decide("extraction", str(request.extraction_id), order)
    spec: dict[str, Any] = {"extraction_id": str(request.extraction_id)}
    await enqueue(tx, _job(EXTRACTION, request.extraction_id, spec, request, title), NEW_QUEUE)


async def _corrected(tx: Transaction, request: RequestExtraction) -> RequestExtraction:
    """What is not given anew is as in the extraction that is corrected."""
    earlier: Extraction = await tx.state("extraction", str(request.corrects), fresh=True)
    if earlier.requested is None:
        raise NotFound(f"there is no extraction {request.corrects} to correct")
    if earlier.requested.graph_image_id != request.graph_image_id:
        raise WrongState(
            f"extraction {request.corrects} is of image {earlier.requested.graph_image_id}; correct it with that image"
        )
    before = {name: getattr(earlier.requested.parameters, name) for name in Parameters.model_fields}
    if earlier.at is not None:
        # Which chart of a PDF it was is known only since it was read, where none was asked for.
        before |= {"page": earlier.at.page, "chart": earlier.at.chart}
    given = {name: getattr(request.parameters, name) for name in request.parameters.model_fields_set}
    update: dict[str, Any] = {"parameters": Parameters.model_validate(before | given)}
    if "method" not in request.model_fields_set:
        # An assisted one needs nobody to be asked for the axes any more.
        method = earlier.requested.method
        update["method"] = "standard" if method == "llm" and "calibration" in given else method
    return request.model_copy(update=update)


@handles(RequestExtraction)
async def request_extraction(command: RequestExtraction, ledger: Ledger, meta: Meta) -> Outcome:
    # What is only looked at is looked at as the leader knows it.
    await ledger.refresh("graph_image", command.graph_image_id)

    async def request(tx: Transaction) -> None:
        await place_extraction(tx, command)

    return await ledger.transact(request, meta, lock=("queue", command.queue_id))


@handles(RegisterGraphImage)
async def register_image(command: RegisterGraphImage, ledger: Ledger, meta: Meta) -> Outcome:
    """The image, its product, and its extraction if that is to follow at once."""
    upload = command.extract

    async def register(tx: Transaction) -> None:
        if command.product_id is not None:
            await _show(tx, command.product_id, command.graph_image_id)
        await tx.decide("graph_image", command.graph_image_id, command)
        if upload is not None:
            fields = {name: getattr(upload, name) for name in type(upload).model_fields}
            await place_extraction(tx, RequestExtraction(graph_image_id=command.graph_image_id, **fields))

    lock = ("queue", upload.queue_id) if upload else ("graph_image", command.graph_image_id)
    return await ledger.transact(register, meta, lock=lock)


async def _show(tx: Transaction, product_id: str, image_id: str) -> None:
    product: Product = await tx.state("product", product_id, fresh=True)
    if not product.registered:
        raise NotFound(f"there is no product {product_id}; register it first (labledger product add)")
    await tx.decide("product", product_id, AddImage(product_id=product_id, graph_image_id=image_id))


@handles(AttachGraphImage)
async def attach_image(command: AttachGraphImage, ledger: Ledger, meta: Meta) -> Outcome:
    async def attach(tx: Transaction) -> None:
        await tx.decide("graph_image", command.graph_image_id, command)
        await _show(tx, command.product_id, command.graph_image_id)

    return await ledger.transact(attach, meta, lock=("graph_image", command.graph_image_id))


@handles(DetachGraphImage)
async def detach_image(command: DetachGraphImage, ledger: Ledger, meta: Meta) -> Outcome:
    async def detach(tx: Transaction) -> None:
        await tx.decide("graph_image", command.graph_image_id, command)
        remove = RemoveImage(product_id=command.product_id, graph_image_id=command.graph_image_id)
        await tx.decide("product", command.product_id, remove)

    return await ledger.transact(detach, meta, lock=("graph_image", command.graph_image_id))


@handles(RequestFit)
async def request_fit(command: RequestFit, ledger: Ledger, meta: Meta) -> Outcome:
    """A fit with the extractions that go in: those given, else the newest completed one of each chart of the product."""

    async def request(tx: Transaction) -> None:
        product_id = command.spice_model_id
        product: Product = await tx.state("product", product_id, fresh=True)
        if not product.registered:
            raise NotFound(f"there is no product {product_id}; register it first (labledger product add)")
        chosen = await _given(tx, command) if command.extraction_ids else await _newest(tx, product, command)
        order = PlaceFit(spice_model_id=product_id, request=command, extraction_ids=chosen)
        await tx.decide("spice_model", product_id, order)
        spec: dict[str, Any] = {"spice_model_id": product_id, "fit_id": str(command.fit_id)}
        title = f"model of {product.part_number}"[:200]
        await enqueue(tx, _job(SPICE_FIT, command.fit_id, spec, command, title), NEW_QUEUE)

    return await ledger.transact(request, meta, lock=("queue", command.queue_id))


async def _given(tx: Transaction, command: RequestFit) -> tuple[UUID, ...]:
    for extraction_id in command.extraction_ids:
        extraction: Extraction = await tx.state("extraction", str(extraction_id), fresh=True)
        if extraction.requested is None:
            raise NotFound(f"there is no extraction {extraction_id}")
        if extraction.state != "completed":
            raise WrongState(f"extraction {extraction_id} is {extraction.state}; only completed ones can be fitted to")
    return tuple(dict.fromkeys(command.extraction_ids))


async def _newest(tx: Transaction, product: Product, command: RequestFit) -> tuple[UUID, ...]:
    found: list[UUID] = []
    for image_id in product.images:
        image: GraphImage = await tx.state("graph_image", image_id, fresh=True)
        for extraction_id in image.extractions.values():
            extraction: Extraction = await tx.state("extraction", str(extraction_id), fresh=True)
            if extraction.curves and (extraction.confidence or 0.0) >= command.min_confidence:
                found.append(extraction_id)
    return tuple(found)
