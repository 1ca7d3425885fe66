"""What a server forbids is said to whoever waits for it, at once and in words."""

import asyncio

import pytest

from bus.connection import Credentials, connect
from bus.errors import Forbidden
from tests.integration.bus.place import Place

#: An answer that comes before this is over was not waited out.
LONG_S = 60.0


async def test_a_publish_that_is_forbidden_fails_at_once_and_says_which(place: Place) -> None:
    dashboard = await place.bus("dashboard")
    with pytest.raises(Forbidden, match=r"'dashboard' may not publish to evt\.scan\.A: sign in as one who may"):
        await dashboard.publish("evt.scan.A", b"{}", timeout_s=LONG_S)
    with pytest.raises(Forbidden, match=r"may not publish to \$JS\.API\.STREAM\.DELETE\.EVT"):
        await dashboard.api("STREAM.DELETE.EVT", timeout_s=LONG_S)


async def test_others_that_wait_are_left_alone(place: Place) -> None:
    commands, provisioner = await place.bus("commands"), place.opened[0]
    heard = asyncio.Event()

    async def silent(_: object) -> None:
        heard.set()

    await provisioner.api("STREAM.DELETE.CMD")  # nobody else answers
    await provisioner.subscribe("cmd.scan.pause", silent)
    await provisioner.nc.flush()
    waits = asyncio.create_task(commands.request("cmd.scan.pause", b"{}", timeout_s=LONG_S))
    async with asyncio.timeout(LONG_S):
        await heard.wait()
    with pytest.raises(Forbidden):
        await commands.publish("$KV.pointers.a", b"{}", timeout_s=LONG_S)
    assert not waits.done()
    waits.cancel()


async def test_a_batch_fails_with_any_of_its_messages(place: Place) -> None:
    extract = await place.bus("extract")
    messages = [(subject, {}, b"{}") for subject in ("evt.scan.A", "out.B", "evt.scan.A")]
    with pytest.raises(Forbidden, match=r"may not publish to out\.B"):
        await extract.publish_batch(messages, "batch", timeout_s=LONG_S)


async def test_who_may_not_hear_replies_is_told_so(place: Place) -> None:
    mine = place.credentials("publisher")
    other = Credentials(mine.user, mine.password, "_INBOX_somebody")
    bus = await connect(place.server.url, "test", other)
    place.opened.append(bus)
    for _ in range(2):
        with pytest.raises(Forbidden, match=r"'publisher' may not hear replies on _INBOX_somebody\."):
            await bus.api("STREAM.INFO.EVT", timeout_s=LONG_S)
