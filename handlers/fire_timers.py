"""Turn each timer that has fired into the command that it carries."""

from nats.aio.msg import Msg

from bus import retry
from bus.connection import Bus


async def fire_timer(msg: Msg, bus: Bus) -> float | None:
    """Publish the command of a fired timer. Twice is harmless: the command's id is the timer's."""
    headers = msg.headers or {}
    name = headers.get("Labledger-Command")
    if not name:
        return None
    sent = {
        "ce-specversion": "1.0",
        "ce-id": headers["ce-id"],
        "ce-source": "labledger/timers",
        "ce-actor": headers.get("ce-actor", "timer"),
        "Nats-Msg-Id": headers["ce-id"],
    }
    ack = await bus.publish(f"cmd.{name}", msg.data, sent)
    return retry.delay_s(retry.deliveries(msg)) if ack.err_code else None
