"""Durable timers: a command to be sent at a time, kept by the server (JetStream message schedules, ADR-51).

A timer that fell due while everything was down fires at the start. Precision is about a second, never early. The command
carries an id made from the timer's and its time, so a timer that fires twice does nothing the second time, and one that
is set anew after it has fired does fire again.
"""

import uuid
from datetime import UTC, datetime

from bus.connection import Bus
from bus.envelope import quoted
from bus.errors import BusError
from bus.streams import TIM
from domain.events import Command

_SPACE = uuid.UUID("d2a3f2b6-4f5f-5a5e-9d0c-2f6a1f4c9b10")


async def set_timer(bus: Bus, timer_id: str, at: datetime, command: Command, actor: str = "") -> None:
    """Send `command` at the time `at`. Setting the same timer again moves it. Safe to repeat.

    The id may hold letters, digits, `-` and `_`.
    """
    due = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    headers = {
        "Nats-Schedule": f"@at {due}",
        "Nats-Schedule-Target": f"timer.{timer_id}",
        "Nats-Rollup": "sub",
        "ce-id": f"timer-{uuid.uuid5(_SPACE, f'{timer_id} {due}')}",
        "Labledger-Command": command.NAME,
        "ce-actor": quoted(actor or "timer"),
    }
    ack = await bus.publish(f"sched.{timer_id}", command.model_dump_json().encode(), headers)
    if ack.err_code:
        raise BusError(f"cannot set timer {timer_id}: {ack.error}")


async def cancel_timer(bus: Bus, timer_id: str) -> bool:
    """Take a timer back; False when there was none (it may have fired)."""
    answer = await bus.api(f"STREAM.MSG.GET.{TIM}", {"last_by_subj": f"sched.{timer_id}"})
    if "error" in answer:
        return False
    answer = await bus.api(f"STREAM.MSG.DELETE.{TIM}", {"seq": answer["message"]["seq"]})
    return bool(answer.get("success"))
