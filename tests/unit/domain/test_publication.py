"""Publications: what may follow what."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from domain import publication
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.publication import Publication, pin_of, pointer_of
from tests.unit.domain.given import given

ID, SHA = UUID(int=7), "ab" * 32
WORDS: dict[str, Any] = {"sensor_type": "temperature", "interval": "daily"}
REQUEST = publication.RequestPublication(
    publication_id=ID, artifact=SHA, ipfs_target="pinata", kv_target="pointers", metadata=WORDS
)
REQUESTED = publication.PublicationRequested(
    publication_id=ID,
    artifact=SHA,
    ipfs_target="pinata",
    kv_target="pointers",
    key="temperature:daily:latest",
    metadata=WORDS,
    order=None,
    clean_up="",
    priority="normal",
    title="publish temperature:daily:latest",
)
CLEANING = REQUESTED.model_copy(update={"clean_up": "/plots/a.png"})
NOTE_PINNED = publication.NotePinned(publication_id=ID, delivery_id=pin_of(ID), cid="bafy", location="ipfs://bafy")
PINNED = publication.PublicationPinned(publication_id=ID, delivery_id=pin_of(ID), cid="bafy", location="ipfs://bafy")
NOTE_POINTED = publication.NotePointed(publication_id=ID, delivery_id=pointer_of(ID), superseded=False)
POINTED = publication.PublicationPointed(publication_id=ID, delivery_id=pointer_of(ID), superseded=False)
COMPLETED = publication.PublicationCompleted(publication_id=ID)
NOTE_CLEANED = publication.NoteCleaned(publication_id=ID, removed=True)
CLEANED = publication.PublicationCleaned(publication_id=ID, path="/plots/a.png", removed=True)
RETRY = publication.RetryPublication(publication_id=ID)
CANCEL = publication.CancelPublication(publication_id=ID, reason="wrong plot")
CANCELLED = publication.PublicationCancelled(publication_id=ID, reason="wrong plot")


def stall(step: publication.Step) -> publication.StallPublication:
    return publication.StallPublication(publication_id=ID, step=step, reason="wrong token")


def stalled(step: publication.Step) -> publication.PublicationStalled:
    return publication.PublicationStalled(publication_id=ID, step=step, reason="wrong token")


def retried(step: publication.Step) -> publication.PublicationRetried:
    return publication.PublicationRetried(publication_id=ID, step=step)


def given_(*events: Any) -> Any:
    return given(publication, Publication(), *events)


def test_the_same_request_is_the_same_publication_and_another_needs_an_id_of_its_own() -> None:
    given_().when(REQUEST).then(REQUESTED)
    given_(REQUESTED).when(REQUEST).then()
    other = REQUEST.model_copy(update={"artifact": "cd" * 32})
    given_(REQUESTED).when(other).then_refused(AlreadyExists, match="choose a new id")


def test_its_key_is_given_or_made_from_its_words() -> None:
    keyed = REQUEST.model_copy(update={"key": "plots/today", "title": "today"})
    given_().when(keyed).then(REQUESTED.model_copy(update={"key": "plots/today", "title": "today"}))
    wordless = REQUEST.model_copy(update={"metadata": {}})
    given_().when(wordless).then_refused(Refused, match="needs 'sensor_type'")
    given_().when(REQUEST.model_copy(update={"key": ".."})).then_refused(Refused, match="no key")


def test_a_pointer_is_small() -> None:
    large = REQUEST.model_copy(update={"metadata": WORDS | {"text": "x" * 100_000}})
    given_().when(large).then_refused(OutOfLimits, match="a pointer is small")


def test_one_step_after_the_other() -> None:
    given_(REQUESTED).when(NOTE_PINNED).then(PINNED)
    given_(REQUESTED, PINNED).when(NOTE_POINTED).then(POINTED, COMPLETED)
    given_(CLEANING, PINNED).when(NOTE_POINTED).then(POINTED)
    given_(CLEANING, PINNED, POINTED).when(NOTE_CLEANED).then(CLEANED, COMPLETED)


def test_no_step_before_the_one_before_it() -> None:
    given_(REQUESTED).when(NOTE_POINTED).then()
    given_(CLEANING, PINNED).when(NOTE_CLEANED).then()


def test_each_step_is_noted_once() -> None:
    given_(REQUESTED, PINNED).when(NOTE_PINNED).then()
    given_(REQUESTED, PINNED, POINTED, COMPLETED).when(NOTE_POINTED).then()
    given_(CLEANING, PINNED, POINTED, CLEANED, COMPLETED).when(NOTE_CLEANED).then()


def test_it_stalls_at_the_step_that_was_given_up_and_goes_on_there() -> None:
    given_(REQUESTED).when(stall("pin")).then(stalled("pin"))
    given_(REQUESTED, stalled("pin")).when(stall("pin")).then()
    given_(REQUESTED, stalled("pin")).when(RETRY).then(retried("pin"))
    given_(REQUESTED, PINNED, stalled("point")).when(RETRY).then(retried("point"))
    given_(CLEANING, PINNED, POINTED, stalled("clean_up")).when(RETRY).then(retried("clean_up"))
    given_(REQUESTED, stalled("pin"), retried("pin")).when(stall("pin")).then(stalled("pin"))


def test_late_news_of_a_step_that_is_done_stalls_nothing() -> None:
    given_(REQUESTED, PINNED).when(stall("pin")).then()
    given_(REQUESTED, PINNED, POINTED, COMPLETED).when(stall("point")).then()


def test_a_delivery_that_was_retried_by_itself_takes_it_along() -> None:
    given_(REQUESTED, stalled("pin")).when(NOTE_PINNED).then(PINNED)
    given_(REQUESTED, stalled("pin"), PINNED).when(RETRY).then_refused(WrongState, match="on its way")


def test_a_cancelled_one_goes_no_further_until_it_is_retried() -> None:
    given_(REQUESTED).when(CANCEL).then(CANCELLED)
    given_(REQUESTED, CANCELLED).when(CANCEL).then()
    given_(REQUESTED, CANCELLED).when(stall("pin")).then()
    given_(REQUESTED, CANCELLED).when(RETRY).then(retried("pin"))
    given_(REQUESTED, PINNED, stalled("point")).when(CANCEL).then(CANCELLED)


def test_what_arrived_while_it_was_cancelled_is_noted_all_the_same() -> None:
    given_(REQUESTED, CANCELLED).when(NOTE_PINNED).then(PINNED)
    given_(REQUESTED, CANCELLED, PINNED).when(RETRY).then(retried("point"))
    state = publication.aggregate.fold(Publication(), [REQUESTED, CANCELLED, PINNED])
    assert state.state == "cancelled" and state.cid == "bafy"


def test_the_end_is_the_end() -> None:
    done = (REQUESTED, PINNED, POINTED, COMPLETED)
    given_(*done).when(RETRY).then_refused(WrongState, match="completed")
    given_(*done).when(CANCEL).then_refused(WrongState, match="completed")
    given_(REQUESTED).when(RETRY).then_refused(WrongState, match="on its way")


@pytest.mark.parametrize("command", [RETRY, CANCEL, NOTE_PINNED, stall("pin")])
def test_there_must_be_one(command: Any) -> None:
    given_().when(command).then_refused(NotFound, match="publications list")


@pytest.mark.parametrize("path", ["relative/plot.png", "/a\nb", "../x"])
def test_a_file_to_be_removed_is_named_from_the_root(path: str) -> None:
    with pytest.raises(ValidationError):
        publication.RequestPublication.model_validate(REQUEST.model_dump() | {"clean_up": path})


def test_its_deliveries_have_ids_of_their_own() -> None:
    assert len({pin_of(ID), pointer_of(ID), pin_of(UUID(int=8)), ID}) == 4
