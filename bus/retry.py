"""The one retry policy of commands, reactions and work: what is tried again, when, and when it is parked.

- no answer from NATS, a lost race, a store or network away: again with growing delay, for ever. Time mends it.
- the domain's no: an answer, never retried.
- anything else is a fault in a handler or poison: again `TRIES` times, then parked with the reason.
"""

import asyncio
from datetime import UTC, datetime

from nats.aio.msg import Msg

from bus.errors import Conflict, Unavailable
from bus.subscription import ack_tokens

TRIES = 5


def mends_itself(error: BaseException) -> bool:
    """True for troubles that pass with time."""
    return isinstance(error, Unavailable | Conflict | ConnectionError | TimeoutError | asyncio.TimeoutError)


def delay_s(delivery: int) -> float:
    """How long to wait after the n-th delivery failed (n from 1): 0.2 s, doubling, at most 30 s."""
    return min(0.2 * 2 ** max(0, delivery - 1), 30.0)


def deliveries(msg: Msg) -> int:
    """The how-manieth delivery of this message it is (1 = the first)."""
    tokens = msg.reply.split(".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])


def stored_at(msg: Msg) -> datetime:
    """When the server stored the message."""
    return datetime.fromtimestamp(ack_tokens(msg.reply)[2] / 1e9, UTC)
