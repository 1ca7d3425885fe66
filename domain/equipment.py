"""An instrument as the lab owns it: what it is, where, in which state, how calibrated, and what was last seen of it.

    registered --> available <--> in_use
                   available, in_use --> fault --> available
                   available, fault <--> maintenance, retired

A person sets the status; of itself it becomes `fault` only when another device answers at the address (another serial
number), and `available` again when the right one is back. Whether it answers at all is kept apart from the status,
because a station says so each time a cable is pulled, and a person's word (`maintenance`) must outlive that.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, assert_never

from pydantic import AwareDatetime, JsonValue, StringConstraints, model_validator

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.events import Command, Event, Id

Kind = Literal["movement", "measurement", "both"]
Status = Literal["available", "in_use", "fault", "maintenance", "retired"]
Text = Annotated[str, StringConstraints(max_length=1000)]


class EquipmentRegistered(Event, name="equipment.registered"):
    """`equipment_id` is the instrument's name. `serial_number` is empty where none is known."""

    equipment_id: Id
    kind: Kind
    driver: Text
    address: Text = ""
    serial_number: Text = ""
    title: Text = ""
    location: Text = ""


class EquipmentUpdated(Event, name="equipment.updated"):
    """The whole entry, as it is from now on."""

    equipment_id: Id
    kind: Kind
    driver: Text
    address: Text
    serial_number: Text
    title: Text
    location: Text


class EquipmentStatusChanged(Event, name="equipment.status_changed"):
    """`by_itself`: nobody set it; it follows from the device that answered."""

    equipment_id: Id
    status: Status
    reason: str
    by_itself: bool = False


class EquipmentCalibrated(Event, name="equipment.calibrated"):
    """`certificate` is a number or the SHA-256 of a document; `values` are the results, by name."""

    equipment_id: Id
    done_at: AwareDatetime
    due_at: AwareDatetime | None
    by: Text
    certificate: Text
    values: dict[str, JsonValue]


class EquipmentMaintained(Event, name="equipment.maintained"):
    equipment_id: Id
    done_at: AwareDatetime
    by: Text
    note: Text


class EquipmentSettingsRecorded(Event, name="equipment.settings_recorded"):
    """The instrument's settings as a station read them, by channel."""

    equipment_id: Id
    settings: dict[str, JsonValue]


class EquipmentIdentified(Event, name="equipment.identified"):
    """What answered at the address: the words of the device itself."""

    equipment_id: Id
    identity: str
    matches: bool


class EquipmentStoppedAnswering(Event, name="equipment.stopped_answering"):
    equipment_id: Id
    reason: str


class EquipmentAnswersAgain(Event, name="equipment.answers_again"):
    equipment_id: Id


EquipmentEvent = (
    EquipmentRegistered
    | EquipmentUpdated
    | EquipmentStatusChanged
    | EquipmentCalibrated
    | EquipmentMaintained
    | EquipmentSettingsRecorded
    | EquipmentIdentified
    | EquipmentStoppedAnswering
    | EquipmentAnswersAgain
)


class RegisterEquipment(Command, name="equipment.register"):
    equipment_id: Id
    kind: Kind
    driver: Text
    address: Text = ""
    serial_number: Text = ""
    title: Text = ""
    location: Text = ""


class UpdateEquipment(Command, name="equipment.update"):
    """What is not given stays as it is."""

    equipment_id: Id
    kind: Kind | None = None
    driver: Text | None = None
    address: Text | None = None
    serial_number: Text | None = None
    title: Text | None = None
    location: Text | None = None


class SetEquipmentStatus(Command, name="equipment.set_status"):
    equipment_id: Id
    status: Status
    reason: str = ""


class CalibrateEquipment(Command, name="equipment.calibrate"):
    """`due_at`, when the next calibration is due, lies after `done_at`."""

    equipment_id: Id
    done_at: AwareDatetime
    due_at: AwareDatetime | None = None
    by: Text
    certificate: Text = ""
    values: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _due_after_done(self) -> "CalibrateEquipment":
        if self.due_at is not None and self.due_at <= self.done_at:
            raise ValueError("due_at must be later than done_at")
        return self


class MaintainEquipment(Command, name="equipment.maintain"):
    """A note of work that was done. It does not change the status."""

    equipment_id: Id
    done_at: AwareDatetime
    by: Text
    note: Text


class RecordSettings(Command):
    equipment_id: Id
    settings: dict[str, JsonValue]


class SeeIdentity(Command):
    """`serial_number` as read from the device, where the driver can tell; else it is looked for in `identity`."""

    equipment_id: Id
    identity: str
    serial_number: str | None = None


class NoteStoppedAnswering(Command):
    equipment_id: Id
    reason: str


class NoteAnswersAgain(Command):
    equipment_id: Id


EquipmentCommand = (
    RegisterEquipment
    | UpdateEquipment
    | SetEquipmentStatus
    | CalibrateEquipment
    | MaintainEquipment
    | RecordSettings
    | SeeIdentity
    | NoteStoppedAnswering
    | NoteAnswersAgain
)


@dataclass(frozen=True)
class Equipment:
    """`status` is None until it is registered."""

    status: Status | None = None
    status_reason: str = ""
    status_by_itself: bool = False
    kind: Kind = "both"
    driver: str = ""
    address: str = ""
    serial_number: str = ""
    title: str = ""
    location: str = ""
    calibration: EquipmentCalibrated | None = None
    maintenance: EquipmentMaintained | None = None
    settings: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    identity: str = ""
    #: False while another device than the registered one answers.
    matches: bool = True
    #: Why it does not answer; None while it does.
    silent: str | None = None


def usable(equipment: Equipment) -> str | None:
    """Why no scan may use it now, in words; None when one may.

    Who holds it is the lease's matter, so `in_use` is no reason. Nor is not being in the lab's books at all.
    """
    match equipment.status:
        case "retired" | "maintenance":
            reason = f": {equipment.status_reason}" if equipment.status_reason else ""
            state = "retired" if equipment.status == "retired" else "in maintenance"
            return f"it is {state}{reason}"
        case "fault":
            return f"it has a fault: {equipment.status_reason or 'no reason was given'}"
        case None | "available" | "in_use":
            return None if equipment.silent is None else f"it does not answer: {equipment.silent}"
    assert_never(equipment.status)


def decide(equipment: Equipment, command: EquipmentCommand) -> list[EquipmentEvent]:
    """Raises `AlreadyExists`, `NotFound`, and `WrongState` for putting away what a scan is using."""
    equipment_id = command.equipment_id
    if isinstance(command, RegisterEquipment):
        event = EquipmentRegistered.model_validate(command.model_dump())
        if equipment.status is None:
            return [event]
        if evolve(equipment, event) == equipment:
            return []
        raise AlreadyExists(f"equipment {equipment_id} is registered already; update it, or choose another name")
    if equipment.status is None:
        raise NotFound(f"there is no equipment {equipment_id}; register it first")
    match command:
        case UpdateEquipment():
            updated = _updated(equipment, command)
            return [] if evolve(equipment, updated) == equipment else [updated]
        case SetEquipmentStatus():
            if (command.status, command.reason) == (equipment.status, equipment.status_reason):
                return []
            if equipment.status == "in_use" and command.status in ("maintenance", "retired"):
                raise WrongState(
                    f"equipment {equipment_id} is in use; wait for the scan to end or abort it, "
                    f"then set it to {command.status}"
                )
            return [EquipmentStatusChanged(equipment_id=equipment_id, status=command.status, reason=command.reason)]
        case CalibrateEquipment():
            calibrated = EquipmentCalibrated.model_validate(command.model_dump())
            return [] if calibrated == equipment.calibration else [calibrated]
        case MaintainEquipment():
            maintained = EquipmentMaintained.model_validate(command.model_dump())
            return [] if maintained == equipment.maintenance else [maintained]
        case RecordSettings():
            if command.settings == equipment.settings:
                return []
            return [EquipmentSettingsRecorded(equipment_id=equipment_id, settings=command.settings)]
        case SeeIdentity():
            return _identify(equipment, command)
        case NoteStoppedAnswering():
            if equipment.silent == command.reason:
                return []
            return [EquipmentStoppedAnswering(equipment_id=equipment_id, reason=command.reason)]
        case NoteAnswersAgain():
            return [] if equipment.silent is None else [EquipmentAnswersAgain(equipment_id=equipment_id)]
    assert_never(command)


def _updated(equipment: Equipment, command: UpdateEquipment) -> EquipmentUpdated:
    return EquipmentUpdated(
        equipment_id=command.equipment_id,
        kind=command.kind or equipment.kind,
        driver=equipment.driver if command.driver is None else command.driver,
        address=equipment.address if command.address is None else command.address,
        serial_number=equipment.serial_number if command.serial_number is None else command.serial_number,
        title=equipment.title if command.title is None else command.title,
        location=equipment.location if command.location is None else command.location,
    )


def _identify(equipment: Equipment, command: SeeIdentity) -> list[EquipmentEvent]:
    matches = _is_serial(equipment.serial_number, command)
    events: list[EquipmentEvent] = []
    if (command.identity, matches) != (equipment.identity, equipment.matches):
        events.append(
            EquipmentIdentified(equipment_id=command.equipment_id, identity=command.identity, matches=matches)
        )
    if not matches and equipment.status in ("available", "in_use"):
        seen = f'"{command.identity}"'
        if command.serial_number is not None:
            seen = f"serial number {command.serial_number} ({seen})"
        reason = (
            f"another device answers: {seen} instead of serial number {equipment.serial_number}; "
            "connect the right one, or update the serial number"
        )
        events.append(
            EquipmentStatusChanged(equipment_id=command.equipment_id, status="fault", reason=reason, by_itself=True)
        )
    elif matches and equipment.status == "fault" and equipment.status_by_itself:
        reason = "the registered device answers again"
        events.append(
            EquipmentStatusChanged(equipment_id=command.equipment_id, status="available", reason=reason, by_itself=True)
        )
    return events


def _is_serial(registered: str, command: SeeIdentity) -> bool:
    if not registered:
        return True
    if command.serial_number is not None:
        return command.serial_number.strip().casefold() == registered.strip().casefold()
    # As a word of its own: 123 is not the device 1234.
    pattern = rf"(?<![0-9A-Za-z]){re.escape(registered.strip())}(?![0-9A-Za-z])"
    return re.search(pattern, command.identity, re.IGNORECASE) is not None


def evolve(equipment: Equipment, event: EquipmentEvent) -> Equipment:
    match event:
        case EquipmentRegistered() | EquipmentUpdated():
            return replace(
                equipment,
                status=equipment.status or "available",
                kind=event.kind,
                driver=event.driver,
                address=event.address,
                serial_number=event.serial_number,
                title=event.title,
                location=event.location,
            )
        case EquipmentStatusChanged():
            return replace(equipment, status=event.status, status_reason=event.reason, status_by_itself=event.by_itself)
        case EquipmentCalibrated():
            return replace(equipment, calibration=event)
        case EquipmentMaintained():
            return replace(equipment, maintenance=event)
        case EquipmentSettingsRecorded():
            return replace(equipment, settings=event.settings)
        case EquipmentIdentified():
            return replace(equipment, identity=event.identity, matches=event.matches)
        case EquipmentStoppedAnswering():
            return replace(equipment, silent=event.reason)
        case EquipmentAnswersAgain():
            return replace(equipment, silent=None)
    assert_never(event)


aggregate = Aggregate(kind="equipment", initial=Equipment(), decide=decide, evolve=evolve)
