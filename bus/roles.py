"""Who may do what on the NATS server: one user per role, and the server's configuration made from it.

The permissions of NATS bind what a client publishes and subscribes to, and no more. A client may still name any subject as
the *reply* of a message, or as the delivery subject of a consumer, and the server then publishes there on its behalf
(nats-server issue 8274; tests/integration/test_embedded.py shows it). So subjects alone do not protect `evt.>` from a
client that may do as little as send one command. What does is a border between accounts:

    LAB          the streams and our own processes: provisioner, commands, projections, station, extract, deliver
    PUBLISHERS   other services: send commands, read events
    DASHBOARDS   read events
    AUDITORS     read everything

Outside LAB there is no stream. What the outside may ask for is exported to it subject by subject, and a reply travels back
to the asker's own account, so it cannot end in a stream. The outside therefore creates no consumers: it reads by direct
get (in batches, from any sequence) and hears live what EVT republishes on `live.evt.>`, after it was stored.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

STREAMS = ("EVT", "CMD", "TIM", "SNAP", "PARK", "OUT", "BEAT", "KV_pointers", "KV_newest", "OBJ_blobs")

#: What EVT republishes for live listeners, as `live.evt.<kind>.<id>`, each with its sequence in a header.
LIVE_PREFIX = "live"


class Role(StrEnum):
    PROVISIONER = "provisioner"
    COMMANDS = "commands"
    PROJECTIONS = "projections"
    STATION = "station"
    EXTRACT = "extract"
    DELIVER = "deliver"
    PUBLISHER = "publisher"
    DASHBOARD = "dashboard"
    AUDITOR = "auditor"


@dataclass(frozen=True)
class User:
    """A login. Two dashboards are two users: neither can listen to what the other is answered."""

    name: str
    role: Role
    password: str

    @property
    def inbox_prefix(self) -> str:
        """Answers come to `<inbox_prefix>.>`, where only this user may listen. Give it to `nats.connect`."""
        return f"_INBOX_{self.name}"


@dataclass(frozen=True)
class Rights:
    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...] = ()


def _reads(*streams: str) -> tuple[str, ...]:
    """What one of our own processes publishes to read these streams: any kind of consumer, acks, direct gets."""
    subjects = ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.FC.>"]
    for stream in streams:
        subjects += [
            f"$JS.API.STREAM.INFO.{stream}",
            f"$JS.API.STREAM.MSG.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>",
            f"$JS.API.CONSUMER.*.{stream}",
            f"$JS.API.CONSUMER.*.{stream}.>",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.*",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
            f"$JS.ACK.{stream}.>",
            # The second form of acks (ADR-15) has the domain and a hash of the account before the stream.
            f"$JS.ACK.*.*.{stream}.>",
        ]
    return tuple(subjects)


def _asks(*streams: str) -> tuple[str, ...]:
    """What an outsider publishes to read these streams."""
    asked: list[str] = []
    for stream in streams:
        asked += [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>"]
    return tuple(asked)


#: What those publish who keep and read blobs in NATS.
_BLOBS = ("$O.blobs.>", "$JS.API.DIRECT.GET.OBJ_blobs")
#: Of our own processes: they ask the leader, and remove what a crash left.
_KEEPS_BLOBS = (*_BLOBS, *(f"$JS.API.STREAM.{verb}.OBJ_blobs" for verb in ("INFO", "MSG.GET", "PURGE")))

#: What an auditor asks beside: which streams and consumers there are, and any single message.
_WATCHES = (
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.NAMES.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.INFO.*.*",
)

RIGHTS: Mapping[Role, Rights] = {
    Role.PROVISIONER: Rights("LAB", (">",), (">",)),
    Role.COMMANDS: Rights(
        "LAB",
        (
            "evt.>",
            "cmd.>",
            "sched.>",
            "timer.>",
            "snap.>",
            "park.>",
            "out.>",
            "beat.>",
            *_reads(*STREAMS),
            "$JS.API.STREAM.MSG.DELETE.TIM",
        ),
        ("beat.>", f"{LIVE_PREFIX}.>"),
    ),
    Role.PROJECTIONS: Rights("LAB", ("park.>", *_reads("EVT", "SNAP", "BEAT")), ("beat.>", f"{LIVE_PREFIX}.>")),
    Role.STATION: Rights(
        "LAB",
        (
            *("evt.>", "cmd.>", "snap.>", "park.>", "out.>", "beat.>"),
            *_reads("EVT", "CMD", "SNAP", "OUT", "BEAT"),
            *_KEEPS_BLOBS,
        ),
        ("beat.>", f"{LIVE_PREFIX}.>"),
    ),
    # It does what queues dispatch, and says what came of it.
    Role.EXTRACT: Rights(
        "LAB", ("evt.>", "snap.>", *_reads("EVT", "CMD", "SNAP"), *_KEEPS_BLOBS), (f"{LIVE_PREFIX}.>",)
    ),
    # The same, and it brings things out of the lab.
    Role.DELIVER: Rights(
        "LAB",
        ("evt.>", "snap.>", "$KV.>", *_reads("EVT", "CMD", "SNAP", "KV_pointers", "KV_newest"), *_KEEPS_BLOBS),
        (f"{LIVE_PREFIX}.>",),
    ),
    # Not `cmd.work.>`: what a queue dispatched is not for others to say.
    # They may keep a file, and read one: what is read is compared with its name, so that none can pass for another.
    Role.PUBLISHER: Rights(
        "PUBLISHERS", ("cmd.*.*", *_asks("EVT", "OUT", "KV_pointers"), *_BLOBS), (f"{LIVE_PREFIX}.>",)
    ),
    Role.DASHBOARD: Rights("DASHBOARDS", _asks("EVT", "KV_pointers"), (f"{LIVE_PREFIX}.>", "beat.>")),
    Role.AUDITOR: Rights("AUDITORS", (*_asks(*STREAMS), *_WATCHES), (f"{LIVE_PREFIX}.>", "beat.>")),
}


def server_config(users: Sequence[User]) -> str:
    """The `accounts` part of a nats-server's configuration file. It holds passwords: write it with mode 0600.

    Raises `ValueError` for a user name that does not fit into a subject, or that comes twice.
    """
    names = [user.name for user in users]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"NATS users named twice: {', '.join(sorted(doubled))}")
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise ValueError(f"NATS user name {name!r}: use letters, digits, `_` and `-`, it becomes part of a subject")

    members: dict[str, list[User]] = {}
    for user in users:
        members.setdefault(RIGHTS[user.role].account, []).append(user)
    outside = {account: people for account, people in members.items() if account != "LAB"}

    exports: list[str] = []
    imports: dict[str, list[str]] = {account: [] for account in outside}
    for account, people in outside.items():
        rights = RIGHTS[people[0].role]
        for subject in rights.publish:
            # A batch of a direct get is many answers to one question.
            many = ", response: stream" if subject.startswith("$JS.API.DIRECT.GET.") else ""
            exports.append(f"{{ service: {_q(subject)}, accounts: [{account}]{many} }}")
            imports[account].append(f"{{ service: {{ account: LAB, subject: {_q(subject)} }} }}")
        # The outcome of a command is published in LAB to the inbox named by the sender.
        for subject in (*rights.subscribe, *(f"{user.inbox_prefix}.>" for user in people)):
            exports.append(f"{{ stream: {_q(subject)}, accounts: [{account}] }}")
            imports[account].append(f"{{ stream: {{ account: LAB, subject: {_q(subject)} }} }}")

    inboxes = tuple(f"{user.inbox_prefix}.>" for user in users)
    lines = ["accounts {", "  LAB {", "    jetstream: enabled", "    users: ["]
    lines += [f"      {_user(user, inboxes)}" for user in members.get("LAB", [])]
    lines += ["    ]", "    exports: [", *(f"      {export}" for export in _merged(exports)), "    ]", "  }"]
    for account, people in outside.items():
        lines += [f"  {account} {{", "    users: [", *(f"      {_user(user, ())}" for user in people), "    ]"]
        lines += ["    imports: [", *(f"      {line}" for line in imports[account]), "    ]", "  }"]
    return "\n".join([*lines, "}", ""])


def _merged(exports: Sequence[str]) -> list[str]:
    """One export per subject, open to all accounts that import it."""
    merged: dict[tuple[str, str], list[str]] = {}
    for export in exports:
        head, _, rest = export.partition(", accounts: [")
        account, _, tail = rest.partition("]")
        merged.setdefault((head, tail), []).append(account)
    return [f"{head}, accounts: [{', '.join(accounts)}]{tail}" for (head, tail), accounts in merged.items()]


def _user(user: User, inboxes: Sequence[str]) -> str:
    rights = RIGHTS[user.role]
    publish = rights.publish
    # Whoever handles commands and queries answers into the askers' inboxes.
    if user.role in (Role.COMMANDS, Role.STATION):
        publish = (*publish, *inboxes)
    subscribe = (*rights.subscribe, f"{user.inbox_prefix}.>")
    return (
        f"{{ user: {_q(user.name)}, password: {_q(user.password)}, permissions: {{ "
        f"publish: {{ allow: {json.dumps(publish)} }}, subscribe: {{ allow: {json.dumps(subscribe)} }} }} }}"
    )


def _q(text: str) -> str:
    return json.dumps(text)
