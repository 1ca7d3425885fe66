"""The deliveries of a run's parts: asked for when each may go, and noted in the run when they have ended.

What a command makes deliverable is asked for in the same decision: the run's opening, and a measurement or attachment of a run that is
open. What becomes deliverable by an event is asked for by a reaction: all that waited for the opening, or for the end of a batch, and
the analysis once everything has arrived.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from bus.commands import handles
from bus.envelope import Meta
from bus.ledger import Ledger, Outcome, Transaction
from bus.reactions import Consumer, Reaction
from domain.artifact import RegisterArtifact
from domain.delivery import (
    Delivery,
    DeliveryCancelled,
    DeliveryDelivered,
    DeliveryParked,
    DeliveryRetried,
    RequestDelivery,
    RetryDelivery,
)
from domain.errors import AlreadyExists, Refused
from domain.run import (
    AddMeasurement,
    AnalysisRequested,
    AttachmentAdded,
    AttachToRun,
    MeasurementAdded,
    NotePart,
    PartCancelled,
    PartDelivered,
    PartState,
    RetryRequested,
    Run,
    RunFinished,
    RunStarted,
    StartRun,
    analysis_of,
)
from domain.target import Target
from handlers.request_delivery import place_delivery, queue_of, request_delivery, retry_delivery

consumer = Consumer("deliver-runs")

#: The kind of target that knows runs.
SYSTEM = "maskhub"
#: So many deliveries are asked for by one decision. Meanwhile workers move the same queue on, and have a longer one decided anew.
CHUNK = 20
#: What of a run's metadata opens it at its target, and what of a measurement is sent with it.
_OPENS = {
    "mask_id",
    "run_name",
    "project_id",
    "station",
    "test_software_name",
    "test_software_version",
    "guid",
    "config",
    "calibration",
    "expected_measurement_count",
    "expected_material_counts",
}
_SENT = {
    "device_name",
    "measurement_type",
    "die_x",
    "die_y",
    "lot_name",
    "wafer_name",
    "test_station_name",
    "test_meta",
    "extra_meta",
    "nas_path",
}

Added = MeasurementAdded | AttachmentAdded


def _opening(event: RunStarted) -> RequestDelivery:
    station = event.metadata.station
    # A test station is made by the first run on it: two at once would make two.
    digest = hashlib.sha256(f"{event.target} {station}".encode()).hexdigest()[:32]
    return RequestDelivery(
        delivery_id=event.delivery_id,
        target_id=event.target,
        options={"step": "run", **event.metadata.model_dump(mode="json", include=_OPENS)},
        claims=(f"station-{digest}",) if station else (),
        title=f"run {event.metadata.run_name}"[:200],
        run_id=event.run_id,
    )


def _part(run: Run, event: Added) -> RequestDelivery:
    """The delivery of a measurement or an attachment, of a run that its target knows."""
    assert run.started is not None
    told: dict[str, Any] = {"file_name": event.file_name, "media_type": event.media_type}
    match event:
        case MeasurementAdded():
            id_, what = event.measurement_id, event.data.device_name
            told |= {"step": "measurement", "key": event.key, "mask_id": event.mask_id, "run_name": event.run_name}
            told |= event.data.model_dump(mode="json", include=_SENT)
        case AttachmentAdded():
            id_, what = event.attachment_id, event.file_name
            told |= {"step": "attachment", "run_id": run.remote_id}
    return RequestDelivery(
        delivery_id=id_,
        target_id=run.started.target,
        artifact=event.sha256,
        options=told,
        title=f"{what} of run {run.started.metadata.run_name}"[:200],
        run_id=event.run_id,
    )


@handles(StartRun)
async def start_run(command: StartRun, ledger: Ledger, meta: Meta) -> Outcome:
    async def start(tx: Transaction) -> None:
        for event in await tx.decide("run", command.run_id, command):
            assert isinstance(event, RunStarted)
            target: Target = await tx.state("target", event.target, fresh=True)
            if target.opened is not None and target.opened.system != SYSTEM:
                raise Refused(f"target {event.target} is {target.opened.system}; runs go to one that is {SYSTEM}")
            await place_delivery(tx, _opening(event))

    return await ledger.transact(start, meta, lock=("run", command.run_id))


@handles(AddMeasurement)
async def add_measurement(command: AddMeasurement, ledger: Ledger, meta: Meta) -> Outcome:
    return await _add(command, ledger, meta)


@handles(AttachToRun)
async def attach(command: AttachToRun, ledger: Ledger, meta: Meta) -> Outcome:
    return await _add(command, ledger, meta)


async def _add(command: AddMeasurement | AttachToRun, ledger: Ledger, meta: Meta) -> Outcome:
    async def add(tx: Transaction) -> None:
        for event in await tx.decide("run", command.run_id, command):
            assert isinstance(event, Added)
            artifact = RegisterArtifact(
                artifact_id=event.sha256,
                size=event.size_bytes,
                media_type=event.media_type,
                file_name=event.file_name,
                role="raw_data" if isinstance(event, MeasurementAdded) else "file",
            )
            await tx.decide("artifact", event.sha256, artifact)
            run: Run = await tx.state("run", command.run_id)
            order = _part(run, event)
            # Whether it may go is as the run's own history has it: an opening noted meanwhile has this decided anew.
            if run.flowing:
                await place_delivery(tx, order)
            elif (await tx.state("delivery", str(order.delivery_id), fresh=True)).requested is not None:
                raise AlreadyExists(f"there is a delivery {order.delivery_id} already; choose a new id")

    return await ledger.transact(add, meta, lock=("run", command.run_id))


@consumer.on(PartDelivered, RunFinished)
async def let_flow(event: PartDelivered | RunFinished, at: Reaction) -> None:
    """What was added before the run was open, or before a batch was finished."""
    # Twice is harmless: a delivery that was asked for is the same delivery.
    if isinstance(event, PartDelivered) and event.part != "opening":
        return
    run: Run = (await at.ledger.refresh("run", event.run_id)).state
    assert run.started is not None
    if not run.flowing or (isinstance(event, RunFinished) and run.started.mode == "real_time"):
        return
    history = await at.ledger.store.history("run", event.run_id)
    added = [stored.event for stored in history if isinstance(stored.event, Added)]
    orders = [order for order in (_part(run, one) for one in added) if _waits(run, order)]
    for chunk in _chunks(orders, CHUNK):
        await _place(chunk, at, run.started.target)


def _waits(run: Run, order: RequestDelivery) -> bool:
    return run.parts[str(order.delivery_id)].state == "pending"


async def _place(orders: Sequence[RequestDelivery], at: Reaction, target_id: str) -> None:
    async def place(tx: Transaction) -> None:
        for order in orders:
            await place_delivery(tx, order)

    step = at.meta.step(f"from {orders[0].delivery_id}")
    await at.ledger.transact(place, step, lock=("queue", queue_of(target_id)))


def _chunks(orders: Sequence[RequestDelivery], size: int) -> Iterator[list[RequestDelivery]]:
    left = iter(orders)
    while chunk := list(islice(left, size)):
        yield chunk


@consumer.on(PartDelivered, PartCancelled, AnalysisRequested)
async def analyse(event: PartDelivered | PartCancelled | AnalysisRequested, at: Reaction) -> None:
    """Once nothing is on its way any more."""
    # Twice is harmless: the analysis of a run is one delivery, whose id follows from that of the run.
    run: Run = (await at.ledger.refresh("run", event.run_id)).state
    if not run.analysable:
        return
    assert run.started is not None
    about = run.started.metadata
    order = RequestDelivery(
        delivery_id=analysis_of(event.run_id),
        target_id=run.started.target,
        options={"step": "analysis", "run_name": about.run_name, "station": about.station},
        title=f"analysis of run {about.run_name}"[:200],
        run_id=event.run_id,
    )
    await request_delivery(order, at.ledger, at.meta)


@consumer.on(RetryRequested)
async def retry_parked(event: RetryRequested, at: Reaction) -> None:
    # Twice is harmless: what is not parked any more says so by refusing, which keeps no other from it.
    for delivery_id in event.delivery_ids:
        with suppress(Refused):
            await retry_delivery(RetryDelivery(delivery_id=delivery_id), at.ledger, at.meta.step(str(delivery_id)))


_STATES: Mapping[str, PartState] = {"delivered": "delivered", "parked": "parked", "cancelled": "cancelled"}


@consumer.on(DeliveryDelivered, DeliveryParked, DeliveryCancelled, DeliveryRetried)
async def note(event: DeliveryDelivered | DeliveryParked | DeliveryCancelled | DeliveryRetried, at: Reaction) -> None:
    # Twice or late is harmless: what is noted is how the delivery stands now.
    delivery: Delivery = (await at.ledger.refresh("delivery", str(event.delivery_id))).state
    if delivery.requested is None or delivery.requested.run_id is None:
        return
    run_id = delivery.requested.run_id
    told = NotePart(
        run_id=run_id,
        delivery_id=event.delivery_id,
        state=_STATES.get(delivery.state, "pending"),
        remote_id=str(delivery.receipt.proof.get("remote_id") or "") if delivery.receipt else "",
        reason=delivery.error,
    )
    await at.ledger.handle("run", run_id, told, at.meta)
