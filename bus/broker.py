"""FastStream on our streams: durable pull subscribers, manual acks, bodies as bytes.

FastStream's own defaults are not for us: a declared stream would be updated, an exception would terminate the message,
a malformed body would come back thousands of times a second (reference: c). So: `declare=False`, `AckPolicy.MANUAL`, a
decoder that cannot fail, and one wrapper that decides what an exception means (`bus.retry`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.annotations import NatsMessage
from faststream.security import SASLPlaintext
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy as JsAckPolicy
from nats.js.api import ConsumerConfig
from nats.js.errors import ServiceUnavailableError

from bus.connection import Credentials

log = logging.getLogger("labledger.bus")

#: Handles one raw message and answers what to do with it: None = ack, a number = again after so many seconds.
RawHandler = Callable[[Msg], Awaitable[float | None]]

#: When nothing is heard of a message for so long, its process is taken for dead and somebody else gets it. A handler may take
#: longer: the message is kept alive while it runs.
ACK_WAIT_S = 5.0


@contextmanager
def _kept_alive(msg: Msg, ack_wait_s: float) -> Generator[None]:
    """Tell the stream, as long as it takes, that the message is in hand. Costs a timer where the handler is quick."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        nonlocal timer, telling
        timer = loop.call_later(ack_wait_s / 3, tell)
        telling = loop.create_task(_tell_in_progress(msg))

    telling: asyncio.Task[None] | None = None
    timer = loop.call_later(ack_wait_s / 3, tell)
    try:
        yield
    finally:
        timer.cancel()
        if telling is not None:
            telling.cancel()


async def _tell_in_progress(msg: Msg) -> None:
    try:
        await msg.in_progress()
    except Exception as error:  # NATS is away: it comes again then, which is harmless
        log.debug("%s: %s", msg.subject, error)


class _Quiet(logging.Filter):
    """Without what is no trouble: an empty fetch that timed out at the wrong moment, and tasks that end at shutdown."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        empty = record.exc_info is not None and isinstance(record.exc_info[1], TimeoutError)
        return not empty and "is being executed" not in message and "raised an exception, retrying" not in message


logging.getLogger("labledger.faststream").addFilter(_Quiet())


async def _whole(message: StreamMessage[Msg]) -> StreamMessage[Msg]:
    """The decoder: the handler gets the message as it came."""
    return message


def make_broker(url: str | Sequence[str], name: str, credentials: Credentials | None = None) -> NatsBroker:
    """A broker that reconnects for ever. It connects when it is started."""
    options: dict[str, Any] = {}
    if credentials and credentials.user:
        options = {"security": SASLPlaintext(credentials.user, credentials.password or "", use_ssl=False)}
    return NatsBroker(
        url,
        name=name,
        inbox_prefix=(credentials or Credentials()).inbox_prefix,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        ping_interval=10,
        # Its resolution of arguments lets the messages of a batch overtake one another on the way to us.
        apply_types=False,
        logger=logging.getLogger("labledger.faststream"),
        log_level=logging.DEBUG,
        **options,
    )


async def start(broker: NatsBroker) -> None:
    """Connect, and attach its subscribers to their consumers, as long as that takes.

    A cluster that looks for a leader, or has many consumers to place at once, answers late or not at all: no reason to give
    up what a service manager would begin again. Safe to repeat: a subscriber that is attached stays as it is.
    """
    while True:
        try:
            await broker.start()
            return
        except (NatsTimeout, ServiceUnavailableError, ConnectionClosedError) as error:
            log.warning("consumers cannot be reached yet (%s): trying again", error)
            await asyncio.sleep(0.5)


def subscribe(
    broker: NatsBroker,
    handler: RawHandler,
    *,
    stream: str,
    subject: str,
    durable: str,
    inbox_prefix: str = "_INBOX",
    batch: int = 32,
    ack_wait_s: float = ACK_WAIT_S,
    max_ack_pending: int = 1000,
) -> None:
    """Hand the messages of `subject` to `handler`, `batch` of them at once."""

    @broker.subscriber(
        subject,
        stream=JStream(stream, declare=False),
        durable=durable,
        pull_sub=PullSub(batch_size=batch, timeout=2.0),
        ack_policy=AckPolicy.MANUAL,
        decoder=_whole,
        inbox_prefix=f"{inbox_prefix}.".encode(),
        config=ConsumerConfig(
            ack_policy=JsAckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=-1,
            max_ack_pending=max_ack_pending,
        ),
        include_in_schema=False,
    )
    async def _on_message(message: NatsMessage) -> None:  # pyright: ignore[reportUnusedFunction]
        with _kept_alive(message.raw_message, ack_wait_s):
            again = await handler(message.raw_message)
        if again is None:
            await message.ack()
        elif again >= 0:
            await message.nack(delay=again)
        # negative: the handler keeps the message and answers for it later
