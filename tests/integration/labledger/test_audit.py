"""Altered history is found, and the first altered event is named."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bus.envelope import Head, Meta, Stored, seal
from domain.events import encode
from domain.sample import SampleRegistered, SampleTagged
from labledger.audit import Seal, Verifier
from labledger.audit import seal as take_seal


def written(count: int) -> list[Stored]:
    """A true history: two samples, tagged again and again."""
    heads: dict[str, Head] = {}
    history: list[Stored] = []
    for seq in range(1, count + 1):
        sample = "AB"[seq % 2]
        subject = f"evt.sample.{sample}"
        head = heads.get(subject, Head())
        event = (
            SampleTagged(sample_id=sample, tags=(f"t{seq}",))
            if head.seq
            else SampleRegistered(sample_id=sample, material="Si")
        )
        body = encode(event)
        headers, hash_ = seal(subject, event.TYPE, body, head, Meta.new("someone"), f"m{seq}:0")
        heads[subject] = Head(seq, head.version + 1, hash_)
        history.append(Stored(seq, subject, headers, body, datetime.now(UTC)))
    return history


def verified(history: list[Stored], seals: list[Seal] | None = None):
    verifier = Verifier(seals)
    for stored in history:
        finding = verifier.take(stored)
        if finding is not None:
            return verifier.report(finding)
    return verifier.report(None)


def resealed(stored: Stored, body: bytes, head: Head) -> Stored:
    """The event with another body and a hash that fits it: what a careful forger writes."""
    headers, _ = seal(stored.subject, stored.type, body, head, Meta.new("forger"), stored.message_id)
    return replace(stored, headers=headers, data=body)


def test_a_true_history_verifies() -> None:
    report = verified(written(20))
    assert report.ok
    assert (report.events, report.aggregates, report.sequence) == (20, 2, 20)


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_changed_body_is_named(at: int) -> None:
    history = written(20)
    history[at - 1] = replace(history[at - 1], data=history[at - 1].data.replace(b"t", b"T", 1))
    report = verified(history)
    assert report.finding is not None
    assert report.finding.sequence == at


@pytest.mark.parametrize("header", ["ce-actor", "ce-time", "ce-type", "ce-causationid", "ce-id", "ce-aggregateversion"])
def test_a_changed_attribute_is_named(header: str) -> None:
    history = written(9)
    history[4] = replace(history[4], headers={**history[4].headers, header: "9"})
    report = verified(history)
    assert report.finding is not None
    assert report.finding.sequence == 5


def test_an_event_rewritten_with_a_fitting_hash_is_named_by_the_event_after_it() -> None:
    history = written(20)
    head = history[4].head  # the event before it of the same sample
    history[6] = resealed(history[6], history[6].data.replace(b"t7", b"t8"), head)
    report = verified(history)
    assert report.finding is not None
    assert report.finding.sequence == 7


def test_the_last_event_rewritten_with_a_fitting_hash_is_found_by_a_seal() -> None:
    history = written(20)
    kept = take_seal(verified(history))
    history[19] = resealed(history[19], history[19].data.replace(b"t20", b"t21"), history[17].head)
    assert verified(history).ok, "nothing in the stream itself can tell"
    report = verified(history, [kept])
    assert report.finding is not None
    assert report.finding.sequence == 20


def test_a_missing_event_is_named() -> None:
    history = written(20)
    del history[10]
    report = verified(history)
    assert report.finding is not None
    assert report.finding.sequence == 11


def test_a_stream_cut_short_is_found_by_a_seal() -> None:
    history = written(20)
    kept = take_seal(verified(history))
    report = verified(history[:15], [kept])
    assert report.finding is not None
    assert "sealed at 20" in report.finding.what


def test_a_seal_of_a_shorter_history_still_holds() -> None:
    history = written(20)
    kept = take_seal(verified(history[:12]))
    report = verified(history, [kept])
    assert report.ok
    assert report.seals == 1


def test_a_wrong_history_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="cannot be sealed"):
        take_seal(verified(written(3)[1:]))
