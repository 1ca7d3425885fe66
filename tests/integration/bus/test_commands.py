"""Commands over the wire, with a publisher's credentials: each gets one clear outcome, however often and late it comes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bus import outcomes
from bus.commands import HANDLERS, REPLY_TO, Sender
from bus.connection import Bus
from bus.errors import Forbidden, Rejected
from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.streams import MAX_COMMAND_BYTES
from tests.integration.bus.place import Handlers, Place, everything, until

Start = Callable[..., Awaitable[Handlers]]


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def sender(place: Place) -> Sender:
    return Sender(await place.bus("publisher"), "Ada")


async def raw(bus: Bus, subject: str, data: bytes, **headers: str) -> Outcome | None:
    """A foreign client: plain messages, an inbox of its own. Answers the outcome that came to the inbox, if any."""
    inbox = bus.nc.new_inbox()
    found: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def on_outcome(msg: Any) -> None:
        if not found.done():
            found.set_result(Outcome.model_validate_json(msg.data))

    await bus.nc.subscribe(inbox, cb=on_outcome)
    named = {REPLY_TO: inbox} | {name.replace("_", "-"): value for name, value in headers.items()}
    ack = await bus.publish(subject, data, named)
    assert not ack.err_code, ack.error
    try:
        return await asyncio.wait_for(found, 3)
    except TimeoutError:
        return None


async def test_a_command_is_accepted_with_its_events(place: Place, handlers: Start) -> None:
    await handlers()
    outcome = await (await sender(place)).send("queue.create", body(queue_id="main"), "id-1")
    assert (outcome.outcome, outcome.command_id, outcome.command) == ("accepted", "id-1", "queue.create")
    assert [(e.type, e.subject, e.sequence) for e in outcome.events] == [("queue.created.v1", "evt.queue.main", 1)]
    assert outcome.sequence == 1
    (stored,) = await everything(place.opened[0])
    assert (stored.causation, stored.actor, stored.correlation) == ("id-1", "Ada", "id-1")


async def test_the_domains_no_is_worded_for_who_asked(place: Place, handlers: Start) -> None:
    await handlers()
    outcome = await (await sender(place)).send("queue.start", body(queue_id="nowhere"), uuid7())
    assert outcome.outcome == "refused" and outcome.events == ()
    assert outcome.reason == "there is no queue nowhere; create it first (queue.create)"


@pytest.mark.parametrize(
    ("name", "data", "where", "what"),
    [
        ("queue.create", b'{"queue_id": "a b"}', "queue_id", "pattern"),
        ("queue.create", b'{"queue_id": "a", "max_concurrent": 0}', "max_concurrent", "greater than or equal to 1"),
        ("queue.create", b'{"queue_id": "a", "colour": "red"}', "colour", "not permitted"),
        ("queue.create", b"{}", "queue_id", "required"),
        ("queue.create", b'{"queue_id": ', "(body)", "EOF"),
        ("queue.create", b"\xff\xfe\x00", "(body)", "JSON"),
        ("queue.create", b"", "(body)", "EOF"),
        ("queue.create", b"[" * 100_000, "(body)", "recursion"),
        ("queue.create", b'{"queue_id": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "(body)", "recursion"),
    ],
)
async def test_an_invalid_command_is_told_what_is_wrong_and_where(
    place: Place, handlers: Start, name: str, data: bytes, where: str, what: str
) -> None:
    await handlers()
    outcome = await (await sender(place)).send(name, data, uuid7())
    assert outcome.outcome == "invalid"
    assert [problem.where for problem in outcome.problems] == [where]
    assert what in outcome.problems[0].what
    assert where in outcome.reason and await everything(place.opened[0]) == []


async def test_a_plan_that_is_wrong_deep_inside_is_told_where(place: Place, handlers: Start) -> None:
    await handlers()
    move = {"kind": "move", "instrument": "t", "channel": "x", "positions": {"kind": "linear", "start": 0, "stop": 1}}
    data = body(scan_id=uuid7(), plan={"nodes": [move | {"children": [{"kind": "measure", "instrument": "t"}]}]})
    outcome = await (await sender(place)).send("scan.request", data, uuid7())
    assert outcome.outcome == "invalid"
    wheres = {problem.where for problem in outcome.problems}
    assert any(where.startswith("plan.nodes.0") and where.endswith("num") for where in wheres)
    assert any("children.0" in where and where.endswith("channels") for where in wheres)


async def test_an_unknown_command_is_parked_and_said_so(place: Place, handlers: Start) -> None:
    await handlers()
    outcome = await (await sender(place)).send("scan.dance", b'{"a": 1}', "id-1")
    assert outcome.outcome == "parked" and "scan.dance" in outcome.reason
    (added,) = await everything(place.opened[0])
    assert added.type == "parked.added.v1" and added.id == outcome.parked_id
    assert json.loads(added.data)["subject"] == "cmd.scan.dance"
    again = await (await sender(place)).send("scan.dance", b'{"a": 1}', "id-1")
    assert again == outcome and len(await everything(place.opened[0])) == 1


async def test_an_oversized_command_gets_a_clear_answer(place: Place, handlers: Start) -> None:
    await handlers()
    ada = await sender(place)
    with pytest.raises(Rejected, match="maximum allowed"):
        await ada.send("queue.create", b" " * (MAX_COMMAND_BYTES + 1), uuid7())
    with pytest.raises(Rejected, match="NATS takes"):
        await ada.send("queue.create", b" " * (2 << 20), uuid7(), timeout_s=3)
    assert (await ada.send("queue.create", body(queue_id="main"), uuid7())).outcome == "accepted"


async def test_a_command_without_an_id_is_invalid_and_answered(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("publisher")
    outcome = await raw(bus, "cmd.queue.create", body(queue_id="main"))
    assert outcome and outcome.outcome == "invalid" and outcome.problems[0].where == "header ce-id"
    outcome = await raw(bus, "cmd.queue.create", body(queue_id="main"), ce_id="not a word")
    assert outcome and outcome.outcome == "invalid" and outcome.problems[0].where == "header ce-id"
    assert await everything(place.opened[0]) == []


async def test_a_foreign_client_is_understood_whatever_its_headers_are(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("publisher")
    odd = {"ce_actor": "Jürgen % Ω", "traceparent": "näh", "ce_correlationid": "a b%c"}
    outcome = await raw(bus, "cmd.queue.create", body(queue_id="main"), ce_id="1", **odd)
    assert outcome and outcome.outcome == "accepted"
    (stored,) = await everything(place.opened[0])
    assert (stored.actor, stored.correlation) == ("Jürgen % Ω", "a b%c")
    assert "traceparent" not in stored.headers
    outcome = await raw(bus, "cmd.scan.dance", "{}Ω".encode(), ce_id="2", **odd)
    assert outcome and outcome.outcome == "parked"


@pytest.mark.parametrize("target", ["evt.queue.main", "cmd.queue.create", "_INBOX.>", "_INBOX.a.*", "_INBOX.a..b", "x"])
async def test_an_outcome_goes_to_inboxes_only(place: Place, handlers: Start, target: str) -> None:
    await handlers()
    bus = await place.bus("publisher")
    ack = await bus.publish("cmd.queue.create", body(queue_id="main"), {"ce-id": "id-1", REPLY_TO: target})
    assert not ack.err_code
    outcome = await until(lambda: outcomes.recall(bus, "id-1"))
    assert outcome.outcome == "invalid" and REPLY_TO in outcome.problems[0].where
    assert await everything(place.opened[0]) == []
    assert (await place.opened[0].api("STREAM.INFO.CMD"))["state"]["last_seq"] == 1


async def test_the_same_id_again_gets_the_same_outcome(place: Place, handlers: Start) -> None:
    await handlers()
    ada = await sender(place)
    first = await ada.send("queue.create", body(queue_id="main", mode="manual"), "id-1")
    refused = await ada.send("queue.create", body(queue_id="main"), "id-2")
    assert refused.outcome == "refused"
    assert await ada.send("queue.create", body(queue_id="main", mode="manual"), "id-1") == first
    assert await (await sender(place)).send("queue.create", body(queue_id="main"), "id-2") == refused
    assert len(await everything(place.opened[0])) == 1


async def test_the_same_id_long_after_the_window_and_many_commands_and_a_restart(place: Place, handlers: Start) -> None:
    running = await handlers()
    ada = await sender(place)
    await ada.send("queue.create", body(queue_id="main"), "create")
    first = await ada.send("queue.pause", body(queue_id="main"), "pause-1")
    turns = ("queue.resume", "queue.start", "queue.pause")
    outcomes_ = [await ada.send(turns[n % 3], body(queue_id="main"), f"n{n}") for n in range(70)]
    assert {outcome.outcome for outcome in outcomes_} <= {"accepted", "refused"}
    count = len(await everything(place.opened[0]))
    # No Nats-Msg-Id: the stream takes it as new, as it does after the window.
    bus = await place.bus("publisher")
    assert await raw(bus, "cmd.queue.pause", body(queue_id="main"), ce_id="pause-1") == first
    await running.stop()
    await handlers()
    assert await raw(bus, "cmd.queue.pause", body(queue_id="main"), ce_id="pause-1") == first
    assert len(await everything(place.opened[0])) == count


async def test_an_id_that_was_used_for_another_command_is_invalid(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("publisher")
    first = await raw(bus, "cmd.queue.create", body(queue_id="main"), ce_id="1")
    other = await raw(bus, "cmd.queue.pause", body(queue_id="main"), ce_id="1")
    assert other and other.outcome == "invalid" and "queue.create" in other.problems[0].what
    assert await raw(bus, "cmd.queue.create", body(queue_id="main"), ce_id="1") == first


async def test_a_command_waits_in_the_stream_while_nobody_handles_it(place: Place, handlers: Start) -> None:
    ada = await sender(place)
    with pytest.raises(TimeoutError):
        await ada.send("queue.create", body(queue_id="main"), "id-1", timeout_s=0.3)
    await handlers()
    assert (await ada.send("queue.create", body(queue_id="main"), "id-1")).outcome == "accepted"


async def test_an_outcome_whose_message_was_lost_is_found(place: Place, handlers: Start) -> None:
    await handlers()
    ada = await sender(place)
    await ada.send("queue.create", body(queue_id="main"), "id-1")
    ada._inbox += "x"  # nobody hears what is sent there
    outcome = await ada.send("queue.pause", body(queue_id="main"), "id-2", timeout_s=5)
    assert outcome.command_id == "id-2" and outcome.outcome in ("accepted", "refused")


async def test_a_handler_that_fails_now_and_then_is_tried_again(
    place: Place, handlers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def shaky(command: Any, ledger: Any, meta: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise ZeroDivisionError("a defect")
        return await ledger.handle("queue", command.queue_id, command, meta)

    monkeypatch.setitem(HANDLERS, "queue.create", shaky)
    await handlers()
    outcome = await (await sender(place)).send("queue.create", body(queue_id="main"), "id-1")
    assert outcome.outcome == "accepted" and tries == 4


async def test_a_handler_that_always_fails_parks_its_command_and_a_retry_after_the_repair_handles_it(
    place: Place, handlers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def broken(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("a defect Ω")

    monkeypatch.setitem(HANDLERS, "queue.create", broken)
    await handlers()
    ada = await sender(place)
    parked = await ada.send("queue.create", body(queue_id="main"), "id-1")
    assert parked.outcome == "parked" and "a defect Ω" in parked.reason and tries == 5
    (added,) = await everything(place.opened[0])
    assert "ZeroDivisionError" in json.loads(added.data)["detail"]

    # Not repaired yet: parked again, under the same id.
    await ada.send("parked.retry", body(parked_id=parked.parked_id), uuid7())
    await until(lambda: tries == 10)
    await until(lambda: _state(place, parked.parked_id, "parked.added.v1"))

    monkeypatch.delitem(HANDLERS, "queue.create")
    assert (await ada.send("parked.retry", body(parked_id=parked.parked_id), uuid7())).outcome == "accepted"
    await until(lambda: _state(place, parked.parked_id, "parked.resolved.v1"))
    assert (await ada.send("queue.create", body(queue_id="main"), "id-1")).outcome == "accepted"
    again = await ada.send("parked.retry", body(parked_id=parked.parked_id), uuid7())
    assert again.outcome == "refused" and "handled already" in again.reason


async def _state(place: Place, parked_id: str | None, type_: str) -> bool:
    return (await everything(place.opened[0], f"evt.parked.{parked_id}"))[-1].type == type_


async def test_a_parked_command_that_turns_out_invalid_is_answered_and_done_with(
    place: Place, handlers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from domain.events import COMMANDS

    known = COMMANDS["queue.create"]
    monkeypatch.delitem(COMMANDS, "queue.create")
    await handlers()
    ada = await sender(place)
    parked = await ada.send("queue.create", b"{}", "id-1")
    assert parked.outcome == "parked"
    monkeypatch.setitem(COMMANDS, "queue.create", known)
    await ada.send("parked.retry", body(parked_id=parked.parked_id), uuid7())
    await until(lambda: _state(place, parked.parked_id, "parked.resolved.v1"))
    assert (await ada.send("queue.create", b"{}", "id-1")).outcome == "invalid"


async def test_a_parked_command_can_be_dropped(place: Place, handlers: Start) -> None:
    await handlers()
    ada = await sender(place)
    parked = await ada.send("scan.dance", b"{}", "id-1")
    assert (await ada.send("parked.drop", body(parked_id=parked.parked_id), uuid7())).outcome == "accepted"
    again = await ada.send("parked.retry", body(parked_id=parked.parked_id), uuid7())
    assert again.outcome == "refused" and "dropped" in again.reason


async def test_nobody_can_say_by_a_header_that_somebody_elses_command_was_handled(
    place: Place, handlers: Start
) -> None:
    await handlers()
    parked = await (await sender(place)).send("scan.dance", b"{}", "id-1")
    bus = await place.bus("publisher")
    headers = {"Labledger_Parked": parked.parked_id or ""}
    outcome = await raw(bus, "cmd.queue.create", body(queue_id="main"), ce_id="id-2", **headers)
    assert outcome and outcome.outcome == "accepted"
    # Nor under the same id, as long as nobody has asked to try it again.
    assert await raw(bus, "cmd.scan.dance", b"{}", ce_id="id-1", **headers) == parked
    assert await _state(place, parked.parked_id, "parked.added.v1")


async def test_a_publisher_cannot_hand_out_work(place: Place) -> None:
    bus = await place.bus("publisher")
    with pytest.raises(Forbidden, match=r"may not publish to cmd\.work\.scan\.bench"):
        await bus.request("cmd.work.scan.bench", b"{}")
    assert (await place.opened[0].api("STREAM.INFO.CMD"))["state"]["last_seq"] == 0
