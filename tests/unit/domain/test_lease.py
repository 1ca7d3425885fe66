from uuid import UUID

import pytest
from pydantic import ValidationError

from domain import lease as module
from domain.errors import WrongState
from domain.lease import AcquireLease, ExpireLease, Lease, LeaseAcquired, LeaseExpired, LeaseReleased, ReleaseLease
from tests.unit.domain.given import given

FIRST, NEXT, RIVAL = UUID(int=1), UUID(int=2), UUID(int=3)


def acquire(instance: UUID, station_id: str = "left", predecessor_dead: bool = False) -> AcquireLease:
    return AcquireLease(
        instrument="stage",
        station_id=station_id,
        instance=instance,
        host="bench",
        pid=instance.int,
        ttl_s=2.5,
        predecessor_dead=predecessor_dead,
    )


def acquired(instance: UUID, station_id: str = "left") -> LeaseAcquired:
    return LeaseAcquired(
        instrument="stage", station_id=station_id, instance=instance, host="bench", pid=instance.int, ttl_s=2.5
    )


RELEASE = ReleaseLease(instrument="stage", instance=FIRST, reason="shut down")
RELEASED = LeaseReleased(instrument="stage", station_id="left", instance=FIRST, reason="shut down")
EXPIRE = ExpireLease(instrument="stage", instance=FIRST, reason="silent for 3 s")
EXPIRED = LeaseExpired(instrument="stage", station_id="left", instance=FIRST, reason="silent for 3 s")


def test_a_free_instrument_goes_to_the_first_who_asks() -> None:
    lease = given(module, Lease()).when(acquire(FIRST)).then(acquired(FIRST))
    assert lease.holder == module.Holder("left", FIRST, "bench", 1, 2.5)


def test_the_holder_may_ask_again() -> None:
    given(module, Lease(), acquired(FIRST)).when(acquire(FIRST)).then()


def test_a_held_instrument_is_refused_and_the_words_name_who_holds_it_and_how_it_becomes_free() -> None:
    refused = given(module, Lease(), acquired(FIRST)).when(acquire(RIVAL, "right")).then_refused(WrongState)
    for words in ("stage is held by station left", "process 1 on bench", str(FIRST), "2.5 s after its last sign"):
        assert words in str(refused)


def test_the_next_run_of_a_station_waits_unless_it_has_proven_its_predecessor_dead() -> None:
    given(module, Lease(), acquired(FIRST)).when(acquire(NEXT)).then_refused(WrongState, match="station left")
    given(module, Lease(), acquired(FIRST)).when(acquire(NEXT, predecessor_dead=True)).then(
        LeaseExpired(
            instrument="stage",
            station_id="left",
            instance=FIRST,
            reason="process 1 on bench is dead; the station's next run took over",
            proven_dead=True,
        ),
        acquired(NEXT),
    )


def test_another_station_cannot_claim_that_a_predecessor_is_dead() -> None:
    given(module, Lease(), acquired(FIRST)).when(acquire(RIVAL, "right", predecessor_dead=True)).then_refused(
        WrongState
    )


def test_a_released_instrument_is_free() -> None:
    given(module, Lease(), acquired(FIRST)).when(RELEASE).then(RELEASED)
    given(module, Lease(), acquired(FIRST), RELEASED).when(acquire(RIVAL, "right")).then(acquired(RIVAL, "right"))
    given(module, Lease(), acquired(FIRST), RELEASED).when(RELEASE).then()


def test_nobody_releases_what_another_holds() -> None:
    given(module, Lease(), acquired(NEXT)).when(RELEASE).then_refused(WrongState, match=str(NEXT))


def test_an_expired_instrument_is_free_and_expires_once() -> None:
    given(module, Lease(), acquired(FIRST)).when(EXPIRE).then(EXPIRED)
    given(module, Lease(), acquired(FIRST), EXPIRED).when(acquire(RIVAL, "right")).then(acquired(RIVAL, "right"))
    given(module, Lease(), acquired(FIRST), EXPIRED).when(EXPIRE).then()


def test_a_late_word_of_the_watchdog_does_not_hit_the_next_holder() -> None:
    given(module, Lease(), acquired(FIRST), EXPIRED, acquired(NEXT)).when(EXPIRE).then()


def test_a_lease_lasts_some_time() -> None:
    with pytest.raises(ValidationError):
        AcquireLease(instrument="stage", station_id="left", instance=FIRST, host="bench", pid=1, ttl_s=0)
