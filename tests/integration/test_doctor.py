"""The doctor on real servers."""

from collections.abc import Callable
from pathlib import Path

from bus import streams
from bus.connection import Bus, connect
from labledger import doctor
from labledger.embedded.nats_server import NatsServer
from labledger.embedded.servers import Servers
from labledger.settings import Settings, load


async def _as_provisioner(settings: Settings) -> Bus:
    to = settings.connection("provisioner")
    return await connect(list(to.nats_urls), "test", to.credentials)


async def test_a_lab_is_in_order_once_its_streams_are_there(tmp_path: Path) -> None:
    settings = load({}, tmp_path)
    with Servers(settings.data_dir):
        states = {check.name: check.state for check in await doctor.check_lab(settings)}
        assert states == {"NATS": "ok", "streams": "fail", "Postgres": "ok", "clock of Postgres": "ok"}
        bus = await _as_provisioner(settings)
        await streams.provision(bus)
        for role in ("auditor", "commands"):
            checks = await doctor.check_lab(settings, role)
            assert [check for check in checks if check.state != "ok"] == []
        assert "error" not in await bus.api("STREAM.DELETE.SNAP")
        await bus.close()
        (lacking,) = [check for check in await doctor.check_lab(settings) if check.state != "ok"]
        assert lacking.found == "SNAP missing"


async def test_a_wrong_password_is_told(make_nats: Callable[..., NatsServer], tmp_path: Path) -> None:
    server = make_nats()
    url = server.url
    given = {"LABLEDGER_NATS_URL": url, "LABLEDGER_NATS_USER": "auditor", "LABLEDGER_NATS_PASSWORD": "guess"}
    (check,) = await doctor.check_nats(load(given, tmp_path).connection("auditor"), timeout_s=1)
    assert (check.name, check.state) == ("NATS", "fail")
    assert "guess" not in repr(check)


def test_both_servers_start_on_this_machine() -> None:
    assert [(check.name, check.state) for check in doctor.check_servers_start()] == [
        ("nats-server starts", "ok"),
        ("Postgres starts", "ok"),
    ]
