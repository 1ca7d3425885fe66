"""Who waits for a read model that is not there waits, instead of being told that it has caught up."""

import asyncio

import pytest

from bus import postgres, projector
from bus.projector import wait_for
from projections import named


@pytest.mark.parametrize("names", [[], ["samples"]])
@pytest.mark.parametrize("prepared", [True, False])
async def test_what_was_never_built_has_not_caught_up(postgres_url: str, names: list[str], prepared: bool) -> None:
    if prepared:
        async with await postgres.connect(postgres_url, "test") as connection:
            await projector.prepare(connection)
    with pytest.raises(TimeoutError):
        await wait_for(postgres_url, 1, names, timeout_s=0.7)


async def test_one_that_is_there_does_not_stand_for_one_that_is_not(postgres_url: str) -> None:
    async with await postgres.connect(postgres_url, "test") as connection:
        await projector.prepare(connection)
        await (await projector.new_generation(connection, named("samples"), live=True)).follow(5)
    await wait_for(postgres_url, 5, ["samples"], timeout_s=5)
    with pytest.raises(TimeoutError):
        await wait_for(postgres_url, 5, ["samples", "stations"], timeout_s=0.7)


async def test_a_read_model_that_is_built_meanwhile_is_waited_for(postgres_url: str) -> None:
    waiting = asyncio.create_task(wait_for(postgres_url, 5, ["samples"], timeout_s=10))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    async with await postgres.connect(postgres_url, "test") as connection:
        await projector.prepare(connection)
        await (await projector.new_generation(connection, named("samples"), live=True)).follow(5)
    await waiting
