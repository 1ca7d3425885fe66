"""The table of publications says what each publication's own state says, however the batches fall."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from bus import postgres, projector
from bus.envelope import Head, Meta, Stored, seal
from domain import publication as module
from domain.events import encode
from domain.publication import (
    CancelPublication,
    NoteCleaned,
    NotePinned,
    NotePointed,
    Publication,
    RequestPublication,
    RetryPublication,
    StallPublication,
    pin_of,
    pointer_of,
)
from projections import named

WORDS: dict[str, Any] = {"sensor_type": "temperature", "interval": "daily"}


def request(id_: UUID, clean_up: str = "") -> RequestPublication:
    return RequestPublication(
        publication_id=id_, artifact="ab" * 32, ipfs_target="n", kv_target="k", metadata=WORDS, clean_up=clean_up
    )


def pinned(id_: UUID) -> NotePinned:
    return NotePinned(publication_id=id_, delivery_id=pin_of(id_), cid="bafy", location="ipfs://bafy")


def pointed(id_: UUID) -> NotePointed:
    return NotePointed(publication_id=id_, delivery_id=pointer_of(id_), superseded=True)


def stall(id_: UUID, step: module.Step) -> StallPublication:
    return StallPublication(publication_id=id_, step=step, reason="wrong token")


A, B, C, D = (UUID(int=n) for n in (1, 2, 3, 4))
LIVES: dict[UUID, list[module.PublicationCommand]] = {
    A: [
        request(A, "/plots/a.png"),
        stall(A, "pin"),
        RetryPublication(publication_id=A),
        pinned(A),
        pointed(A),
        stall(A, "clean_up"),
        RetryPublication(publication_id=A),
        NoteCleaned(publication_id=A, removed=True),
    ],
    B: [request(B), pinned(B), stall(B, "point")],
    C: [request(C), CancelPublication(publication_id=C, reason="wrong plot"), pinned(C)],
    D: [request(D), stall(D, "pin"), pinned(D), pointed(D)],
}


def history() -> tuple[dict[UUID, Publication], list[Stored]]:
    states, found = dict[UUID, Publication](), list[Stored]()
    for id_, commands in LIVES.items():
        state = Publication()
        for command in commands:
            for event in module.decide(state, command):
                state, n = module.evolve(state, event), len(found)
                body = encode(event)
                headers, _ = seal(f"evt.publication.{id_}", event.TYPE, body, Head(n, n, ""), Meta("c"), f"c:{n}")
                at = datetime(2026, 11, 20, 12, 0, n, tzinfo=UTC)
                found.append(Stored(n + 1, f"evt.publication.{id_}", headers, body, at))
        states[id_] = state
    return states, found


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_table_says_what_the_publications_say(postgres_url: str, size: int) -> None:
    states, events = history()
    async with await postgres.connect(postgres_url, "publications") as connection:
        await projector.prepare(connection)
        writer = await projector.new_generation(connection, named("publications"), live=True)
        for at in range(0, len(events), size):
            await writer.write(events[at : at + size])
        rows = await (await connection.execute("select * from labledger.publications")).fetchall()
    by_id = {row["publication_id"]: row for row in rows}
    assert set(by_id) == set(states)
    for id_, state in states.items():
        row = by_id[id_]
        assert (row["state"], row["step"], row["stalled"]) == (state.state, state.step, state.stalled is not None)
        assert (row["cid"] or "", row["superseded"] or False) == (state.cid, state.superseded)
        assert row["key"] == "temperature:daily:latest" and row["metadata"] == WORDS
    assert by_id[A]["completed_at"] and by_id[A]["clean_up"] == "/plots/a.png" and by_id[A]["reason"] is None
    assert by_id[B]["reason"] == "wrong token" and by_id[B]["pin_delivery_id"] == pin_of(B)
    assert by_id[C]["reason"] == "wrong plot" and by_id[C]["cid"] == "bafy"
    assert by_id[D]["pointer_delivery_id"] == pointer_of(D)
