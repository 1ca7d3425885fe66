"""A service of somebody else: orders a scan, follows it, and verifies its history. Needs nats-py and nothing of labledger.

    pip install nats-py
    python foreign_service.py lab/connection.json

All that it knows is written in docs/contracts.md: where to connect, how to order, where outcomes and events are, and how
the hash chain is made. foreign_service.mjs does the same in JavaScript.
"""

import asyncio
import hashlib
import json
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

PLAN = {
    "nodes": [
        {
            "kind": "move",
            "instrument": "stage",
            "channel": "x",
            "positions": {"kind": "linear", "start": 0, "stop": 5, "num": 21},
            "children": [{"kind": "measure", "instrument": "meter", "channels": ["voltage"]}],
        }
    ]
}
OVER = ("scan.completed.v1", "scan.aborted.v1", "scan.failed.v1")

#: What the hash of an event covers, besides its subject and its body: these headers, in this order.
HASHED = (
    "ce-id",
    "ce-type",
    "ce-source",
    "ce-time",
    "ce-subject",
    "ce-causationid",
    "ce-correlationid",
    "ce-actor",
    "ce-aggregateversion",
    "ce-previoushash",
)


@dataclass
class Stored:
    """One event as it lies in the stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    body: bytes


async def connect(connection_json: Path, role: str = "publisher") -> tuple[Client, str]:
    """Sign in as a role of connection.json. The inbox prefix is part of it: answers elsewhere do not reach us."""
    told = json.loads(connection_json.read_text())
    user = told["nats"]["users"][role]
    # A few tries, then say so: the lab is not up.
    nc = await nats.connect(
        told["nats"]["url"],
        user=user["user"],
        password=user["password"],
        inbox_prefix=user["inbox_prefix"].encode(),
        max_reconnect_attempts=5,
    )
    return nc, user["inbox_prefix"]


async def order(nc: Client, name: str, command: dict, command_id: str, actor: str) -> dict:
    """Give a command and wait for its outcome. Doing it again under the same id is safe, and answers the same."""
    inbox = nc.new_inbox()
    outcomes = await nc.subscribe(inbox, max_msgs=1)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": command_id,
        "ce-type": f"{name}.v1",
        "ce-source": "example/foreign-service",
        "ce-actor": actor,
        "Nats-Msg-Id": command_id,
        "Labledger-Reply-To": inbox,
    }
    stored = await nc.request(f"cmd.{name}", json.dumps(command).encode(), headers=headers, timeout=5)
    answer = json.loads(stored.data)
    if "error" in answer:
        raise RuntimeError(f"the server did not take the command: {answer['error']['description']}")
    if answer.get("duplicate"):  # it was stored before: its outcome is kept under its id
        return await outcome_of(nc, command_id)
    return json.loads((await outcomes.next_msg(timeout=10)).data)


async def outcome_of(nc: Client, command_id: str) -> dict:
    """The outcome of a command that was given earlier."""
    for _ in range(50):
        found = await nc.request("$JS.API.DIRECT.GET.OUT", json.dumps({"last_by_subj": f"out.{command_id}"}).encode())
        if not (found.headers or {}).get("Status"):
            return json.loads(found.data)
        await asyncio.sleep(0.1)
    raise TimeoutError(f"no outcome of {command_id} yet")


async def history(nc: Client, subject: str, after: int = 0) -> AsyncIterator[Stored]:
    """The events of one aggregate after a sequence, by batched direct get: no consumer is needed."""
    while True:
        inbox = nc.new_inbox()
        answers = await nc.subscribe(inbox)
        request = {"seq": after + 1, "next_by_subj": subject, "batch": 500}
        await nc.publish("$JS.API.DIRECT.GET.EVT", json.dumps(request).encode(), reply=inbox)
        got = 0
        while True:
            msg: Msg = await answers.next_msg(timeout=5)
            headers = dict(msg.headers or {})
            status = headers.get("Status")
            if status is None:
                after, got = int(headers["Nats-Sequence"]), got + 1
                yield Stored(after, headers["Nats-Subject"], headers, msg.data)
            elif status in ("204", "404"):  # end of the batch, or nothing there
                break
            else:
                raise RuntimeError(f"{status} {headers.get('Description', '')}")
        await answers.unsubscribe()
        if got == 0 or headers.get("Nats-Num-Pending", "0") == "0":
            return


async def follow(nc: Client, subject: str) -> AsyncIterator[Stored]:
    """The events of one aggregate from the first on, then live. A live message is only a hint: history is what counts."""
    live = await nc.subscribe(f"live.{subject}")
    last = 0
    while True:
        async for event in history(nc, subject, last):
            last = event.sequence
            yield event
        try:
            await live.next_msg(timeout=2)
        except nats.errors.TimeoutError:
            continue  # look again: a live message may be lost


def digest(event: Stored) -> str:
    """The hash of an event: SHA-256 over lines of subject and attributes, an empty line, and the body."""
    lines = [event.subject, *(event.headers.get(name, "") for name in HASHED)]
    return hashlib.sha256("\n".join(lines).encode() + b"\n\n" + event.body).hexdigest()


def verify(events: list[Stored]) -> None:
    """The chain of one aggregate, from its first event on. Raises `ValueError` at the first event that was altered."""
    previous = ""
    for number, event in enumerate(events, 1):
        headers = event.headers
        if digest(event) != headers["ce-hash"]:
            raise ValueError(f"event {event.sequence} is not what was written")
        if int(headers["ce-aggregateversion"]) != number or headers.get("ce-previoushash", "") != previous:
            raise ValueError(f"event {event.sequence} does not follow the one before it")
        previous = headers["ce-hash"]


async def main(connection_json: Path, scan_id: str) -> int:
    nc, _ = await connect(connection_json)
    # A queue of ours; that it is there already is as good.
    made = await order(nc, "queue.create", {"queue_id": "example"}, f"queue-{uuid.uuid4()}", "example")
    print(f"queue example: {made['outcome']} {made['reason']}".rstrip())

    command_id = f"order-{scan_id}"
    request = {"scan_id": scan_id, "plan": PLAN, "queue_id": "example", "title": "ordered from outside"}
    outcome = await order(nc, "scan.request", request, command_id, "example")
    print(f"scan {scan_id}: {outcome['outcome']} {outcome['reason']}".rstrip())
    if outcome["outcome"] != "accepted":
        return 1
    again = await order(nc, "scan.request", request, command_id, "example")
    print(f"the same order again: the same outcome: {again == outcome}")

    async for event in follow(nc, f"evt.scan.{scan_id}"):
        print(f"{event.sequence:6d}  {event.headers['ce-type']}")
        if event.headers["ce-type"] in OVER:
            break

    scan = [event async for event in history(nc, f"evt.scan.{scan_id}")]
    readings = [event async for event in history(nc, f"evt.readings.{scan_id}")]
    frames = [json.loads(one.body) for one in readings if one.headers["ce-type"] == "readings.recorded.v1"]
    print(f"readings: {sum(len(frame['time']) for frame in frames)}")
    verify(scan)
    verify(readings)
    print(f"chain verified: {len(scan)} events of the scan, {len(readings)} of its readings")
    await nc.close()
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: foreign_service.py CONNECTION_JSON [SCAN_ID]")
    id_ = sys.argv[2] if len(sys.argv) == 3 else str(uuid.uuid4())
    sys.exit(asyncio.run(main(Path(sys.argv[1]), id_)))
