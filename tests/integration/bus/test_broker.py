"""A broker's subscribers, and a server that is slow to answer while they are attached."""

import asyncio
import os
import signal

import pytest
from nats.aio.msg import Msg

from bus import broker as brokers
from tests.integration.bus.place import Place, until


async def test_consumers_that_cannot_be_made_at_once_are_made_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = place.credentials("commands")
    broker = brokers.make_broker(place.server.url, "slow", credentials)
    handled: list[str] = []

    async def handle(msg: Msg) -> None:
        handled.append(msg.subject)

    for durable in ("one", "two"):
        subject = f"cmd.{durable}.*"
        inbox = credentials.inbox_prefix
        brokers.subscribe(broker, handle, stream="CMD", subject=subject, durable=durable, inbox_prefix=inbox)
    await broker.connect()
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        starting = asyncio.create_task(brokers.start(broker))
        await until(lambda: "cannot be reached yet" in caplog.text)
        assert not starting.done()
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await starting
    for durable in ("one", "two"):
        await (await place.bus("publisher")).publish(f"cmd.{durable}.go", b"{}", {"Nats-Msg-Id": durable})
    await until(lambda: len(handled) == 2)
    await broker.stop()
    assert sorted(handled) == ["cmd.one.go", "cmd.two.go"]
