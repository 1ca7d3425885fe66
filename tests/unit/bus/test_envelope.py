"""The envelope: what the hash covers, and what stands in headers."""

from datetime import UTC, datetime

import pytest

from bus.envelope import HASHED, Head, Meta, Stored, quoted, seal
from bus.ids import uuid7

FIRST = Head()
META = Meta(causation="c", correlation="k", actor="Jürgen, 50 %", source="s", traceparent="00-ab-cd-01")


def stored(head: Head = FIRST, body: bytes = b'{"a":1}') -> Stored:
    headers, _ = seal("evt.scan.1", "scan.started.v1", body, head, META, "c:0")
    return Stored(head.seq + 1, "evt.scan.1", headers, body, datetime.now(UTC))


def test_headers_are_ascii_and_come_back_as_they_were() -> None:
    event = stored()
    assert all(value.isascii() for value in event.headers.values())
    assert (event.actor, event.causation, event.correlation, event.message_id) == ("Jürgen, 50 %", "c", "k", "c:0")
    assert (event.kind, event.id, event.type, event.version) == ("scan", "1", "scan.started.v1", 1)
    assert event.time.tzinfo is not None


@pytest.mark.parametrize("name", HASHED)
def test_an_altered_attribute_is_noticed(name: str) -> None:
    event = stored()
    altered = Stored(1, event.subject, {**event.headers, name: event.headers[name] + "x"}, event.data, event.stored_at)
    assert altered.wrong(None) == "its content does not match its hash"
    assert event.wrong(Head()) is None


def test_an_altered_body_a_moved_event_and_a_broken_chain_are_noticed() -> None:
    first = stored()
    second = stored(first.head)
    assert second.wrong(first.head) is None
    assert Stored(1, "evt.scan.1", first.headers, b"{}", first.stored_at).wrong(Head())
    assert Stored(1, "evt.scan.2", first.headers, first.data, first.stored_at).wrong(Head())
    assert second.wrong(Head()) == "it is number 2 of its aggregate, expected 1"
    assert "another one" in (second.wrong(Head(1, 1, "other")) or "")


def test_what_an_event_causes_names_it_and_keeps_the_flow() -> None:
    event = stored()
    meta = event.follows().step("deliver")
    assert (meta.causation, meta.correlation, meta.message_key) == (event.event_id, "k", f"{event.event_id}.deliver")


def test_line_breaks_cannot_smuggle_in_a_header() -> None:
    assert "\n" not in quoted("a\r\nNats-Msg-Id: 7") and "\r" not in quoted("a\r\nb")


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    from uuid import UUID

    ids = [uuid7() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert {(UUID(one).version, UUID(one).variant) for one in ids} == {(7, UUID(ids[0]).variant)}
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)
