from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from labledger.embedded.nats_server import NatsServer
from tests.integration.bus.place import Place, make_place


@pytest_asyncio.fixture
async def place(make_nats: Callable[..., NatsServer]) -> AsyncIterator[Place]:
    """A server with our streams. Syncs lazily: what is tested is our part, and kill -9 loses no page cache."""
    place = await make_place(make_nats(sync_interval="2m"))
    yield place
    await place.close()
