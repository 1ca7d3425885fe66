from uuid import UUID

import pytest

from domain import station as module
from domain.errors import NotFound, WrongState
from domain.station import (
    LoseStation,
    NoteStuck,
    NoteUnstuck,
    StartStation,
    Station,
    StationCommand,
    StationLost,
    StationStarted,
    StationStopped,
    StationStuck,
    StationUnstuck,
    StopStation,
)
from tests.unit.domain.given import given

FIRST, NEXT = UUID(int=1), UUID(int=2)
INSTRUMENTS = {"stage": "sim.stage", "meter": "GPIB0::4"}


def start(instance: UUID, predecessor_dead: bool = False) -> StartStation:
    return StartStation(
        station_id="left",
        instance=instance,
        host="bench",
        pid=instance.int,
        version="0.1",
        instruments=INSTRUMENTS,
        predecessor_dead=predecessor_dead,
    )


def started(instance: UUID) -> StationStarted:
    return StationStarted(
        station_id="left", instance=instance, host="bench", pid=instance.int, version="0.1", instruments=INSTRUMENTS
    )


STOP = StopStation(station_id="left", instance=FIRST, reason="asked to")
STOPPED = StationStopped(station_id="left", instance=FIRST, reason="asked to")
LOSE = LoseStation(station_id="left", instance=FIRST, reason="silent for 3 s")
LOST = StationLost(station_id="left", instance=FIRST, reason="silent for 3 s")
STUCK = StationStuck(station_id="left", instance=FIRST, instrument="meter", call_s=6.5)
NOTE_STUCK = NoteStuck(station_id="left", instance=FIRST, instrument="meter", call_s=6.5)
UNSTUCK = StationUnstuck(station_id="left", instance=FIRST, instrument="meter")
NOTE_UNSTUCK = NoteUnstuck(station_id="left", instance=FIRST, instrument="meter")


def test_a_station_that_starts_says_what_it_holds() -> None:
    station = given(module, Station()).when(start(FIRST)).then(started(FIRST))
    assert (station.state, station.instance, station.instruments) == ("up", FIRST, INSTRUMENTS)
    given(module, Station(), started(FIRST)).when(start(FIRST)).then()


def test_a_second_process_under_the_same_name_is_refused() -> None:
    given(module, Station(), started(FIRST)).when(start(NEXT)).then_refused(
        WrongState, match="process 1 on bench.*give this one another name"
    )


def test_the_next_run_says_that_its_dead_predecessor_is_lost() -> None:
    given(module, Station(), started(FIRST)).when(start(NEXT, predecessor_dead=True)).then(
        StationLost(station_id="left", instance=FIRST, reason="process 1 on bench is dead; the next run took over"),
        started(NEXT),
    )


@pytest.mark.parametrize(("command", "event"), [(STOP, STOPPED), (LOSE, LOST)])
def test_a_station_goes_once(command: StationCommand, event: StationStopped | StationLost) -> None:
    given(module, Station(), started(FIRST)).when(command).then(event)
    for gone in (STOPPED, LOST):
        given(module, Station(), started(FIRST), gone).when(command).then()
    given(module, Station(), started(FIRST), event).when(start(NEXT)).then(started(NEXT))


@pytest.mark.parametrize("command", [STOP, LOSE, NOTE_STUCK, NOTE_UNSTUCK])
def test_a_word_about_an_instance_that_is_not_the_current_one_changes_nothing(command: StationCommand) -> None:
    given(module, Station()).when(command).then()
    given(module, Station(), started(FIRST), LOST, started(NEXT)).when(command).then()


def test_a_hanging_instrument_is_noted_once_until_it_comes_back() -> None:
    station = given(module, Station(), started(FIRST)).when(NOTE_STUCK).then(STUCK)
    assert station.stuck == {"meter"}
    given(module, Station(), started(FIRST), STUCK).when(NOTE_STUCK).then()
    station = given(module, Station(), started(FIRST), STUCK).when(NOTE_UNSTUCK).then(UNSTUCK)
    assert not station.stuck
    given(module, Station(), started(FIRST)).when(NOTE_UNSTUCK).then()


def test_an_instrument_that_the_station_does_not_have_cannot_hang() -> None:
    other = NOTE_STUCK.model_copy(update={"instrument": "laser"})
    given(module, Station(), started(FIRST)).when(other).then_refused(NotFound, match="it has meter, stage")


@pytest.mark.parametrize("gone", [STOPPED, LOST])
def test_a_station_that_is_gone_has_no_hanging_instrument(gone: StationStopped | StationLost) -> None:
    station = given(module, Station(), started(FIRST), STUCK, gone).when(start(NEXT)).then(started(NEXT))
    assert not station.stuck
    assert not module.aggregate.fold(Station(), [started(FIRST), STUCK, gone]).stuck
