"""What a worker newly says of a target means for its queue: as many at once as the settings say now."""

from bus.reactions import Consumer, Reaction
from domain.queue import ConfigureQueue, Queue
from domain.target import TargetOpened
from handlers.request_delivery import queue_of

consumer = Consumer("follow-targets")


@consumer.on(TargetOpened)
async def set_the_queue(event: TargetOpened, at: Reaction) -> None:
    # Twice is harmless: the same number is set again. A queue that is not there yet is made with it.
    queue_id = queue_of(event.target_id)
    queue: Queue = (await at.ledger.refresh("queue", queue_id)).state
    if queue.state != "none" and queue.max_concurrent != event.concurrency:
        order = ConfigureQueue(queue_id=queue_id, max_concurrent=event.concurrency)
        await at.ledger.handle("queue", queue_id, order, at.meta)
