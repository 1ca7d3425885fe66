from typing import Any

import pytest
from pydantic import ValidationError

from domain import sample as module
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.events import COMMANDS
from domain.sample import (
    ArchiveSample,
    RegisterSample,
    Sample,
    SampleArchived,
    SampleRegistered,
    SampleTagged,
    SampleUntagged,
    SampleUpdated,
    TagSample,
    UntagSample,
    UpdateSample,
)
from tests.unit.domain.given import given

IMAGE = "ab" * 32
REGISTER = RegisterSample(
    sample_id="W7-3", material="MoS2", tags=("flake", "2D"), image=IMAGE, description="thin", parent="W7"
)
REGISTERED = SampleRegistered(
    sample_id="W7-3", material="MoS2", tags=("flake", "2D"), image=IMAGE, description="thin", parent="W7"
)
ARCHIVE = ArchiveSample(sample_id="W7-3", reason="broken")
ARCHIVED = SampleArchived(sample_id="W7-3", reason="broken")
TAG = TagSample(sample_id="W7-3", tags=("2D", "annealed", "annealed"))
UNTAG = UntagSample(sample_id="W7-3", tags=("flake", "thick", "flake"))


def test_a_sample_is_registered_once() -> None:
    given(module, Sample()).when(REGISTER).then(REGISTERED)
    given(module, Sample(), REGISTERED).when(REGISTER).then()
    other = REGISTER.model_copy(update={"material": "WSe2"})
    given(module, Sample(), REGISTERED).when(other).then_refused(AlreadyExists, match="update it")


def test_a_tag_given_twice_counts_once() -> None:
    twice = REGISTER.model_copy(update={"tags": ("flake", "2D", "flake")})
    given(module, Sample()).when(twice).then(REGISTERED)


@pytest.mark.parametrize("command", [UpdateSample(sample_id="W7-3", material="WSe2"), TAG, UNTAG, ARCHIVE])
def test_a_sample_never_registered_is_not_found(command: Any) -> None:
    given(module, Sample()).when(command).then_refused(NotFound, match="register it first")


def test_an_update_changes_only_what_is_given() -> None:
    given(module, Sample(), REGISTERED).when(UpdateSample(sample_id="W7-3", description="thick")).then(
        SampleUpdated(sample_id="W7-3", material="MoS2", image=IMAGE, description="thick", parent="W7")
    )
    given(module, Sample(), REGISTERED).when(UpdateSample(sample_id="W7-3", material="MoS2")).then()


def test_an_image_given_as_null_is_taken_away() -> None:
    update = UpdateSample.model_validate_json('{"sample_id": "W7-3", "image": null, "parent": null}')
    given(module, Sample(), REGISTERED).when(update).then(
        SampleUpdated(sample_id="W7-3", material="MoS2", image=None, description="thin", parent=None)
    )


def test_tagging_tells_only_what_is_new() -> None:
    tagged = SampleTagged(sample_id="W7-3", tags=("annealed",))
    sample = given(module, Sample(), REGISTERED).when(TAG).then(tagged)
    assert sample.tags == ("flake", "2D", "annealed")
    given(module, Sample(), REGISTERED, tagged).when(TAG).then()


def test_untagging_tells_only_what_was_there() -> None:
    untagged = SampleUntagged(sample_id="W7-3", tags=("flake",))
    sample = given(module, Sample(), REGISTERED).when(UNTAG).then(untagged)
    assert sample.tags == ("2D",)
    given(module, Sample(), REGISTERED, untagged).when(UNTAG).then()


def test_an_archived_sample_changes_no_more() -> None:
    given(module, Sample(), REGISTERED).when(ARCHIVE).then(ARCHIVED)
    given(module, Sample(), REGISTERED, ARCHIVED).when(ARCHIVE).then()
    for command in (TAG, UNTAG, UpdateSample(sample_id="W7-3", material="WSe2")):
        given(module, Sample(), REGISTERED, ARCHIVED).when(command).then_refused(WrongState, match="register a new one")


def test_a_sample_is_not_its_own_parent() -> None:
    own = REGISTER.model_copy(update={"parent": "W7-3"})
    given(module, Sample()).when(own).then_refused(Refused, match="made from")
    update = UpdateSample(sample_id="W7-3", parent="W7-3")
    given(module, Sample(), REGISTERED).when(update).then_refused(Refused, match="made from")


@pytest.mark.parametrize("field", [{"image": "AB" * 32}, {"image": "ab"}, {"tags": [" "]}, {"sample_id": "W7.3"}])
def test_a_sample_that_makes_no_sense_is_invalid(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegisterSample.model_validate(REGISTER.model_dump() | field)


def test_the_commands_from_outside() -> None:
    assert {name for name in COMMANDS if name.startswith("sample.")} == {
        "sample.register",
        "sample.update",
        "sample.tag",
        "sample.untag",
        "sample.archive",
    }
    assert TAG.aggregate_id == "W7-3"
