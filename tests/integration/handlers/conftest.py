from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from adapters.instruments.simulation import forget_world
from labledger.embedded.nats_server import NatsServer
from tests.integration.bus.place import Place, make_place
from tests.integration.handlers.lab import Lab


@pytest_asyncio.fixture
async def place(make_nats: Callable[..., NatsServer]) -> AsyncIterator[Place]:
    place = await make_place(make_nats(sync_interval="2m"))
    yield place
    await place.close()


@pytest_asyncio.fixture
async def lab(place: Place, tmp_path: Path) -> AsyncIterator[Lab]:
    """Commands, reactions and a watchdog; stations are started by the tests."""
    lab = Lab(place, tmp_path)
    await lab.start()
    yield lab
    await lab.close()
    forget_world(lab.world)
