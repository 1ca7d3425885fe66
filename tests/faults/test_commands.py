"""Commands that cannot be handled get an outcome that says why, and disturb nobody."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from bus import outcomes
from bus.errors import Rejected
from bus.ids import uuid7
from bus.streams import MAX_COMMAND_BYTES
from tests.faults.lab import Lab
from tests.faults.proof import all_holds, name


async def raw(lab: Lab, subject: str, data: bytes, **headers: str) -> tuple[str, Any]:
    id_ = uuid7()
    ack = await lab.bus.publish(subject, data, {"ce-id": id_, "Nats-Msg-Id": id_} | headers)
    return id_, ack


async def test_malformed_unknown_and_oversized_commands_get_an_outcome_while_scans_run(
    make_lab: Callable[..., Lab],
) -> None:
    async with make_lab() as lab:
        await lab.start("commands", "station")
        await lab.queue()
        scans = [await lab.scan(600, instrument=it) for it in ("axis", "other")]
        await lab.recorded(scans[0], 1)

        async def outcome_of(subject: str, data: bytes) -> Any:
            id_, ack = await raw(lab, subject, data)
            assert not ack.err_code, ack
            found: list[Any] = []

            async def there() -> bool:
                found[:] = [await outcomes.recall(lab.bus, id_)]
                return found[0] is not None

            await lab.until(there, f"an outcome of {data[:30]!r}")
            return found[0]

        good = {"scan_id": uuid7(), "plan": {"nodes": []}}
        broken = await outcome_of("cmd.scan.request", b'{"scan_id": "')
        assert broken.outcome == "invalid" and "JSON" in broken.reason
        binary = await outcome_of("cmd.scan.request", bytes(range(256)))
        assert binary.outcome == "invalid"
        deep = await outcome_of("cmd.scan.request", b'{"plan":' * 5000 + b"1" + b"}" * 5000)
        assert deep.outcome == "invalid"
        wrong = await outcome_of("cmd.scan.request", json.dumps(good | {"priority": "now"}).encode())
        assert wrong.outcome == "invalid" and {it.where for it in wrong.problems} >= {"priority"}
        unknown = await outcome_of("cmd.scan.explode", b"{}")
        assert unknown.outcome == "parked" and "scan.explode" in unknown.reason and unknown.parked_id
        internal = await outcome_of("cmd.scan.complete", json.dumps({"scan_id": scans[0].id, "points": 600}).encode())
        assert internal.outcome == "parked"
        nobody = await outcome_of("cmd.scan.pause", json.dumps({"scan_id": uuid7()}).encode())
        assert nobody.outcome == "refused" and "there is no scan" in nobody.reason

        big = json.dumps({"scan_id": uuid7(), "title": "x" * MAX_COMMAND_BYTES}).encode()
        _, ack = await raw(lab, "cmd.scan.request", big)
        assert ack.err_code == 10054 and "size" in ack.error
        # Larger than the server takes at all: the client says so before it is sent.
        with pytest.raises(Rejected, match="NATS takes"):
            await raw(lab, "cmd.scan.request", b"x" * 2_000_000)

        await lab.completed()
        events = await all_holds(lab)
        assert [it for it in lab.processes.values() if it.exits] == []
        # One event for each command that was parked, and none for those that were not valid.
        parked = [it for it in events if name(it).startswith("parked.")]
        assert len(parked) == 2
