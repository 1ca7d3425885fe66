"""The streams, with their whole configuration. Only the provisioner creates or changes them.

EVT is the truth and cannot be thinned out: no limits, `discard: new`, `deny_delete`, `deny_purge`. `provision` refuses to
touch a stream whose protection differs from ours; it never loosens anything.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bus.connection import Bus
from bus.errors import BusError, Unavailable

HOUR_NS = 3600 * 1_000_000_000
VERSION = "1"

EVT, CMD, TIM, SNAP, PARK, OUT, BEAT = "EVT", "CMD", "TIM", "SNAP", "PARK", "OUT", "BEAT"
#: Key-value buckets: what others read, and what a worker notes for itself. Any client of NATS' key-value store can read the first.
POINTERS, NEWEST = "pointers", "newest"

#: The bucket of NATS' object store that may hold the blobs (the setting `blobs.store`).
BLOBS = "blobs"

#: A command larger than this is refused by the server with words (err_code 10054).
MAX_COMMAND_BYTES = 512 * 1024

_FILE: dict[str, Any] = {"storage": "file", "retention": "limits", "allow_direct": True, "discard": "old"}


def _bucket(name: str, description: str, history: int) -> dict[str, Any]:
    """As NATS makes the stream of a key-value bucket."""
    return _FILE | {
        "subjects": [f"$KV.{name}.>"],
        "description": description,
        "discard": "new",
        "max_msgs_per_subject": history,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


STREAMS: dict[str, dict[str, Any]] = {
    EVT: _FILE
    | {
        "subjects": ["evt.>"],
        "description": "the truth: one literal subject for each aggregate",
        "discard": "new",
        "deny_delete": True,
        "deny_purge": True,
        "allow_atomic": True,
        "allow_batched": True,
        "duplicate_window": HOUR_NS,
        "compression": "s2",
        # What was stored, for live listeners: dashboards hear it without a consumer, and only once it is durable.
        "republish": {"src": "evt.>", "dest": "live.evt.>"},
    },
    CMD: _FILE
    | {
        "subjects": ["cmd.*.*", "cmd.work.*.*"],
        "description": "commands, delivered until answered or parked",
        "retention": "workqueue",
        "discard": "new",
        "duplicate_window": HOUR_NS,
        "max_msg_size": MAX_COMMAND_BYTES,
    },
    TIM: _FILE | {"subjects": ["sched.>", "timer.>"], "description": "durable timers", "allow_msg_schedules": True},
    SNAP: _FILE
    | {"subjects": ["snap.>"], "description": "snapshots, droppable at any time", "max_msgs_per_subject": 2},
    PARK: _FILE | {"subjects": ["park.>"], "description": "what could not be handled, with the reason"},
    OUT: _FILE
    | {
        "subjects": ["out.>"],
        "description": "the outcome of each command by its id",
        "max_msgs_per_subject": 1,
        "duplicate_window": 2 * 60 * 1_000_000_000,
    },
    # On file: a stream in memory is gone as a whole, and not just empty, after a restart of its only server, and no
    # station would ever be trusted again.
    BEAT: _FILE | {"subjects": ["beat.>"], "description": "heartbeats of stations", "max_msgs_per_subject": 1},
    f"KV_{POINTERS}": _bucket(POINTERS, "published pointers by their key", 5),
    f"KV_{NEWEST}": _bucket(NEWEST, "the newest of each key of outside stores that know no order", 1),
    # As NATS makes the stream of an object store.
    f"OBJ_{BLOBS}": _FILE
    | {
        "subjects": [f"$O.{BLOBS}.C.>", f"$O.{BLOBS}.M.>"],
        "description": "files by their SHA-256, where they are not kept elsewhere",
        "discard": "new",
        "allow_rollup_hdrs": True,
    },
}


@dataclass(frozen=True)
class StreamDiffers(BusError):
    """A stream is there, but not as it must be; nothing was changed."""

    stream: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return f"stream {self.stream} differs from what labledger needs: {'; '.join(self.differences)}"


def wanted(name: str, replicas: int = 1) -> dict[str, Any]:
    return {"name": name, "num_replicas": replicas, "metadata": {"labledger-config": VERSION}} | STREAMS[name]


def differences(name: str, found: Mapping[str, Any]) -> list[str]:
    """Where a stream's configuration (as the server tells it) is not what we need."""
    answer: list[str] = []
    for key, value in STREAMS[name].items():
        have = found.get(key)
        if key == "description" or have == value or (not value and not have):
            continue
        answer.append(f"{key} is {have!r}, must be {value!r}")
    for limit in ("max_msgs", "max_bytes", "max_age"):
        if found.get(limit, -1) not in (-1, 0):
            answer.append(f"{limit} is {found[limit]!r}, must be unlimited")
    return answer


async def check(bus: Bus, names: Iterable[str] = tuple(STREAMS)) -> dict[str, list[str]]:
    """For each stream what is wrong with it: nothing, "missing", or the differing settings."""
    answer: dict[str, list[str]] = {}
    for name in names:
        info = await bus.api(f"STREAM.INFO.{name}")
        answer[name] = ["missing"] if "error" in info else differences(name, info["config"])
    return answer


async def provision(bus: Bus, replicas: int = 1) -> None:
    """Create what is missing. Safe to repeat: a stream that is there and right is left alone.

    Raises `StreamDiffers` for a stream that is there and wrong: its mending is a person's decision.
    """
    for name in STREAMS:
        for attempt in range(40):
            answer = await bus.api(f"STREAM.CREATE.{name}", wanted(name, replicas), timeout_s=10)
            error = answer.get("error")
            if not error:
                break
            if error.get("err_code") == 10058:  # there already, with another configuration
                info = await bus.api(f"STREAM.INFO.{name}")
                wrong = differences(name, info["config"])
                if wrong:
                    raise StreamDiffers(name, tuple(wrong))
                break
            # A cluster that has just started has no meta leader yet, or too few peers.
            if error.get("code") == 503 or error.get("err_code") in (10005, 10008, 10074):
                await asyncio.sleep(0.25)
                if attempt < 39:
                    continue
            raise BusError(f"cannot create stream {name}: {error.get('description')}")


async def provisioned(bus: Bus, names: Iterable[str] = tuple(STREAMS)) -> bool:
    """True once these streams answer as they must."""
    try:
        return not any((await check(bus, names)).values())
    except Unavailable:
        return False


def evt(kind: str, id_: str) -> str:
    """The literal subject of an aggregate."""
    return f"evt.{kind}.{id_}"


def live(kind: str, id_: str) -> str:
    """Where an aggregate's events are heard once they are stored (`*` for any)."""
    return f"live.evt.{kind}.{id_}"
