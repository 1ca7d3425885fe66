from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from bus import retry
from labledger.embedded.nats_server import NatsServer
from tests.integration.bus.place import Handlers, Place, make_place


@pytest_asyncio.fixture
async def place(make_nats: Callable[..., NatsServer]) -> AsyncIterator[Place]:
    """A server with our streams. Syncs lazily: what is tested is our part, and kill -9 loses no page cache."""
    place = await make_place(make_nats(sync_interval="2m"))
    yield place
    await place.close()


@pytest_asyncio.fixture
async def handlers(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Awaitable[Handlers]]]:
    """Starts processes that handle commands (and the given consumers); failures are tried again sooner than in life."""
    monkeypatch.setattr(retry, "delay_s", lambda delivery: min(0.02 * 2 ** max(0, delivery - 1), 0.3))
    made: list[Handlers] = []

    async def start(*consumers: Any) -> Handlers:
        one = Handlers(place, consumers)
        made.append(one)
        return await one.start()

    yield start
    for one in made:
        await one.stop()
