"""The stations: which run of each is up, and which of its instruments hang."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.station import StationEvent, StationLost, StationStarted, StationStopped, StationStuck, StationUnstuck

stations = Table(
    "stations",
    key=("station_id",),
    columns=(
        Column("station_id", "text", "Its name."),
        Column("state", "text", "up, stopped (it went by itself) or lost (its beats stopped)."),
        Column("reason", "text", "Why it is stopped or lost."),
        Column("instance", "uuid", "The run of its process that is, or was last, up."),
        Column("host", "text", "Where that runs."),
        Column("pid", "bigint", "Its process id there."),
        Column("version", "text", "The version of labledger that it runs."),
        Column("instruments", "jsonb", "Driver and address of each of its instruments, by name."),
        Column("stuck", "text[]", "Instruments whose call hangs."),
        Column("started_at", "timestamptz", "When this run started."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
)

projection = Projection(
    "stations",
    version=1,
    tables=[stations],
    views=[
        View(
            "stations",
            "One row a station.",
            "select * from {schema}.stations",
            {c.name: c.doc for c in stations.columns},
        )
    ],
)


@projection.on(StationStarted, StationStopped, StationLost, StationStuck, StationUnstuck)
def changed(event: StationEvent, stored: Stored, rows: Rows) -> None:
    if isinstance(event, StationStarted):
        rows.put(
            stations,
            event.model_dump()
            | {"state": "up", "reason": "", "stuck": [], "started_at": stored.time, "updated_at": stored.time},
        )
        return
    row = rows.get(stations, event.station_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case StationStopped(reason=reason):
            row |= {"state": "stopped", "reason": reason, "stuck": []}
        case StationLost(reason=reason):
            row |= {"state": "lost", "reason": reason, "stuck": []}
        case StationStuck(instrument=instrument):
            row["stuck"] = sorted({*row["stuck"], instrument})
        case StationUnstuck(instrument=instrument):
            row["stuck"] = [name for name in row["stuck"] if name != instrument]
