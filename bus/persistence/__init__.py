"""A persistence module for the Python library `eventsourcing` (9.5), on the streams of labledger.

    PERSISTENCE_MODULE=bus.persistence
    NATS_URL=nats://127.0.0.1:4222  NATS_USER=commands  NATS_PASSWORD=...  NATS_INBOX_PREFIX=_INBOX_commands
    LABLEDGER_CONNECTION_FILE=lab/connection.json          in place of the four: what `labledger up` has written

An ordinary application then keeps its events on EVT as we keep ours: one subject `evt.<kind>.<id>` for each aggregate,
CloudEvents headers, the hash chain, and an expected last sequence at each write. So `labledger audit verify` holds over
them, and a notebook reads the history of a scan with the same few lines as that of its own aggregates.

What to know:

- **Kind.** The application's name in lower case, or EVENT_KIND. Events of labledger's own kinds (EVENT_KIND=scan) can be
  read but not written: a scan's rules are in its `decide`, and its events come from commands.
- **Types.** Events of an application keep their topic (a Python path) as `ce-type`. Our own have names like
  `scan.requested.v1`; `LedgerMapper`, the default mapper, makes a `LedgerEvent` of each, and `repository.get` a
  `LedgerAggregate` with the state that our domain folds from them.
- **Versions.** `ce-aggregateversion` counts from 1, as `originator_version` does by default. Where an application counts
  from 0, the source says so (`eventsourcing/<kind>?first=0`). A gap in the versions is refused.
- **Notification ids** are the sequences of EVT: they rise, follow the order in which events became durable, and never
  appear late. They have gaps where other kinds write to the same stream, as SQL sequences have after a rollback.
- **Conflicts** raise `IntegrityError`. When NATS is away longer than NATS_TIMEOUT_S, `OperationalError`: a write may then
  have been stored or not, and giving the same events again to the same recorder settles it without storing them twice.
- **Snapshots** go to SNAP, which keeps the two newest of each aggregate; they may be dropped at any time.
- **Tracking** positions of process applications are events on `evt.tracking.<kind>-<upstream>`, stored in one atomic batch
  with the events that they belong to. Recorders that keep other tables of their own need a database.
- **Threads.** Everything runs in one loop thread for each factory; any number of threads may use a recorder. Do not call it
  from a running event loop: use `asyncio.to_thread`. `close()` of the application or factory ends the thread.
"""

from bus.persistence.factory import JetStreamFactory
from bus.persistence.mapper import LedgerAggregate, LedgerEvent, LedgerMapper
from bus.persistence.recorders import (
    JetStreamAggregateRecorder,
    JetStreamApplicationRecorder,
    JetStreamProcessRecorder,
    JetStreamSnapshotRecorder,
    JetStreamSubscription,
    JetStreamTrackingRecorder,
)

__all__ = [
    "JetStreamAggregateRecorder",
    "JetStreamApplicationRecorder",
    "JetStreamFactory",
    "JetStreamProcessRecorder",
    "JetStreamSnapshotRecorder",
    "JetStreamSubscription",
    "JetStreamTrackingRecorder",
    "LedgerAggregate",
    "LedgerEvent",
    "LedgerMapper",
]
