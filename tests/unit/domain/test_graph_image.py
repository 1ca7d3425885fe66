from typing import Any
from uuid import UUID

import pytest

from domain import graph_image as module
from domain.errors import NotFound, OutOfLimits, WrongState
from domain.extraction import ExtractOnUpload
from domain.graph_image import (
    AttachGraphImage,
    DescribeGraphImage,
    DetachGraphImage,
    GraphImage,
    GraphImageAttached,
    GraphImageDescribed,
    GraphImageDetached,
    GraphImageExtracted,
    GraphImageRegistered,
    GraphImageRejected,
    NoteExtracted,
    RegisterGraphImage,
    RejectGraphImage,
)
from tests.unit.domain.given import given

ID = "ab" * 32
FIRST, SECOND = UUID(int=1), UUID(int=2)
FIELDS: dict[str, Any] = {
    "graph_image_id": ID,
    "media_type": "image/png",
    "size_bytes": 4000,
    "width": 640,
    "height": 480,
    "file_name": "fig3.png",
}
REGISTER = RegisterGraphImage(**FIELDS)
REGISTERED = GraphImageRegistered(**FIELDS)
ATTACHED = GraphImageAttached(graph_image_id=ID, product_id="GS66506T")
REJECTED = GraphImageRejected(graph_image_id=ID, reason="it is a text")


def test_the_same_file_is_one_image() -> None:
    given(module, GraphImage()).when(REGISTER).then(REGISTERED)
    given(module, GraphImage(), REGISTERED).when(REGISTER).then()


def test_an_image_that_is_there_is_attached_to_another_product() -> None:
    other = REGISTER.model_copy(update={"product_id": "GS66506T"})
    given(module, GraphImage()).when(other).then(REGISTERED, ATTACHED)
    given(module, GraphImage(), REGISTERED).when(other).then(ATTACHED)
    given(module, GraphImage(), REGISTERED, ATTACHED).when(other).then()


def test_the_order_to_extract_is_no_part_of_what_the_image_is() -> None:
    order = REGISTER.model_copy(update={"extract": ExtractOnUpload(extraction_id=FIRST)})
    given(module, GraphImage()).when(order).then(REGISTERED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 20_000, "height": 20_000}, "20000 x 20000 pixels; at most 60,000,000"),
        ({"width": 1, "height": 1}, "only 1 x 1"),
        ({"width": 5000, "height": 39}, "at least 40"),
        ({"size_bytes": 100_000_001}, "100,000,001 bytes"),
        ({"media_type": "application/pdf", "width": 0, "height": 0, "pages": 2001}, "2001 pages"),
    ],
)
def test_what_is_too_large_or_too_small_is_refused(change: dict[str, Any], words: str) -> None:
    given(module, GraphImage()).when(RegisterGraphImage(**FIELDS | change)).then_refused(OutOfLimits, match=words)


def test_a_pdf_has_pages_and_no_pixels() -> None:
    pdf = RegisterGraphImage(**FIELDS | {"media_type": "application/pdf", "width": 0, "height": 0, "pages": 12})
    assert given(module, GraphImage()).when(pdf).events()[0] == GraphImageRegistered(
        **FIELDS | {"media_type": "application/pdf", "width": 0, "height": 0, "pages": 12}
    )


def test_a_description_changes_what_is_given() -> None:
    command = DescribeGraphImage(graph_image_id=ID, chart="transfer", vds_v=20.0)
    described = GraphImageDescribed(
        graph_image_id=ID, description="", chart="transfer", tj_c=None, vds_v=20.0, vgs_v=None
    )
    given(module, GraphImage(), REGISTERED).when(command).then(described)
    given(module, GraphImage(), REGISTERED, described).when(command).then()
    away = DescribeGraphImage(graph_image_id=ID, vds_v=None)
    (event,) = given(module, GraphImage(), REGISTERED, described).when(away).events()
    assert isinstance(event, GraphImageDescribed) and event.vds_v is None and event.chart == "transfer"


def test_an_image_is_attached_and_detached_once() -> None:
    attach = AttachGraphImage(graph_image_id=ID, product_id="GS66506T")
    detach = DetachGraphImage(graph_image_id=ID, product_id="GS66506T")
    given(module, GraphImage(), REGISTERED).when(attach).then(ATTACHED)
    given(module, GraphImage(), REGISTERED, ATTACHED).when(attach).then()
    detached = GraphImageDetached(graph_image_id=ID, product_id="GS66506T")
    given(module, GraphImage(), REGISTERED, ATTACHED).when(detach).then(detached)
    given(module, GraphImage(), REGISTERED).when(detach).then()


def test_the_newest_extraction_of_a_part_takes_the_place_of_the_one_before() -> None:
    def extracted(id_: UUID, part: str = "") -> GraphImageExtracted:
        return GraphImageExtracted(graph_image_id=ID, extraction_id=id_, part=part, confidence=0.9)

    def note(id_: UUID, part: str = "") -> NoteExtracted:
        return NoteExtracted(graph_image_id=ID, extraction_id=id_, part=part, confidence=0.9)

    given(module, GraphImage(), REGISTERED).when(note(FIRST)).then(extracted(FIRST))
    given(module, GraphImage(), REGISTERED, extracted(FIRST)).when(note(FIRST)).then()
    both = given(module, GraphImage(), REGISTERED, extracted(FIRST), extracted(SECOND)).state
    assert both.extractions == {"": SECOND}
    parts = given(module, GraphImage(), REGISTERED, extracted(FIRST), extracted(SECOND, "page 2")).state
    assert parts.extractions == {"": FIRST, "page 2": SECOND}


def test_a_rejected_image_is_of_no_use_any_more() -> None:
    reject = RejectGraphImage(graph_image_id=ID, reason="it is a text")
    given(module, GraphImage(), REGISTERED).when(reject).then(REJECTED)
    rejected = given(module, GraphImage(), REGISTERED, REJECTED)
    rejected.when(reject).then()
    rejected.when(REGISTER).then_refused(WrongState, match="it is a text")
    rejected.when(AttachGraphImage(graph_image_id=ID, product_id="GS66506T")).then_refused(WrongState)


def test_an_image_that_was_never_registered_is_not_found() -> None:
    attach = AttachGraphImage(graph_image_id=ID, product_id="GS66506T")
    given(module, GraphImage()).when(attach).then_refused(NotFound, match="images add")
