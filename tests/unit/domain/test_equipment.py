from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from domain import equipment as module
from domain.equipment import (
    CalibrateEquipment,
    Equipment,
    EquipmentAnswersAgain,
    EquipmentCalibrated,
    EquipmentIdentified,
    EquipmentMaintained,
    EquipmentRegistered,
    EquipmentSettingsRecorded,
    EquipmentStatusChanged,
    EquipmentStoppedAnswering,
    EquipmentUpdated,
    MaintainEquipment,
    NoteAnswersAgain,
    NoteStoppedAnswering,
    RecordSettings,
    RegisterEquipment,
    SeeIdentity,
    SetEquipmentStatus,
    Status,
    UpdateEquipment,
    usable,
)
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.events import Event
from tests.unit.domain.given import given

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
REGISTER = RegisterEquipment(
    equipment_id="meter", kind="measurement", driver="scpi", address="GPIB0::4", serial_number="4711"
)
REGISTERED = EquipmentRegistered(
    equipment_id="meter", kind="measurement", driver="scpi", address="GPIB0::4", serial_number="4711"
)
RIGHT, WRONG = "KEITHLEY,2400,4711,C30", "KEITHLEY,2400,47112,C30"


def status(value: Status, reason: str = "", by_itself: bool = False) -> EquipmentStatusChanged:
    return EquipmentStatusChanged(equipment_id="meter", status=value, reason=reason, by_itself=by_itself)


def set_to(value: Status, reason: str = "") -> SetEquipmentStatus:
    return SetEquipmentStatus(equipment_id="meter", status=value, reason=reason)


def see(identity: str, serial_number: str | None = None) -> SeeIdentity:
    return SeeIdentity(equipment_id="meter", identity=identity, serial_number=serial_number)


def seen(identity: str, matches: bool = True) -> EquipmentIdentified:
    return EquipmentIdentified(equipment_id="meter", identity=identity, matches=matches)


def state(*events: Event) -> Equipment:
    return module.aggregate.fold(Equipment(), events)


SILENT = EquipmentStoppedAnswering(equipment_id="meter", reason="unplugged")
ANSWERS = EquipmentAnswersAgain(equipment_id="meter")
FAULT = status(
    "fault",
    f'another device answers: "{WRONG}" instead of serial number 4711; '
    "connect the right one, or update the serial number",
    by_itself=True,
)


def test_an_instrument_is_registered_once_and_is_available() -> None:
    equipment = given(module, Equipment()).when(REGISTER).then(REGISTERED)
    assert equipment.status == "available"
    given(module, Equipment(), REGISTERED, status("maintenance")).when(REGISTER).then()
    other = REGISTER.model_copy(update={"driver": "sim"})
    given(module, Equipment(), REGISTERED).when(other).then_refused(AlreadyExists, match="update it")


@pytest.mark.parametrize("command", [set_to("fault"), see(RIGHT), NoteAnswersAgain(equipment_id="meter")])
def test_an_instrument_never_registered_is_not_found(command: Any) -> None:
    given(module, Equipment()).when(command).then_refused(NotFound, match="register it first")


def test_an_update_changes_only_what_is_given_and_leaves_the_status() -> None:
    update = UpdateEquipment(equipment_id="meter", location="room 3", address="")
    updated = EquipmentUpdated(
        equipment_id="meter",
        kind="measurement",
        driver="scpi",
        address="",
        serial_number="4711",
        title="",
        location="room 3",
    )
    equipment = given(module, Equipment(), REGISTERED, status("fault")).when(update).then(updated)
    assert equipment.status == "fault"
    given(module, Equipment(), REGISTERED, updated).when(update).then()


def test_a_person_sets_the_status() -> None:
    given(module, Equipment(), REGISTERED).when(set_to("maintenance", "new fan")).then(status("maintenance", "new fan"))
    given(module, Equipment(), REGISTERED, status("retired")).when(set_to("available")).then(status("available"))
    given(module, Equipment(), REGISTERED, status("fault", "x")).when(set_to("fault", "x")).then()


@pytest.mark.parametrize("value", ["maintenance", "retired"])
def test_what_a_scan_is_using_cannot_be_put_away(value: Status) -> None:
    in_use = given(module, Equipment(), REGISTERED, status("in_use"))
    in_use.when(set_to(value)).then_refused(WrongState, match=f"abort it, then set it to {value}")
    in_use.when(set_to("fault", "smoke")).then(status("fault", "smoke"))


@pytest.mark.parametrize(
    ("value", "words"),
    [("retired", "it is retired: old"), ("maintenance", "it is in maintenance: old"), ("fault", "it has a fault: old")],
)
def test_a_scan_may_not_use_what_is_put_away_or_broken(value: Status, words: str) -> None:
    assert usable(state(REGISTERED, status(value, "old"))) == words


def test_a_scan_may_use_what_is_available_or_in_use_or_not_in_the_books() -> None:
    assert usable(state(REGISTERED)) is None
    assert usable(state(REGISTERED, status("in_use"))) is None
    assert usable(Equipment()) is None


def test_a_scan_may_not_use_what_does_not_answer() -> None:
    assert usable(state(REGISTERED, SILENT)) == "it does not answer: unplugged"
    assert usable(state(REGISTERED, SILENT, ANSWERS)) is None
    assert usable(state(REGISTERED, status("retired"), SILENT)) == "it is retired"


def test_silence_and_its_end_are_noted_once() -> None:
    silence = NoteStoppedAnswering(equipment_id="meter", reason="unplugged")
    again = NoteAnswersAgain(equipment_id="meter")
    given(module, Equipment(), REGISTERED).when(silence).then(SILENT)
    given(module, Equipment(), REGISTERED, SILENT).when(silence).then()
    given(module, Equipment(), REGISTERED, SILENT).when(again).then(ANSWERS)
    given(module, Equipment(), REGISTERED).when(again).then()


def test_silence_does_not_touch_the_word_of_a_person() -> None:
    assert state(REGISTERED, status("maintenance"), SILENT, ANSWERS).status == "maintenance"


def test_the_registered_device_is_recognised_and_noted_once() -> None:
    given(module, Equipment(), REGISTERED).when(see(RIGHT)).then(seen(RIGHT))
    given(module, Equipment(), REGISTERED, seen(RIGHT)).when(see(RIGHT)).then()


def test_another_serial_number_is_a_fault_in_words() -> None:
    given(module, Equipment(), REGISTERED).when(see(WRONG)).then(seen(WRONG, matches=False), FAULT)
    given(module, Equipment(), REGISTERED, seen(WRONG, matches=False), FAULT).when(see(WRONG)).then()


def test_a_serial_number_that_the_driver_read_decides() -> None:
    given(module, Equipment(), REGISTERED).when(see("a meter", " 4711")).then(seen("a meter"))
    _, fault = given(module, Equipment(), REGISTERED).when(see(RIGHT, "99")).events()
    assert isinstance(fault, EquipmentStatusChanged) and "serial number 99" in fault.reason


def test_without_a_registered_serial_number_any_device_will_do() -> None:
    unknown = REGISTERED.model_copy(update={"serial_number": ""})
    given(module, Equipment(), unknown).when(see(WRONG)).then(seen(WRONG))


def test_the_right_device_ends_the_fault_that_the_wrong_one_caused() -> None:
    history = (REGISTERED, seen(WRONG, matches=False), FAULT)
    given(module, Equipment(), *history).when(see(RIGHT)).then(
        seen(RIGHT), status("available", "the registered device answers again", by_itself=True)
    )


def test_the_right_device_does_not_end_a_fault_that_a_person_noted() -> None:
    history = (REGISTERED, seen(WRONG, matches=False), FAULT, status("fault", "smoke"))
    given(module, Equipment(), *history).when(see(RIGHT)).then(seen(RIGHT))


def test_the_wrong_device_does_not_bring_back_what_is_put_away() -> None:
    given(module, Equipment(), REGISTERED, status("retired")).when(see(WRONG)).then(seen(WRONG, matches=False))


def test_a_calibration_is_kept_with_its_certificate() -> None:
    calibrate = CalibrateEquipment(
        equipment_id="meter",
        done_at=AT,
        due_at=AT + timedelta(days=365),
        by="Ann",
        certificate="C-12",
        values={"gain": 1.002},
    )
    calibrated = EquipmentCalibrated(
        equipment_id="meter",
        done_at=AT,
        due_at=AT + timedelta(days=365),
        by="Ann",
        certificate="C-12",
        values={"gain": 1.002},
    )
    equipment = given(module, Equipment(), REGISTERED).when(calibrate).then(calibrated)
    assert equipment.calibration == calibrated
    given(module, Equipment(), REGISTERED, calibrated).when(calibrate).then()


def test_a_calibration_is_not_due_before_it_is_done() -> None:
    with pytest.raises(ValidationError, match="later than done_at"):
        CalibrateEquipment(equipment_id="meter", done_at=AT, due_at=AT, by="Ann")


def test_maintenance_done_is_noted_without_changing_the_status() -> None:
    maintain = MaintainEquipment(equipment_id="meter", done_at=AT, by="Ann", note="new fan")
    maintained = EquipmentMaintained(equipment_id="meter", done_at=AT, by="Ann", note="new fan")
    equipment = given(module, Equipment(), REGISTERED, status("maintenance")).when(maintain).then(maintained)
    assert (equipment.status, equipment.maintenance) == ("maintenance", maintained)


def test_the_last_settings_are_kept_and_noted_only_when_they_changed() -> None:
    record = RecordSettings(equipment_id="meter", settings={"range_v": 2, "filter": [1, 2]})
    recorded = EquipmentSettingsRecorded(equipment_id="meter", settings={"range_v": 2, "filter": [1, 2]})
    given(module, Equipment(), REGISTERED).when(record).then(recorded)
    given(module, Equipment(), REGISTERED, recorded).when(record).then()
