from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from domain import product as module
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.product import (
    AddImage,
    ArchiveProduct,
    Product,
    ProductArchived,
    ProductImageAdded,
    ProductImageRemoved,
    ProductRegistered,
    ProductUpdated,
    RegisterProduct,
    RemoveImage,
    UpdateProduct,
    product_id_of,
)
from tests.unit.domain.given import given

IMAGE, OTHER = "ab" * 32, "cd" * 32
FIELDS: dict[str, Any] = {
    "product_id": "C3M0016120K",
    "device_type": "SiC-MOSFET",
    "manufacturer": "Wolfspeed",
    "part_number": "C3M0016120K",
    "package": "TO-247-4",
}


def fields(change: dict[str, Any]) -> dict[str, Any]:
    return FIELDS | change


REGISTER = RegisterProduct(**FIELDS)
REGISTERED = ProductRegistered(**FIELDS)
ADD = AddImage(product_id="C3M0016120K", graph_image_id=IMAGE)
ADDED = ProductImageAdded(product_id="C3M0016120K", graph_image_id=IMAGE)
ARCHIVED = ProductArchived(product_id="C3M0016120K", reason="obsolete")


@pytest.mark.parametrize(
    ("written", "id_"),
    [
        ("C3M0016120K", "C3M0016120K"),
        (" c3m0016120k ", "C3M0016120K"),
        ("IRF540N/PBF", "IRF540N-PBF"),
        ("irf540n  pbf", "IRF540N-PBF"),
        ("(BSC-010)", "BSC-010"),
        ("Ｃ３Ｍ", "C3M"),  # as some typewriters have them
    ],
)
def test_all_ways_of_writing_a_part_number_have_one_id(written: str, id_: str) -> None:
    assert product_id_of(written) == id_


@examples(st.text(max_size=100))
def test_the_id_of_an_id_is_itself_and_fits_into_a_subject(text: str) -> None:
    try:
        id_ = product_id_of(text)
    except Refused:
        return
    assert product_id_of(id_) == id_
    RegisterProduct(**fields({"product_id": id_}))


def test_a_part_number_without_letter_or_digit_is_refused() -> None:
    with pytest.raises(Refused, match="no letter or digit"):
        product_id_of("--/ ")


def test_a_product_is_registered_once() -> None:
    given(module, Product()).when(REGISTER).then(REGISTERED)
    given(module, Product(), REGISTERED).when(REGISTER).then()
    given(module, Product(), REGISTERED, ADDED).when(REGISTER).then()
    other = REGISTER.model_copy(update={"manufacturer": "Cree", "part_number": "c3m 0016120k"})
    refused = given(module, Product(), REGISTERED).when(REGISTER.model_copy(update={"manufacturer": "Cree"}))
    refused.then_refused(AlreadyExists, match="C3M0016120K of Wolfspeed")
    given(module, Product(), REGISTERED).when(other).then_refused(Refused, match="C3M-0016120K")


def test_an_id_that_does_not_follow_from_the_part_number_is_refused() -> None:
    wrong = REGISTER.model_copy(update={"product_id": "anything"})
    given(module, Product()).when(wrong).then_refused(Refused, match="C3M0016120K, not anything")


def test_a_device_type_that_nobody_knows_is_not_valid() -> None:
    with pytest.raises(ValidationError):
        RegisterProduct(**fields({"device_type": "vacuum tube"}))


def test_an_update_changes_what_is_given() -> None:
    update = UpdateProduct(product_id="C3M0016120K", package="TO-263-7")
    after = ProductUpdated(**fields({"package": "TO-263-7", "description": ""}))
    given(module, Product(), REGISTERED).when(update).then(after)
    given(module, Product(), REGISTERED, after).when(update).then()


def test_a_part_number_can_be_written_otherwise_but_not_become_another() -> None:
    same = UpdateProduct(product_id="C3M0016120K", part_number="c3m0016120k")
    (event,) = given(module, Product(), REGISTERED).when(same).events()
    assert isinstance(event, ProductUpdated) and event.part_number == "c3m0016120k"
    other = UpdateProduct(product_id="C3M0016120K", part_number="C3M0021120K")
    given(module, Product(), REGISTERED).when(other).then_refused(Refused, match="belongs to the product id")


def test_an_image_is_added_and_removed_once() -> None:
    given(module, Product(), REGISTERED).when(ADD).then(ADDED)
    given(module, Product(), REGISTERED, ADDED).when(ADD).then()
    remove = RemoveImage(product_id="C3M0016120K", graph_image_id=IMAGE)
    removed = ProductImageRemoved(product_id="C3M0016120K", graph_image_id=IMAGE)
    given(module, Product(), REGISTERED, ADDED).when(remove).then(removed)
    given(module, Product(), REGISTERED).when(remove).then()
    added = ProductImageAdded(product_id="C3M0016120K", graph_image_id=OTHER)
    assert given(module, Product(), REGISTERED, ADDED, added, removed).state.images == (OTHER,)


def test_an_archived_product_changes_no_more() -> None:
    given(module, Product(), REGISTERED).when(ArchiveProduct(product_id="C3M0016120K", reason="obsolete")).then(
        ARCHIVED
    )
    archived = given(module, Product(), REGISTERED, ARCHIVED)
    archived.when(ADD).then_refused(WrongState, match="archived")
    archived.when(ArchiveProduct(product_id="C3M0016120K")).then()


@pytest.mark.parametrize("command", [ADD, UpdateProduct(product_id="X"), ArchiveProduct(product_id="X")])
def test_what_was_never_registered_is_not_found(command: Any) -> None:
    given(module, Product()).when(command).then_refused(NotFound, match="register it first")
