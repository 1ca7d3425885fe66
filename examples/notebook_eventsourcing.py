"""The library `eventsourcing` on the lab's streams: an application of your own, and a look into the history of a scan.

    labledger up --data lab --simulate                       # in one terminal
    pip install "labledger[eventsourcing]"
    python examples/notebook_eventsourcing.py lab/connection.json [scan id]

Each `# %%` is a cell: editors that know notebooks run them one by one. Nothing here is asynchronous.
"""

# %% Connect: every application made with these settings keeps its events on the lab's streams.
import json
import sys
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

SETTINGS = {"PERSISTENCE_MODULE": "bus.persistence", "LABLEDGER_CONNECTION_FILE": sys.argv[1], "EVENT_ACTOR": "ada"}


# %% (a) An ordinary application. Its events lie beside those of the lab, on evt.logbook.<id>, in the same envelope, so
# `labledger audit verify` watches over them too. Take a kind of your own: the lab's kinds are not to be written.
# Events are called by the path of their class, for ever: classes that are to last belong in a module, not in `__main__`.
class Page(Aggregate):
    @event("Opened")
    def __init__(self, title: str) -> None:
        self.title = title
        self.notes: list[str] = []

    @event("Noted")
    def note(self, text: str) -> None:
        self.notes.append(text)


class Logbook(Application[UUID]):
    def open(self, title: str) -> UUID:
        page = Page(title)
        self.save(page)
        return page.id

    def note(self, page_id: UUID, text: str) -> int:
        """Answers the sequence in the lab's stream."""
        page: Page = self.repository.get(page_id)
        page.note(text)
        return self.save(page)[-1].notification.id


with Logbook(SETTINGS) as logbook:
    page_id = logbook.open("Monday")
    logbook.note(page_id, "cold in the lab")
    sequence = logbook.note(page_id, "warmer after lunch")
    page: Page = logbook.repository.get(page_id)
    before: Page = logbook.repository.get(page_id, version=2)
    print(f"page {page.title!r} has {page.notes} at version {page.version}, sequence {sequence}")
    print(f"at version {before.version} it had {before.notes}")


# %% (b) The lab's own scans, read with the same library. A user who may only read is enough.
class Scans(Application[UUID]):
    pass


with Scans(SETTINGS | {"EVENT_KIND": "scan", "NATS_USER": "dashboard", "NATS_POLL_S": "0.5"}) as scans:
    if len(sys.argv) > 2:
        scan_id = UUID(sys.argv[2])
    else:
        newest = scans.recorder.max_notification_id()
        if newest is None:
            raise SystemExit("no scan in this lab yet: order one, then run this again")
        (last,) = scans.recorder.select_notifications(newest, 1)
        scan_id = UUID(str(last.originator_id))

    # Every event, with what its envelope tells.
    for happened in scans.events.get(scan_id):
        print(f"{happened.originator_version:3} {happened.timestamp:%H:%M:%S.%f} {happened.type} {happened.actor}")

    # The state at any version, by the lab's own rules.
    for version in range(1, happened.originator_version + 1):
        then = scans.repository.get(scan_id, version=version)
        print(f"at version {version} the scan was {then.state.status}")

    # The bodies are plain JSON, for pandas or whatever comes.
    (first,) = scans.recorder.select_events(scan_id, limit=1)
    requested = json.loads(first.state)
    print(f"it was asked for {requested['total_points']} points with {', '.join(requested['instruments'])}")
