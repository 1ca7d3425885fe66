"""Commands from the bus: check, decide, answer.

A command comes on `cmd.<kind>.<verb>`, with `ce-id` (chosen by the sender), perhaps `ce-actor`, `ce-correlationid`,
`traceparent`, and perhaps `Labledger-Reply-To`, an inbox that gets the outcome. It is acknowledged to the stream only
after its outcome is kept, so a crash anywhere leads to the same command being handled again, with the same answer.
"""

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote

from nats.aio.msg import Msg
from pydantic import ValidationError

from bus import outcomes, retry
from bus.connection import Bus
from bus.envelope import Meta, quoted
from bus.errors import Rejected, Unavailable
from bus.ledger import Ledger
from bus.ledger import Outcome as Decided
from bus.outcomes import Outcome, Problem
from bus.parking import PARKED_ID, Parking
from bus.subscription import ack_tokens
from domain.aggregate import aggregates
from domain.errors import Refused
from domain.events import COMMANDS, Command

log = logging.getLogger("labledger.commands")

REPLY_TO = "Labledger-Reply-To"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INBOX = re.compile(r"_INBOX[A-Za-z0-9_-]{0,100}(\.[A-Za-z0-9_-]{1,64}){1,6}")
_TRACE = re.compile(r"[0-9a-f-]{1,100}")

C = TypeVar("C", bound=Command)
Handler = Callable[[Any, Ledger, Meta], Awaitable[Decided]]

#: Commands that need more than their own aggregate, by name. Filled by `handles` in the modules of `handlers`.
HANDLERS: dict[str, Handler] = {}


def handles(command: type[C]) -> Callable[[Callable[[C, Ledger, Meta], Awaitable[Decided]]], Any]:
    """Mark the function that handles a command which touches several aggregates. Others need none."""

    def mark(function: Callable[[C, Ledger, Meta], Awaitable[Decided]]) -> Callable[..., Awaitable[Decided]]:
        HANDLERS[command.NAME] = function
        return function

    return mark


def problems(error: ValidationError) -> tuple[Problem, ...]:
    """What is wrong with a command's body, and where, without the URLs and inputs that pydantic adds."""
    return tuple(
        Problem(where=".".join(str(part) for part in one["loc"]) or "(body)", what=one["msg"])
        for one in error.errors(include_url=False, include_input=False, include_context=False)[:20]
    )


class CommandConsumer:
    """Handles messages of `cmd.*.*`."""

    def __init__(self, bus: Bus, ledger: Ledger, parking: Parking) -> None:
        self._bus = bus
        self._ledger = ledger
        self._parking = parking

    async def on_message(self, msg: Msg) -> float | None:
        """Handle one command; answers None (done) or after how many seconds to try again."""
        headers = msg.headers or {}
        try:
            outcome = await self._outcome(msg, headers)
        except Exception as error:
            if not retry.mends_itself(error):
                log.exception("command %s failed", msg.subject)
            if retry.mends_itself(error) or retry.deliveries(msg) < retry.TRIES:
                return retry.delay_s(retry.deliveries(msg))
            detail = traceback.format_exc()
            try:
                outcome = await self._park(msg, headers, f"its handler failed: {error}", detail)
            except Exception as trouble:
                log.warning("cannot park %s yet: %s", msg.subject, trouble)
                return retry.delay_s(retry.deliveries(msg))
        try:
            await self._answer(headers, outcome)
        except Exception as error:
            log.warning("outcome of %s not sent yet: %s", outcome.command_id, error)
            return retry.delay_s(retry.deliveries(msg))
        return None

    async def _outcome(self, msg: Msg, headers: dict[str, str]) -> Outcome:
        name = msg.subject.removeprefix("cmd.")
        id_ = headers.get("ce-id") or headers.get("Nats-Msg-Id") or ""
        if not _ID.fullmatch(id_):
            what = "needs an id of 1 to 64 letters, digits, `_` or `-`, so that sending it twice is harmless"
            # It has no id to be answered under again: the place in the stream stands in.
            id_ = f"cmd-at-{ack_tokens(msg.reply)[0]}"
            return await self._keep(_invalid(id_, name, Problem(where="header ce-id", what=what)))
        known = await outcomes.recall(self._bus, id_)
        if known is not None and known.command != name:
            # Not kept: what the id stands for is the outcome of the other command.
            what = f"was used for a {known.command} already; each command needs an id of its own"
            return _invalid(id_, name, Problem(where="header ce-id", what=what))
        again = await self._parking.retrying(headers.get(PARKED_ID, ""), "commands", id_)
        if known is not None and not (again and known.outcome == "parked"):
            outcome = known
        else:
            outcome = await self._handle(msg, headers, name, id_)
        if again and outcome.outcome != "parked":
            await self._parking.resolve(again, Meta(causation=id_, source="labledger/commands"))
        return outcome

    async def _handle(self, msg: Msg, headers: dict[str, str], name: str, id_: str) -> Outcome:
        reply_to = headers.get(REPLY_TO)
        if reply_to is not None and not _INBOX.fullmatch(reply_to):
            # Answering anywhere else would let a sender write, through us, where he may not.
            what = "must be an inbox (`_INBOX...`)"
            return await self._keep(_invalid(id_, name, Problem(where=f"header {REPLY_TO}", what=what)))
        cls = COMMANDS.get(name)
        if cls is None:
            return await self._park(msg, headers, f"no command {name!r} is known to this version of labledger", "")
        try:
            command = cls.model_validate_json(msg.data)
        except ValidationError as error:
            return await self._keep(_invalid(id_, name, *problems(error)))
        except RecursionError:
            return await self._keep(_invalid(id_, name, Problem(where="(body)", what="is nested too deeply")))
        meta = Meta(
            causation=id_,
            correlation=unquote(headers.get("ce-correlationid", ""))[:64] or id_,
            actor=unquote(headers.get("ce-actor", ""))[:200],
            source="labledger/commands",
            traceparent=trace if _TRACE.fullmatch(trace := headers.get("traceparent", "")) else "",
        )
        try:
            decided = await self.decide(command, meta)
            outcome = Outcome.accepted(id_, name, decided)
        except Refused as refusal:
            outcome = Outcome(outcome="refused", command_id=id_, command=name, reason=str(refusal))
        return await self._keep(outcome)

    async def decide(self, command: Command, meta: Meta) -> Decided:
        """Decide a command: by its own handler if it has one, else on its aggregate."""
        handler = HANDLERS.get(command.NAME)
        if handler is not None:
            return await handler(command, self._ledger, meta)
        if command.KIND not in aggregates():
            raise Refused(f"there is no {command.KIND!r} to order anything of")
        return await self._ledger.handle(command.KIND, command.aggregate_id, command, meta)

    async def _keep(self, outcome: Outcome) -> Outcome:
        await outcomes.keep(self._bus, outcome)
        return outcome

    async def _park(self, msg: Msg, headers: dict[str, str], reason: str, detail: str) -> Outcome:
        id_ = headers.get("ce-id") or headers.get("Nats-Msg-Id") or ""
        meta = Meta(causation=id_, actor=unquote(headers.get("ce-actor", ""))[:200], source="labledger/commands")
        # Each try again is a new reason to park: the id stays, the step differs.
        meta = meta.step(f"parked-{retry.stored_at(msg).timestamp():.6f}")
        parked_id, _ = await self._parking.park(
            "command", "commands", msg.subject, id_, headers, msg.data, reason, detail, meta
        )
        name = msg.subject.removeprefix("cmd.")
        outcome = Outcome(outcome="parked", command_id=id_, command=name, reason=reason, parked_id=parked_id)
        return await self._keep(outcome)

    async def _answer(self, headers: dict[str, str], outcome: Outcome) -> None:
        reply_to = headers.get(REPLY_TO)
        if reply_to is not None and _INBOX.fullmatch(reply_to):
            await self._bus.send(reply_to, outcome.model_dump_json().encode(), {"ce-causationid": outcome.command_id})


def _invalid(id_: str, name: str, *found: Problem) -> Outcome:
    reason = "; ".join(f"{one.where}: {one.what}" for one in found)
    return Outcome(outcome="invalid", command_id=id_, command=name, reason=reason, problems=found)


class Sender:
    """Sends commands and waits for their outcomes. What `labledger.client` and the command line use.

    Sending the same command again under the same id is safe, and the way to go on after a lost answer.
    """

    def __init__(self, bus: Bus, actor: str = "") -> None:
        self._bus = bus
        self._actor = actor
        self._inbox = ""
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    async def _start(self) -> None:
        self._inbox = self._bus.nc.new_inbox()

        async def on_outcome(msg: Msg) -> None:
            outcome = Outcome.model_validate_json(msg.data)
            future = self._waiting.get(outcome.command_id)
            if future is not None and not future.done():
                future.set_result(outcome)

        await self._bus.subscribe(self._inbox, on_outcome)

    async def send(
        self, name: str, body: bytes, command_id: str, *, correlation: str = "", timeout_s: float = 10.0
    ) -> Outcome:
        """Publish a command and wait for its outcome.

        Raises `TimeoutError` when no outcome came in time (the command is safe in the stream and will be handled),
        `Unavailable` when it is not known to be stored, `Rejected` when the server refused it (too large).
        """
        if not self._inbox:
            await self._start()
        headers = {
            "ce-specversion": "1.0",
            "ce-id": command_id,
            "ce-type": f"{name}.v1",
            "ce-source": "labledger/client",
            "Nats-Msg-Id": command_id,
            "content-type": "application/json",
            REPLY_TO: self._inbox,
        }
        if self._actor:
            headers["ce-actor"] = quoted(self._actor)
        if correlation:
            headers["ce-correlationid"] = quoted(correlation)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[command_id] = future
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        ack = await self._bus.publish(f"cmd.{name}", body, headers, timeout_s=2.0)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.1)
                if ack.err_code:
                    raise Rejected(f"the command was not taken: {ack.error}")
                # The outcome may have gone to an inbox that nobody reads any more, or come while we were cut off.
                look_s = 0.1 if ack.duplicate else 1.0
                while not future.done():
                    await asyncio.wait([future], timeout=look_s)
                    if not future.done():
                        with suppress(Unavailable):
                            known = await outcomes.recall(self._bus, command_id)
                            if known is not None and known.outcome != "parked":
                                return known
                            if known is not None and ack.duplicate:
                                return known
                return future.result()
        finally:
            self._waiting.pop(command_id, None)
