"""The generated part of `docs/`: what is in the code, for people and for other programs.

    python -m labledger.docs            write what has changed
    python -m labledger.docs --check    say what has aged, and fail

A schema in `docs/schemas` is a promise. One that no longer fits what is stored under its version is not overwritten: the
shape of an event changes with its version (`from_vN`), a command that means something else gets another name.
"""

import argparse
import importlib
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from bus.commands import REPLY_TO
from bus.envelope import HASHED
from bus.outcomes import Outcome
from bus.parking import ORIGIN, PARKED_ID, REASON
from bus.roles import Role
from bus.streams import MAX_COMMAND_BYTES
from bus.work import Work
from domain.aggregate import aggregates
from domain.events import COMMANDS, EVENTS, Command, Event
from handlers.leases import Beat
from labledger.audit import Seal
from labledger.settings import Settings, reference

#: Brings in every module of `domain`, and with it every event and command.
KINDS = sorted(aggregates())

FOLDER = Path(__file__).resolve().parent.parent / "docs"

#: The version of the contracts with outsiders as a whole; raised when something that they rely upon changes.
CONTRACTS_VERSION = "1.0.0"

#: What an event or a command without a docstring of its own means.
MEANINGS: Mapping[str, str] = {
    "equipment.answers_again": "The instrument answers again after it had stopped.",
    "equipment.maintained": "Somebody worked on the instrument.",
    "equipment.register": "Enter an instrument into the lab's books.",
    "equipment.set_status": "Take an instrument out of use, or back into it.",
    "equipment.stopped_answering": "The instrument did not answer, or a call to it did not come back.",
    "job.progressed": "How far the attempt is, as its worker says.",
    "job.started": "A worker has begun an attempt.",
    "job.succeeded": "The attempt reached its end; `result` is the worker's.",
    "parked.resolved": "It was handled after all, or given up for good: `how` says which.",
    "parked.retried": "A person asked for another try.",
    "queue.create": "Make a queue.",
    "queue.created": "There is a new, empty queue.",
    "queue.job_prioritised": "A waiting job has another priority.",
    "queue.job_removed": "A waiting job was taken out of the line.",
    "queue.remove": "Take a waiting job out of the line. It is cancelled.",
    "queue.resume": "Go on after a pause; jobs that were paused with the queue are resumed.",
    "queue.set_priority": "Give a waiting job another priority.",
    "queue.start": "Dispatch jobs from now on.",
    "queue.started": "It dispatches from now on. `by_itself`: because a job came, not by a person.",
    "sample.archive": "Put a sample away: it takes part in no new scan.",
    "sample.archived": "The sample was put away; its history stays.",
    "sample.register": "Enter a sample.",
    "sample.tag": "Add tags.",
    "sample.untag": "Take tags away.",
    "scan.abort": "End the scan between two points and leave its instruments in their safe states.",
    "scan.completed": "All points are measured and durable.",
    "scan.failed": "It ended with an error; what was measured before stays. `point` is the first one not measured.",
    "scan.pause": "Stop after the point under way, and keep everything where it is.",
    "scan.paused": "It stands between two points; `point` is the next.",
    "scan.restart": "Queue a scan that is over again, from point 0 and as a new attempt.",
    "scan.resume": "Go on after a pause, or after a crash for which the scan was held.",
    "scan.resumed": "The station goes on with the next point.",
    "scan.started": "A station has begun with the first point.",
    "station.stopped": "It stopped in good order and gave its leases back.",
}

_COMMANDS = "commands (on an order)"
_REACTION = "commands (as a reaction)"
_STATION = "the station that holds the scan"
_WORKER = "the worker that does the job"
_WATCH = "the watchdog in commands, or the station's next run"

#: Who writes an event: by its name, else by its kind.
WRITERS: Mapping[str, str] = {
    "artifact": "the worker that made it; commands for what is brought (on an order)",
    "batch": _COMMANDS,
    "delivery": _WORKER,
    "delivery.cancelled": _REACTION,
    "delivery.parked": "the worker; commands when its last attempt died with one",
    "delivery.requested": "commands (on an order or as a reaction)",
    "delivery.retried": _COMMANDS,
    "equipment": _COMMANDS,
    "equipment.answers_again": "the station",
    "equipment.identified": "the station",
    "equipment.registered": "commands (on an order), or the station for an instrument not in the books",
    "equipment.settings_recorded": "the station",
    "equipment.stopped_answering": "the station",
    "extraction": _WORKER,
    "extraction.cancelled": _REACTION,
    "extraction.failed": "the worker; commands when its last attempt died with one",
    "extraction.requested": _COMMANDS,
    "graph_image": _COMMANDS,
    "graph_image.extracted": _WORKER,
    "graph_image.rejected": _WORKER,
    "job": "commands (on an order or as a reaction)",
    "job.failed": "the worker: of a scan, its station",
    "job.progressed": "the worker",
    "job.released": "the worker that found another one dead, or stops",
    "job.started": "the worker: of a scan, its station",
    "job.succeeded": "the worker: of a scan, its station",
    "lease": "the station",
    "lease.expired": _WATCH,
    "parked": "commands, or the process that gave up",
    "product": _COMMANDS,
    "publication": _REACTION,
    "publication.cancelled": _COMMANDS,
    "publication.requested": _COMMANDS,
    "publication.retried": _COMMANDS,
    "queue": "commands (on an order or as a reaction)",
    "readings": _STATION,
    "run": _COMMANDS,
    "run.part_cancelled": _REACTION,
    "run.part_delivered": _REACTION,
    "run.part_parked": _REACTION,
    "run.part_retried": _REACTION,
    "sample": _COMMANDS,
    "scan": _STATION,
    "scan.abort_requested": _COMMANDS,
    "scan.aborted": f"{_STATION}; commands where no station holds it",
    "scan.held": "the station's next run, or commands (on an order)",
    "scan.interrupted": _WATCH,
    "scan.pause_requested": _COMMANDS,
    "scan.requested": _COMMANDS,
    "scan.restarted": _COMMANDS,
    "scan.resume_requested": _COMMANDS,
    "spice_model": _WORKER,
    "spice_model.fit_cancelled": _REACTION,
    "spice_model.fit_failed": "the worker; commands when its last attempt died with one",
    "spice_model.fit_requested": _COMMANDS,
    "station": "the station",
    "station.lost": _WATCH,
    "target": _WORKER,
    "target.tested": _COMMANDS,
}

#: Units by the end of a name. The longest that fits counts.
UNITS: Mapping[str, str] = {
    "_bytes": "bytes",
    "_c": "°C",
    "_px": "px",
    "_mb": "MB",
    "_ms": "ms",
    "_s": "s",
    "_seconds": "s",
    "_hz": "Hz",
    "_k": "K",
    "_mm": "mm",
    "_mw": "mW",
    "_nm": "nm",
    "_um": "µm",
    "_v": "V",
    "percent": "%",
}


# ------------------------------------------------------------------------------------------------- what is not in the domain


class NatsUser(BaseModel):
    """A login. Answers come to `<inbox_prefix>.>`: give it to the client as its inbox prefix."""

    model_config = ConfigDict(frozen=True)

    user: str
    password: str
    inbox_prefix: str = Field(pattern=r"^_INBOX_[A-Za-z0-9_-]+$")


class NatsAddress(BaseModel):
    """`users` by name; one for each role, and those that the lab added."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(pattern=r"^(nats|tls)://")
    users: dict[str, NatsUser]


class PostgresAddress(BaseModel):
    """`url` owns the database. `readonly_url` can do nothing but read the schema `labledger`."""

    model_config = ConfigDict(frozen=True)

    url: str
    readonly_url: str


class ConnectionFile(BaseModel):
    """`connection.json` in the lab's folder, mode 0600: written by `labledger up`, the same as long as the folder lives."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1]
    nats: NatsAddress | None = None
    postgres: PostgresAddress | None = None


class RetryOrder(BaseModel):
    """On `cmd.work.retry.<consumer>`: try the event at this sequence of PARK again."""

    model_config = ConfigDict(frozen=True)

    park_seq: int


#: The other stable shapes, by the name of their file.
OTHERS: Mapping[str, type[BaseModel]] = {
    "beat.v1": Beat,
    "connection.v1": ConnectionFile,
    "outcome.v1": Outcome,
    "seal.v1": Seal,
    "work.v1": Work,
}

TEXT: dict[str, Any] = {"type": "string"}

EVENT_HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "CloudEvents 1.0, binary mode. Values that are not plain printable ASCII are percent-encoded.",
    "required": ["ce-specversion", *HASHED, "ce-hash", "content-type", "Nats-Msg-Id"],
    "properties": {
        "ce-specversion": {"const": "1.0"},
        "ce-id": TEXT | {"format": "uuid", "description": "The event's id, UUID version 7."},
        "ce-type": TEXT | {"description": "`<name>.v<version>`, as in `scan.completed.v1`."},
        "ce-source": TEXT | {"description": "The process that wrote it, as in `labledger/station/bench`."},
        "ce-time": TEXT | {"format": "date-time", "description": "When it happened, by the writer's clock; UTC."},
        "ce-subject": TEXT | {"description": "`<kind>.<id>` of the aggregate."},
        "ce-causationid": TEXT | {"description": "Id of the command or event that caused this one."},
        "ce-correlationid": TEXT | {"description": "Id of the whole business flow."},
        "ce-actor": TEXT | {"description": "Who ordered it; empty where nobody did."},
        "ce-aggregateversion": TEXT | {"pattern": "^[1-9][0-9]*$", "description": "1, 2, 3, ... in the aggregate."},
        "ce-previoushash": TEXT
        | {"pattern": "^([0-9a-f]{64})?$", "description": "`ce-hash` of the aggregate's previous event; empty: none."},
        "ce-hash": TEXT
        | {"pattern": "^[0-9a-f]{64}$", "description": "SHA-256 over subject, attributes and body: contracts.md."},
        "content-type": {"const": "application/json"},
        "Nats-Msg-Id": TEXT | {"description": "`<command id>:<index>`, of readings `<scan>:<attempt>:<point>`."},
        "traceparent": TEXT | {"description": "W3C trace context, where the order brought one."},
    },
}

COMMAND_HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "What a sender sets.",
    "required": ["ce-id"],
    "properties": {
        "ce-id": TEXT
        | {
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "description": "The command's id, chosen by the sender. The same id again is answered the same.",
        },
        "Nats-Msg-Id": TEXT | {"description": "The same id again: the stream then drops a repeat within the hour."},
        REPLY_TO: TEXT
        | {
            "pattern": r"^_INBOX[A-Za-z0-9_-]{0,100}(\.[A-Za-z0-9_-]{1,64}){1,6}$",
            "description": "An inbox of the sender, below his inbox prefix: the outcome goes there.",
        },
        "ce-actor": TEXT | {"maxLength": 200, "description": "Who orders it. Written into the events."},
        "ce-correlationid": TEXT | {"maxLength": 64, "description": "Id of the flow; the command's own id if missing."},
        "traceparent": TEXT | {"pattern": "^[0-9a-f-]{1,100}$", "description": "W3C trace context."},
        "ce-specversion": {"const": "1.0"},
        "ce-type": TEXT | {"description": "`<name>.v1`, as in `scan.request.v1`. For readers; the subject decides."},
        "ce-source": TEXT | {"description": "The sender."},
        "content-type": {"const": "application/json"},
    },
}

OUTCOME_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["ce-causationid"],
    "properties": {"ce-causationid": TEXT | {"description": "The command's id."}},
}

PARK_HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "The message's own headers (but those of NATS), and why it is here.",
    "required": [REASON, ORIGIN, PARKED_ID],
    "properties": {
        REASON: TEXT | {"description": "Why it was given up."},
        ORIGIN: TEXT | {"description": "The subject that it came on."},
        PARKED_ID: TEXT | {"format": "uuid", "description": "Id of the aggregate `parked`."},
    },
}

TIMER_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["ce-id", "Labledger-Command"],
    "properties": {
        "ce-id": TEXT | {"description": "The id under which the command is sent; it follows from the timer's."},
        "Labledger-Command": TEXT | {"description": "The command that the body is."},
        "ce-actor": TEXT,
        "Nats-Schedule": TEXT | {"description": "When, as in `@at 2026-01-01T00:00:00Z` (ADR-51 of NATS)."},
        "Nats-Schedule-Target": TEXT | {"description": "Where the server puts it then."},
    },
}


# ------------------------------------------------------------------------------------------------------------------ schemas


def meaning(cls: type[Event] | type[Command]) -> str:
    """What an event or a command means, in words; empty when nobody has said it."""
    return " ".join(cleandoc(cls.__doc__).split()) if cls.__doc__ else MEANINGS.get(cls.NAME, "")


def upcasts(cls: type[Event]) -> list[dict[str, Any]]:
    """What became of earlier versions."""
    return [
        {"from": old, "to": old + 1, "note": " ".join(cleandoc(getattr(cls, f"from_v{old}").__doc__ or "").split())}
        for old in range(1, cls.VERSION)
    ]


def _open(schema: Any) -> Any:
    """The schema for readers of what we write: a later software may add fields, which they pass over."""
    if isinstance(schema, dict):
        given = cast("dict[str, Any]", schema)
        return {
            key: _open(value) for key, value in given.items() if not (key == "additionalProperties" and value is False)
        }
    return [_open(item) for item in cast("list[Any]", schema)] if isinstance(schema, list) else schema


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles that pydantic makes from names: they say nothing new."""

    def go(node: Any, names: bool) -> Any:
        if isinstance(node, dict):
            return {
                key: go(value, key in ("properties", "$defs") and not names)
                for key, value in cast("dict[str, Any]", node).items()
                if names or key != "title"
            }
        return [go(item, False) for item in cast("list[Any]", node)] if isinstance(node, list) else node

    return go(schema, False)


def event_schema(cls: type[Event]) -> dict[str, Any]:
    """JSON Schema of an event's body as stored."""
    body = _open(_tidy(cls.model_json_schema()))
    return _headed(body, f"event:{cls.NAME}:v{cls.VERSION}", cls.TYPE, meaning(cls))


def command_schema(cls: type[Command]) -> dict[str, Any]:
    """JSON Schema of a command's body. A field that it does not know makes the command invalid."""
    return _headed(_tidy(cls.model_json_schema()), f"command:{cls.NAME}", cls.NAME, meaning(cls))


def other_schema(name: str) -> dict[str, Any]:
    model = OTHERS[name]
    body = _open(_tidy(model.model_json_schema()))
    return _headed(body, name.replace(".v", ":v"), name, " ".join(cleandoc(model.__doc__ or "").split()))


def _headed(body: dict[str, Any], id_: str, title: str, description: str) -> dict[str, Any]:
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:labledger:{id_}",
        "title": title,
        "description": description,
    }
    return head | {key: value for key, value in body.items() if key not in head}


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by the name of its file. Commands have no versions: theirs is always 1."""
    found = {cls.TYPE: event_schema(cls) for cls in EVENTS.values()}
    found |= {f"{name}.v1": command_schema(cls) for name, cls in COMMANDS.items()}
    found |= {name: other_schema(name) for name in OTHERS}
    return dict(sorted(found.items()))


_WORDS_ONLY = frozenset({"title", "description", "examples", "$id", "$schema"})
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def broken(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where `new` no longer takes, or no longer means, what was written under `old`; in words.

    Allowed are words, a field that need not be given, one more choice, and wider limits.
    """
    found: list[str] = []
    seen: set[tuple[str, str]] = set()

    def resolve(node: Any, root: Mapping[str, Any]) -> Any:
        while isinstance(node, dict) and "$ref" in node:
            name = str(cast("dict[str, Any]", node)["$ref"]).removeprefix("#/$defs/")
            node = root["$defs"][name]
        return cast("Any", node)

    def reference_of(node: Any) -> str:
        return str(cast("dict[str, Any]", node).get("$ref", "")) if isinstance(node, dict) else ""

    def go(a: Any, b: Any, path: str) -> None:
        refs = (reference_of(a), reference_of(b))
        if all(refs):  # a plan holds plans
            if refs in seen:
                return
            seen.add(refs)
        a, b = resolve(a, old), resolve(b, new)
        where = path or "the body"
        if not isinstance(a, dict) or not isinstance(b, dict):
            if a != b:
                found.append(f"{where}: was {json.dumps(a)}, is {json.dumps(b)}")
            return
        before, after = cast("dict[str, Any]", a), cast("dict[str, Any]", b)
        for key in sorted({*before, *after} - _WORDS_ONLY - {"$defs", "discriminator"}):
            compare(key, before.get(key), after.get(key), before, after, path, where)

    def compare(
        key: str, was: Any, now: Any, before: dict[str, Any], after: dict[str, Any], path: str, where: str
    ) -> None:
        if key == "properties":
            fields = cast("dict[str, Any]", now or {})
            for name in cast("dict[str, Any]", was or {}):
                if name not in fields:
                    found.append(f"{path}{name}: is gone")
                else:
                    go(was[name], now[name], f"{path}{name}.")
        elif key == "required":
            for name in sorted(set(cast("list[str]", now or [])) - set(cast("list[str]", was or []))):
                found.append(f"{path}{name}: must now be given, which it need not be before")
        elif key == "enum" or (key == "const" and "enum" in after):
            have = after.get("enum", [])
            for value in cast("list[Any]", was) if isinstance(was, list) else [was]:
                if value is not None and value not in have:
                    found.append(f"{where}: {json.dumps(value)} is no choice any more")
            if was is None and "const" not in before:
                found.append(f"{where}: has choices now: {json.dumps(now)}")
        elif key in ("anyOf", "oneOf", "prefixItems", "allOf") and isinstance(was, list) and isinstance(now, list):
            olds, news = cast("list[Any]", was), cast("list[Any]", now)
            if len(news) < len(olds):
                found.append(f"{where}: takes fewer kinds of values than before")
            for index, (one, other) in enumerate(zip(olds, news, strict=False)):
                go(one, other, f"{path}{index}.")
        elif key in ("items", "additionalProperties") and isinstance(was, dict) and isinstance(now, dict):
            go(cast("Any", was), cast("Any", now), f"{path}[].")
        elif key in _LOWER and isinstance(was, int | float) and (now is None or now <= was):
            return
        elif key in _UPPER and isinstance(was, int | float) and (now is None or now >= was):
            return
        elif was != now:
            found.append(f"{where}: {key} was {json.dumps(was)}, is {json.dumps(now)}")

    go(old, new, "")
    return [line.replace(".:", ":") for line in found]


# ----------------------------------------------------------------------------------------------------------------- AsyncAPI


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: everything that goes over the wire, as labledger sends and receives it."""
    models: list[type[BaseModel]] = [*EVENTS.values(), *COMMANDS.values(), Outcome, Beat, Work, RetryOrder]
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    defined = {name: _draft7(schema) for name, schema in _tidy(definitions)["$defs"].items()}
    written = {
        references[model, "validation"]["$ref"].rpartition("/")[2] for model in [*EVENTS.values(), Outcome, Beat]
    }
    defined = {name: _open(schema) if name in written else schema for name, schema in defined.items()}

    def payload(model: type[BaseModel]) -> dict[str, Any]:
        return dict(references[model, "validation"])

    headers = {
        "EventHeaders": EVENT_HEADERS,
        "CommandHeaders": COMMAND_HEADERS,
        "OutcomeHeaders": OUTCOME_HEADERS,
        "ParkHeaders": PARK_HEADERS,
        "TimerHeaders": TIMER_HEADERS,
    }
    messages: dict[str, Any] = {}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}

    def message(name: str, summary: str, kind: str, body: dict[str, Any], **more: Any) -> None:
        messages[name] = {
            "name": name,
            "title": name,
            "summary": summary,
            "contentType": "application/json",
            **({"headers": {"$ref": f"#/components/schemas/{kind}"}} if kind else {}),
            "payload": body,
            **more,
        }

    def channel(name: str, address: str | None, description: str, of: Sequence[str], **parameters: str) -> None:
        channels[name] = {
            "address": address,
            "description": description,
            "messages": {one: {"$ref": f"#/components/messages/{one}"} for one in of},
            "servers": [{"$ref": "#/servers/lab"}],
            **({"parameters": {key: {"description": text} for key, text in parameters.items()}} if parameters else {}),
        }

    def operation(name: str, action: Literal["send", "receive"], on: str, summary: str, **more: Any) -> None:
        operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{on}"},
            "summary": summary,
            **more,
        }

    flow = {"correlationId": {"$ref": "#/components/correlationIds/flow"}}
    for kind in KINDS:
        of: list[str] = []
        for name, cls in sorted(EVENTS.items()):
            if name.split(".")[0] == kind:
                of.append(name)
                extra: dict[str, Any] = {"x-type": cls.TYPE, "x-written-by": writer(name)}
                if cls.VERSION > 1:
                    extra["x-upcasts"] = upcasts(cls)
                message(name, meaning(cls), "EventHeaders", payload(cls), **flow, **extra)
        channel(
            f"evt.{kind}",
            f"evt.{kind}.{{id}}",
            f"The history of each {kind}, in the stream EVT. Read by direct get.",
            of,
            id=f"Which {kind}: an id of 1 to 64 letters, digits, `_` and `-`.",
        )
        channel(
            f"live.{kind}",
            f"live.evt.{kind}.{{id}}",
            f"The same events of each {kind}, published once they are durable. May be missed: read the history then.",
            of,
            id=f"Which {kind}; `*` for all.",
        )
        operation(f"store.{kind}", "send", f"evt.{kind}", f"Append to the history of a {kind}.")
        operation(f"announce.{kind}", "send", f"live.{kind}", f"Republish what was stored about a {kind}.")

    message("outcome", "The answer to a command.", "OutcomeHeaders", payload(Outcome))
    channel("outcome", None, "The inbox that the command names in `Labledger-Reply-To`.", ["outcome"])
    channel(
        "out",
        "out.{command_id}",
        "The outcome of every command by its id, in the stream OUT, for ever. Read by direct get.",
        ["outcome"],
        command_id="The command's id.",
    )
    operation("keep.outcome", "send", "out", "Keep the outcome, so that the same id is answered the same however late.")
    for name, cls in sorted(COMMANDS.items()):
        message(name, meaning(cls), "CommandHeaders", payload(cls), **flow)
        channel(f"cmd.{name}", f"cmd.{name}", meaning(cls), [name])
        operation(
            name,
            "receive",
            f"cmd.{name}",
            meaning(cls),
            reply={
                "address": {"location": f"$message.header#/{REPLY_TO}"},
                "channel": {"$ref": "#/channels/outcome"},
                "messages": [{"$ref": "#/channels/outcome/messages/outcome"}],
            },
        )

    message("beat", "A station's sign of life, once a second.", "", payload(Beat))
    channel(
        "beat",
        "beat.{station_id}",
        "Signs of life, in memory only: they are no events.",
        ["beat"],
        station_id="The station.",
    )
    operation("send.beat", "send", "beat", "Each station says that it lives.")
    message("work", "A dispatched job for its worker.", "", payload(Work))
    channel(
        "work",
        "cmd.work.{job_kind}.{target}",
        "Dispatched jobs. Within labledger: outsiders give commands.",
        ["work"],
        job_kind="`scan`, later others.",
        target="A station, `any`, or `assign` while no station holds the instruments.",
    )
    operation("send.work", "send", "work", "Hand a job to its worker.")
    operation("receive.work", "receive", "work", "Take a job on.")
    message("retry", "Try a parked event again.", "", payload(RetryOrder))
    channel(
        "retry",
        "cmd.work.retry.{consumer}",
        "Parked events to be tried again. Within labledger: outsiders give `parked.retry`.",
        ["retry"],
        consumer="The consumer that had given up.",
    )
    operation("receive.retry", "receive", "retry", "Try a parked event again.")
    message("parked", "A message that was given up, as it came.", "ParkHeaders", {"type": "object"})
    channel(
        "park",
        "park.{consumer}.{kind}.{rest}",
        "What could not be handled, with the reason, in the stream PARK.",
        ["parked"],
        consumer="Who could not handle it: `commands`, or the name of a consumer.",
        kind="Of the event or command.",
        rest="The aggregate's id, or the command's verb.",
    )
    operation("park", "send", "park", "Keep a message that nobody could handle.")
    message("timer", "A command for later.", "TimerHeaders", {"type": "object"})
    channel("sched", "sched.{timer_id}", "Timers that are set, in the stream TIM.", ["timer"], timer_id="The timer.")
    channel(
        "timer", "timer.{timer_id}", "Timers that have fired: sent by the server.", ["timer"], timer_id="The timer."
    )
    operation("set.timer", "send", "sched", "Set a timer, or move it.")
    operation("fire.timer", "receive", "timer", "Give the command that the timer carries.")

    return {
        "asyncapi": "3.0.0",
        "id": "urn:labledger",
        "info": {
            "title": "labledger",
            "version": CONTRACTS_VERSION,
            "description": (
                "What labledger sends and receives over NATS. `send` and `receive` are said of labledger: an outsider "
                "publishes what it receives. How to read history, and how to verify it: contracts.md. Bodies larger than "
                f"{MAX_COMMAND_BYTES} bytes are refused as commands."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "lab": {
                "host": "127.0.0.1:{port}",
                "protocol": "nats",
                "description": "The lab's server. Address and credentials are in connection.json of the lab's folder.",
                "variables": {"port": {"description": "As connection.json says.", "default": "4222"}},
                "security": [{"$ref": "#/components/securitySchemes/user"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": headers | defined,
            "messages": messages,
            "securitySchemes": {
                "user": {
                    "type": "userPassword",
                    "description": f"One user for each role: {', '.join(Role)}. Outsiders: publisher, dashboard, auditor.",
                }
            },
            "correlationIds": {"flow": {"location": "$message.header#/ce-correlationid"}},
        },
    }


def _draft7(schema: Any) -> Any:
    """AsyncAPI's schemas are draft 07: a fixed list is `items`, what follows it `additionalItems`."""
    if isinstance(schema, list):
        return [_draft7(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = {key: _draft7(value) for key, value in cast("dict[str, Any]", schema).items()}
    discriminator = found.get("discriminator")
    if isinstance(discriminator, dict):  # in AsyncAPI only a name; the `const` in each choice says the same
        del found["discriminator"]
    if isinstance(found.get("prefixItems"), list):
        rest: Any = found.pop("items", None)
        found["items"] = found.pop("prefixItems")
        if rest is not None:
            found["additionalItems"] = rest
    return found


# --------------------------------------------------------------------------------------------------------- pages for people


NOTE = "<!-- Written by `make docs`. Edit the code, not this page. -->"


def unit(name: str) -> str:
    """The unit that a name ends with, or nothing."""
    return next((text for end, text in sorted(UNITS.items(), key=lambda it: -len(it[0])) if name.endswith(end)), "")


def writer(name: str) -> str:
    """Who writes this event."""
    return WRITERS.get(name) or WRITERS.get(name.split(".")[0], "")


def _shape(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """The type of a field in a word or two."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        target = root.get("$defs", {}).get(name, {})
        if "enum" in target or target.get("type") in ("string", "integer", "number"):
            return _shape(target, root)
        return name.rpartition("__")[2] if target else "anything"
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " / ".join(str(value) for value in schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        words = list(dict.fromkeys(_shape(option, root) for option in options))
        return " or ".join(["none" if word == "null" else word for word in words])
    kind = schema.get("type")
    if kind == "string":
        if "A-Za-z0-9_-" in schema.get("pattern", "") and "{1,64}" in schema["pattern"]:
            return "id"
        return {"uuid": "UUID", "date-time": "time"}.get(schema.get("format", ""), "text")
    if kind == "array":
        if "prefixItems" in schema:
            return f"({', '.join(_shape(item, root) for item in schema['prefixItems'])})"
        return f"list of {_shape(schema.get('items') or {}, root)}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return (
            f"{_shape(cast('Mapping[str, Any]', inner), root)} by name"
            if isinstance(inner, dict) and inner
            else "object"
        )
    return {"number": "number", "integer": "integer", "boolean": "true / false", "null": "null"}.get(
        str(kind), "anything"
    )


def _fields(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    cells: list[str] = []
    for name, field in schema.get("properties", {}).items():
        words = [_shape(field, schema)]
        if measure := unit(name):
            words.append(measure)
        if name not in required and "const" not in field:
            default: Any = field.get("default")
            given = "none" if default is None else json.dumps(default, ensure_ascii=False)
            words.append(f"else {given}" if "default" in field else "optional")
        cells.append(f"`{name}` ({', '.join(words)})")
    return "<br>".join(cells)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]


def _parts(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the fields are made of that are more than a word."""
    parts: dict[str, tuple[str, str, str]] = {}
    for schema in found:
        for name, part in schema.get("$defs", {}).items():
            if "properties" in part:
                told = " ".join(str(part.get("description", "")).split())
                parts[name] = (f"`{name.rpartition('__')[2]}`", told, _fields({**part, "$defs": schema["$defs"]}))
    return ["## Parts", "", *_table(("part", "is", "fields"), [parts[name] for name in sorted(parts)]), ""]


def _introduction(kind: str) -> str:
    module = importlib.import_module(f"domain.{kind}")
    return cleandoc(module.__doc__ or "").split("\n")[0]


def events_page() -> str:
    """All events, for people."""
    lines = [
        "# Events",
        "",
        NOTE,
        "",
        f"{len(EVENTS)} events of {len(KINDS)} kinds. An event is on the subject `evt.<kind>.<id>`; its envelope is in "
        "[contracts.md](contracts.md), its JSON Schema in `schemas/<name>.v<version>.json`. When it happened is in its header "
        "`ce-time`. Units end names.",
        "",
    ]
    for kind in KINDS:
        lines += [f"## {kind}", "", _introduction(kind), ""]
        rows = [
            (
                f"[`{name}`](schemas/{cls.TYPE}.json){f' v{cls.VERSION}' if cls.VERSION > 1 else ''}",
                " ".join([meaning(cls), *(f"v{it['from']}: {it['note']}" for it in upcasts(cls))]),
                _fields(event_schema(cls)),
                writer(name),
            )
            for name, cls in sorted(EVENTS.items())
            if name.split(".")[0] == kind
        ]
        lines += [*_table(("event", "means", "fields", "written by"), rows), ""]
    lines += _parts(event_schema(cls) for cls in EVENTS.values())
    return "\n".join(lines)


def commands_page() -> str:
    """All commands, for people."""
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        f"{len(COMMANDS)} commands. Published to `cmd.<name>` with an id of the sender's choice; the answer is an outcome. How, and "
        "what may come back, is in [contracts.md](contracts.md); each has a JSON Schema in `schemas/<name>.v1.json`.",
        "",
    ]
    for kind in sorted({cls.KIND for cls in COMMANDS.values()}):
        rows = [
            (f"[`{name}`](schemas/{name}.v1.json)", meaning(cls), _fields(command_schema(cls)))
            for name, cls in sorted(COMMANDS.items())
            if cls.KIND == kind
        ]
        lines += [f"## {kind}", "", *_table(("command", "orders", "fields"), rows), ""]
    lines += _parts(command_schema(cls) for cls in COMMANDS.values())
    return "\n".join(lines)


def settings_page() -> str:
    """All settings with their defaults."""
    rows = [
        (f"`{it.name}`", f"`{it.variable}`", f"`{it.value}`" if it.value else "", it.description)
        for it in reference(Settings())
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            NOTE,
            "",
            "The environment counts first, then `labledger.toml` in the working folder (or the file that `LABLEDGER_CONFIG` names), "
            "then the default. `nats.url` in the file is `url` in the section `[nats]`. A variable with `_FILE` at its end names a "
            "file that holds the value. An unknown name is an error. `labledger config` prints what is in force and where it "
            "comes from.",
            "",
            *_table(("setting", "variable", "default", "what it does"), rows),
            "",
        ]
    )


def cli_page() -> str | None:
    """The command line, walked; None while there is none."""
    if importlib.util.find_spec("labledger.cli") is None:
        return None
    import typer.main

    root: Any = typer.main.get_command(importlib.import_module("labledger.cli").app())
    leaves = list(_leaves(root))
    counted = Counter(_option_row(p) for leaf in leaves for p in _options(leaf))
    common = [row for row, count in counted.items() if count > len(leaves) / 2]
    head = ("option", "default", "what it does")
    lines = [
        "# Command line",
        "",
        NOTE,
        "",
        root.help or "",
        "",
        "Most commands also take:",
        "",
        *_table(head, common),
        "",
    ]

    def go(command: Any, path: str) -> None:
        subcommands: dict[str, Any] = getattr(command, "commands", {})
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        if path != "labledger":
            usage = " ".join([path, *(_usage(p) for p in arguments), *(["COMMAND ..."] if subcommands else [])])
            said = re.sub(r"\s*\f.*", "", cleandoc(command.help or ""), flags=re.DOTALL)
            said = re.sub(r"^Example: +(.*)$", r"Example: `\1`", said, flags=re.MULTILINE)
            lines.extend([f"## {path}", "", f"    {usage}", "", *([said, ""] if said else [])])
            rows = [
                (f"`{str(p.metavar or p.name).upper()}`", "", " ".join((getattr(p, "help", "") or "").split()))
                for p in arguments
            ]
            rows += [row for row in map(_option_row, _options(command)) if row not in common]
            if rows:
                lines.extend([*_table(head, rows), ""])
        for name, inner in subcommands.items():
            if not inner.hidden:
                go(inner, f"{path} {name}")

    go(root, "labledger")
    return "\n".join(lines)


def _leaves(command: Any) -> Iterator[Any]:
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    if not subcommands:
        yield command
    for inner in subcommands.values():
        yield from _leaves(inner)


def _options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]


def _option_row(option: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{one}`" for one in [*option.opts, *option.secondary_opts])
    return names, _default(option), " ".join((option.help or "").split())


def _usage(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name).upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _default(parameter: Any) -> str:
    # click's "nothing given" is a sentinel of its own.
    value: Any = parameter.default
    shown = getattr(value, "value", value)
    return f"`{shown}`" if isinstance(shown, str | int | float) and shown not in ("", False) else ""


def views_page() -> str | None:
    """The views of schema `labledger`, as the read models describe them; None while they do not."""
    module: Any = importlib.import_module("projections")
    describe = getattr(module, "documentation", None)
    return None if describe is None else str(describe())


# --------------------------------------------------------------------------------------------------------------------- files


def documents() -> dict[str, str]:
    """Every generated file by its path below `docs/`."""
    found = {
        "asyncapi.json": _json(asyncapi()),
        "events.md": events_page(),
        "commands.md": commands_page(),
        "settings.md": settings_page(),
    }
    for name, page in (("cli.md", cli_page()), ("views.md", views_page())):
        if page is not None:
            found[name] = page
    found |= {f"schemas/{name}.json": _json(schema) for name, schema in schemas().items()}
    return {name: text if text.endswith("\n") else text + "\n" for name, text in found.items()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def broken_promises(folder: Path = FOLDER) -> list[str]:
    """Every schema in `folder` that the code no longer keeps, in words."""
    found: list[str] = []
    now = schemas()
    for path in sorted((folder / "schemas").glob("*.json")):
        new = now.get(path.stem)
        if new is None:
            name, _, version = path.stem.rpartition(".v")
            known = EVENTS.get(name)
            if known is None or int(version) > known.VERSION:
                found.append(f"{path.stem}: nothing of that name is known any more, but it may be stored or sent")
            continue
        lines = broken(json.loads(path.read_text(encoding="utf-8")), new)
        name, _, version = path.stem.rpartition(".v")
        advice = (
            f"raise its version to {int(version) + 1} and add from_v{version}"
            if name in EVENTS
            else "give it a new name"
        )
        found += [f"{path.stem}: {line} ({advice})" for line in lines]
    return found


def aged(folder: Path = FOLDER) -> list[str]:
    """The generated files in `folder` that are missing, or not what the code says now."""
    return [
        name
        for name, text in documents().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def write(folder: Path = FOLDER) -> list[str]:
    """Write what has aged; answers the names. Raises `ValueError` when a promise would be broken: then nothing is written."""
    if lines := broken_promises(folder):
        raise ValueError("\n".join(lines))
    changed = aged(folder)
    texts = documents()
    for name in changed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name], encoding="utf-8")
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is fresh (now). 1: something has aged, or a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m labledger.docs", description="Write the generated part of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something has aged")
    if parser.parse_args(arguments).check:
        if found := [*broken_promises(), *(f"docs/{name} has aged: run `make docs`" for name in aged())]:
            print("\n".join(found), file=sys.stderr)
        return 1 if found else 0
    try:
        changed = write()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"docs/{name}" for name in changed) or "docs: all fresh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
