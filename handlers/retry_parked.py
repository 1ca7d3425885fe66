"""Send a parked command or event back to who could not handle it, once a person asks for it."""

import json

from bus.errors import BusError
from bus.parking import ORIGIN, PARKED_ID, REASON, Parking
from bus.reactions import Consumer, Reaction
from domain.parked import ParkedRetried

consumer = Consumer("retry-parked")


@consumer.on(ParkedRetried)
async def send_back(event: ParkedRetried, at: Reaction) -> None:
    # Twice is harmless: the message ids are this event's, and a command or an event handled already is not done again.
    parking = Parking(at.ledger)
    bus = at.ledger.store.bus
    subject, headers, body = await parking.message(event.park_seq)
    if subject.startswith("cmd."):
        kept = {k: v for k, v in headers.items() if not k.startswith("Nats-") and k not in (REASON, ORIGIN)}
        kept |= {PARKED_ID: event.parked_id, "Nats-Msg-Id": f"retry-{at.stored.event_id}"}
        ack = await bus.publish(subject, body, kept)
    else:
        order = json.dumps({"park_seq": event.park_seq}).encode()
        name = headers["Nats-Subject"].split(".")[1]
        ack = await bus.publish(f"cmd.work.retry.{name}", order, {"Nats-Msg-Id": f"retry-{at.stored.event_id}"})
    if ack.err_code:
        raise BusError(f"cannot send {event.parked_id} back: {ack.error}")
