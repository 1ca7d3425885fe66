"""The streams: made as written, protected, never loosened, and repaired by nobody but a person."""

import pytest

from bus import streams
from bus.streams import STREAMS, StreamDiffers
from tests.integration.bus.place import Place, after, meta, noted


async def test_provisioning_twice_changes_nothing(place: Place) -> None:
    provisioner = place.opened[0]
    before = {name: await provisioner.api(f"STREAM.INFO.{name}") for name in STREAMS}
    await streams.provision(provisioner)
    after_ = {name: await provisioner.api(f"STREAM.INFO.{name}") for name in STREAMS}
    assert {n: i["config"] for n, i in before.items()} == {n: i["config"] for n, i in after_.items()}
    assert await streams.check(provisioner) == {name: [] for name in STREAMS}
    assert await streams.provisioned(await place.bus("station"), ("EVT", "CMD"))


async def test_a_stream_that_differs_is_named_and_left_alone(place: Place) -> None:
    provisioner = place.opened[0]
    config = (await provisioner.api("STREAM.INFO.EVT"))["config"] | {"max_msgs": 10}
    assert "error" not in await provisioner.api("STREAM.UPDATE.EVT", config)
    with pytest.raises(StreamDiffers, match="max_msgs is 10, must be unlimited"):
        await streams.provision(provisioner)
    assert (await provisioner.api("STREAM.INFO.EVT"))["config"]["max_msgs"] == 10
    assert not await streams.provisioned(provisioner)


async def test_a_missing_stream_is_told_and_made(place: Place) -> None:
    provisioner = place.opened[0]
    await provisioner.api("STREAM.DELETE.OUT")
    assert (await streams.check(provisioner))["OUT"] == ["missing"]
    await streams.provision(provisioner)
    assert (await streams.check(provisioner))["OUT"] == []


async def test_history_cannot_be_deleted_or_purged_even_by_the_provisioner(place: Place) -> None:
    store = await place.store()
    await store.append([after([], noted(1))], meta("a"))
    provisioner = place.opened[0]
    assert (await provisioner.api("STREAM.MSG.DELETE.EVT", {"seq": 1}))["error"]["err_code"] == 10057
    assert (await provisioner.api("STREAM.PURGE.EVT"))["error"]["err_code"] == 10110
    assert len(await store.history("parked", "p")) == 1


async def test_what_is_stored_is_heard_live(place: Place) -> None:
    heard: list[str] = []
    dashboard = await place.bus("dashboard")

    async def on_event(msg: object) -> None:
        heard.append(msg.headers["Nats-Sequence"])  # type: ignore[attr-defined]

    await dashboard.nc.subscribe(streams.live("parked", "*"), cb=on_event)
    await dashboard.nc.flush()
    await dashboard.nc.flush()
    store = await place.store()
    await store.append([after([], noted(1), noted(2))], meta("a"))
    from tests.integration.bus.place import until

    await until(lambda: len(heard) == 2)
    assert heard == ["1", "2"]
