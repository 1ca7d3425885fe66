"""The instruments as the lab owns them, and who holds them now."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.equipment import (
    EquipmentAnswersAgain,
    EquipmentCalibrated,
    EquipmentEvent,
    EquipmentIdentified,
    EquipmentMaintained,
    EquipmentRegistered,
    EquipmentSettingsRecorded,
    EquipmentStatusChanged,
    EquipmentStoppedAnswering,
    EquipmentUpdated,
)
from domain.events import Event
from domain.lease import LeaseAcquired, LeaseExpired, LeaseReleased

equipment = Table(
    "equipment",
    key=("equipment_id",),
    columns=(
        Column("equipment_id", "text", "The instrument's name."),
        Column("kind", "text", "movement, measurement or both."),
        Column("driver", "text", "The driver that speaks to it."),
        Column("address", "text", "Where it is reached."),
        Column("serial_number", "text", "Its serial number as the lab knows it; empty when not known."),
        Column("title", "text", "What people call it."),
        Column("location", "text", "Where it stands."),
        Column("status", "text", "available, in_use, fault, maintenance or retired, as people set it."),
        Column("status_reason", "text", "Why."),
        Column("identity", "text", "What the device itself answered last."),
        Column("identity_matches", "boolean", "False while another device than the registered one answers."),
        Column("silent", "text", "Why it does not answer; NULL while it does."),
        Column("calibrated_at", "timestamptz", "When it was last calibrated."),
        Column("calibration_due_at", "timestamptz", "When it must be calibrated again; NULL when not said."),
        Column("calibrated_by", "text", "By whom."),
        Column("certificate", "text", "Number or SHA-256 of the certificate."),
        Column("calibration", "jsonb", "The results, by name."),
        Column("maintained_at", "timestamptz", "When it was last maintained."),
        Column("maintenance_note", "text", "What was done then."),
        Column("settings", "jsonb", "Its settings as last recorded, by channel."),
        Column("station_id", "text", "The station that holds it now; NULL when none does."),
        Column("held_since", "timestamptz", "Since when."),
        Column("lease_sequence", "bigint", "The fencing token: the sequence of its lease's last event."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
)


def _lease(event: Event) -> list[tuple[str, str]]:
    instrument = getattr(event, "instrument", None)
    return [("equipment_id", instrument)] if instrument else []


projection = Projection(
    "equipment",
    version=1,
    tables=[equipment],
    views=[
        View(
            "equipment",
            "One row an instrument, with its calibration and the station that holds it.",
            "select * from {schema}.equipment",
            {c.name: c.doc for c in equipment.columns},
        )
    ],
    also=_lease,
)


@projection.on(LeaseAcquired, LeaseReleased, LeaseExpired)
def held(event: LeaseAcquired | LeaseReleased | LeaseExpired, stored: Stored, rows: Rows) -> None:
    # The lease of an instrument is taken before it is first registered.
    row = rows.get(equipment, event.instrument) or rows.put(equipment, {"equipment_id": event.instrument})
    acquired = isinstance(event, LeaseAcquired)
    row["station_id"] = event.station_id if acquired else None
    row["held_since"] = stored.time if acquired else None
    row["lease_sequence"] = stored.seq
    row["updated_at"] = stored.time


@projection.on(
    EquipmentRegistered,
    EquipmentUpdated,
    EquipmentStatusChanged,
    EquipmentCalibrated,
    EquipmentMaintained,
    EquipmentSettingsRecorded,
    EquipmentIdentified,
    EquipmentStoppedAnswering,
    EquipmentAnswersAgain,
)
def changed(event: EquipmentEvent, stored: Stored, rows: Rows) -> None:
    row = rows.get(equipment, event.equipment_id) or rows.put(equipment, {"equipment_id": event.equipment_id})
    row["updated_at"] = stored.time
    match event:
        case EquipmentRegistered():
            row |= event.model_dump() | {"status": "available", "status_reason": "", "identity_matches": True}
        case EquipmentUpdated():
            row |= event.model_dump()
        case EquipmentStatusChanged(status=status, reason=reason):
            row |= {"status": status, "status_reason": reason}
        case EquipmentCalibrated():
            row |= {
                "calibrated_at": event.done_at,
                "calibration_due_at": event.due_at,
                "calibrated_by": event.by,
                "certificate": event.certificate,
                "calibration": event.values,
            }
        case EquipmentMaintained():
            row |= {"maintained_at": event.done_at, "maintenance_note": event.note}
        case EquipmentSettingsRecorded(settings=settings):
            row["settings"] = settings
        case EquipmentIdentified(identity=identity, matches=matches):
            row |= {"identity": identity, "identity_matches": matches}
        case EquipmentStoppedAnswering(reason=reason):
            row["silent"] = reason
        case EquipmentAnswersAgain():
            row["silent"] = None
