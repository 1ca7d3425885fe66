"""Publications under any orders and news, in any sequence: no step without the one before, and nothing done twice."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Refused
from domain.publication import (
    CancelPublication,
    NoteCleaned,
    NotePinned,
    NotePointed,
    Publication,
    PublicationCommand,
    PublicationEvent,
    RequestPublication,
    RetryPublication,
    StallPublication,
    decide,
    evolve,
    pin_of,
    pointer_of,
)

ID = UUID(int=1)
COMMANDS: list[PublicationCommand] = [
    *(
        RequestPublication(
            publication_id=ID, artifact="ab" * 32, ipfs_target="n", kv_target="k", key="k", clean_up=path
        )
        for path in ("", "/a.png")
    ),
    NotePinned(publication_id=ID, delivery_id=pin_of(ID), cid="bafy", location="ipfs://bafy"),
    NotePointed(publication_id=ID, delivery_id=pointer_of(ID), superseded=False),
    NoteCleaned(publication_id=ID, removed=True),
    *(StallPublication(publication_id=ID, step=step, reason="no") for step in ("pin", "point", "clean_up")),
    RetryPublication(publication_id=ID),
    CancelPublication(publication_id=ID),
]


def live(commands: list[PublicationCommand]) -> tuple[Publication, list[PublicationEvent]]:
    state, history = Publication(), list[PublicationEvent]()
    for command in commands:
        try:
            events = decide(state, command)
        except Refused:
            continue
        for event in events:
            state = evolve(state, event)
        history += events
        again = state
        if not isinstance(command, RetryPublication | StallPublication):  # these two may well be meant again
            try:
                assert decide(again, command) == [], "the same again changes nothing"
            except Refused:
                pass
    return state, history


@given(st.lists(st.sampled_from(COMMANDS), max_size=25))
def test_no_step_without_the_one_before_and_none_twice(commands: list[PublicationCommand]) -> None:
    state, history = live(commands)
    names = [event.NAME.removeprefix("publication.") for event in history]
    done = [name for name in names if name in ("requested", "pinned", "pointed", "cleaned", "completed")]
    clean_up = bool(state.requested and state.requested.clean_up)
    whole = ["requested", "pinned", "pointed", *(["cleaned"] if clean_up else []), "completed"]
    assert done == whole[: len(done)], "each step once, and in its order"
    if "completed" in names:
        assert names[-1] == "completed" and state.state == "completed" and state.step is None
    if state.stalled is not None:
        assert names[-1] == "stalled"


@given(st.lists(st.sampled_from(COMMANDS), max_size=15))
def test_from_wherever_it_stands_it_can_be_brought_to_its_end(commands: list[PublicationCommand]) -> None:
    state, _ = live([COMMANDS[0], *commands])
    rest = [
        RetryPublication(publication_id=ID),
        *(command for command in COMMANDS if isinstance(command, NotePinned | NotePointed | NoteCleaned)),
    ]
    for command in rest:
        try:
            for event in decide(state, command):
                state = evolve(state, event)
        except Refused:
            pass
    assert state.state == "completed"
