"""A picture of one or more plots: a scan, a figure, a page or a whole data sheet as PDF.

registered --> described, attached to products, extracted ... --> rejected (its bytes are no picture after all)

Its id is the SHA-256 of its bytes, which lie in the blob store: the same file registered twice is one image. Who registers
has looked at its header (`labledger/picture_file.py`); a worker looks again before it decodes anything, since the command may
have come from anywhere, and rejects the image for good when it is not what was said.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, assert_never
from uuid import UUID

from pydantic import Field, FiniteFloat, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import NotFound, OutOfLimits, WrongState
from domain.events import Command, Event, Id
from domain.extraction import ExtractOnUpload
from domain.sample import Sha256, Text

MediaType = Literal["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/tiff", "application/pdf"]
#: What a chart shows: it tells the model fit what its curves are.
Chart = Literal["output", "transfer", "body_diode", "diode", "capacitance", "other"]
FileName = Annotated[str, StringConstraints(max_length=300)]

#: More is refused before a byte is decoded: a small file can unpack to many gigabytes.
MAX_PIXELS = 60_000_000
MAX_BYTES = 100_000_000
MAX_PAGES = 2000
#: A plot with fewer pixels each way has nothing to read.
MIN_SIDE = 40


class GraphImageRegistered(Event, name="graph_image.registered"):
    """Its bytes are in the blob store under its id. A PDF has pages, and the size in pixels is 0."""

    graph_image_id: Sha256
    media_type: MediaType
    size_bytes: int
    width: int
    height: int
    pages: int = 1
    file_name: FileName = ""
    description: Text = ""
    chart: Chart | None = None
    tj_c: float | None = None
    vds_v: float | None = None
    vgs_v: float | None = None


class GraphImageDescribed(Event, name="graph_image.described"):
    """What it shows, as it is known from now on. `tj_c`, `vds_v`, `vgs_v`: at which values its curves were measured."""

    graph_image_id: Sha256
    description: Text
    chart: Chart | None
    tj_c: float | None
    vds_v: float | None
    vgs_v: float | None


class GraphImageAttached(Event, name="graph_image.attached"):
    """It shows curves of this product."""

    graph_image_id: Sha256
    product_id: Id


class GraphImageDetached(Event, name="graph_image.detached"):
    """It shows none of this product's curves after all."""

    graph_image_id: Sha256
    product_id: Id


class GraphImageExtracted(Event, name="graph_image.extracted"):
    """An extraction of it was completed. `part` says of what, where the file has several charts."""

    graph_image_id: Sha256
    extraction_id: UUID
    part: str
    confidence: float


class GraphImageRejected(Event, name="graph_image.rejected"):
    """Its bytes are not a picture that may be decoded. Nothing more is done with it."""

    graph_image_id: Sha256
    reason: str


GraphImageEvent = (
    GraphImageRegistered
    | GraphImageDescribed
    | GraphImageAttached
    | GraphImageDetached
    | GraphImageExtracted
    | GraphImageRejected
)


class RegisterGraphImage(Command, name="graph_image.register"):
    """Enter an image whose bytes are in the blob store. One that is there already is attached to `product_id`, if given.

    With `extract` an extraction of it is requested in the same decision, as `extraction.request` does.
    """

    graph_image_id: Sha256
    media_type: MediaType
    size_bytes: int = Field(ge=1)
    width: int = Field(default=0, ge=0)
    height: int = Field(default=0, ge=0)
    pages: int = Field(default=1, ge=1)
    file_name: FileName = ""
    description: Text = ""
    chart: Chart | None = None
    tj_c: FiniteFloat | None = None
    vds_v: FiniteFloat | None = None
    vgs_v: FiniteFloat | None = None
    product_id: Id | None = None
    extract: ExtractOnUpload | None = None


class DescribeGraphImage(Command, name="graph_image.describe"):
    """Say what an image shows; what is not given stays as it is."""

    graph_image_id: Sha256
    description: Text = ""
    chart: Chart | None = None
    tj_c: FiniteFloat | None = None
    vds_v: FiniteFloat | None = None
    vgs_v: FiniteFloat | None = None


class AttachGraphImage(Command, name="graph_image.attach"):
    """Say that an image shows curves of a product."""

    graph_image_id: Sha256
    product_id: Id


class DetachGraphImage(Command, name="graph_image.detach"):
    """Say that an image shows none of a product's curves after all."""

    graph_image_id: Sha256
    product_id: Id


class NoteExtracted(Command):
    graph_image_id: Sha256
    extraction_id: UUID
    part: str
    confidence: float


class RejectGraphImage(Command):
    """A worker found that the bytes are no picture that may be decoded."""

    graph_image_id: Sha256
    reason: str


GraphImageCommand = (
    RegisterGraphImage | DescribeGraphImage | AttachGraphImage | DetachGraphImage | NoteExtracted | RejectGraphImage
)


@dataclass(frozen=True)
class GraphImage:
    """`extractions`: the newest completed extraction of each part (chart) of the file, in the order of completion."""

    registered: bool = False
    rejected: str | None = None
    media_type: str = ""
    size_bytes: int = 0
    width: int = 0
    height: int = 0
    pages: int = 1
    file_name: str = ""
    description: str = ""
    chart: Chart | None = None
    tj_c: float | None = None
    vds_v: float | None = None
    vgs_v: float | None = None
    products: tuple[str, ...] = ()
    extractions: dict[str, UUID] = field(default_factory=dict[str, UUID])

    @property
    def pixels(self) -> int:
        return self.width * self.height


def decide(image: GraphImage, command: GraphImageCommand) -> list[GraphImageEvent]:
    """Raises `NotFound`, `OutOfLimits` (too large or too small to be read), `WrongState` (rejected)."""
    image_id = command.graph_image_id
    if isinstance(command, RegisterGraphImage):
        return _register(image, command)
    if not image.registered:
        raise NotFound(f"there is no image {image_id}; register it first (labledger images add)")
    match command:
        case RejectGraphImage(reason=reason):
            return [] if image.rejected is not None else [GraphImageRejected(graph_image_id=image_id, reason=reason)]
        case NoteExtracted():
            if command.extraction_id in image.extractions.values():
                return []
            return [GraphImageExtracted.model_validate(command.model_dump())]
        case DetachGraphImage(product_id=product_id):
            if product_id not in image.products:
                return []
            return [GraphImageDetached(graph_image_id=image_id, product_id=product_id)]
        case AttachGraphImage(product_id=product_id):
            must_be_usable(image, image_id)
            if product_id in image.products:
                return []
            return [GraphImageAttached(graph_image_id=image_id, product_id=product_id)]
        case DescribeGraphImage():
            given = command.model_fields_set
            event = GraphImageDescribed(
                graph_image_id=image_id,
                description=command.description if "description" in given else image.description,
                chart=command.chart if "chart" in given else image.chart,
                tj_c=command.tj_c if "tj_c" in given else image.tj_c,
                vds_v=command.vds_v if "vds_v" in given else image.vds_v,
                vgs_v=command.vgs_v if "vgs_v" in given else image.vgs_v,
            )
            return [] if evolve(image, event) == image else [event]
    assert_never(command)


def must_be_usable(image: GraphImage, image_id: str) -> None:
    """Raises `NotFound`, or `WrongState` for an image that was rejected."""
    if not image.registered:
        raise NotFound(f"there is no image {image_id}; register it first (labledger images add)")
    if image.rejected is not None:
        raise WrongState(f"image {image_id} was rejected: {image.rejected}; register a file that is a picture")


def _register(image: GraphImage, command: RegisterGraphImage) -> list[GraphImageEvent]:
    image_id = command.graph_image_id
    events: list[GraphImageEvent] = []
    if image.registered:
        must_be_usable(image, image_id)
    else:
        _check_size(command)
        fields = command.model_dump(exclude={"product_id", "extract"})
        events.append(GraphImageRegistered.model_validate(fields))
    if command.product_id is not None and command.product_id not in image.products:
        events.append(GraphImageAttached(graph_image_id=image_id, product_id=command.product_id))
    return events


def _check_size(command: RegisterGraphImage) -> None:
    if command.size_bytes > MAX_BYTES:
        raise OutOfLimits(f"the file has {command.size_bytes:,} bytes; at most {MAX_BYTES:,} are taken")
    if command.media_type == "application/pdf":
        if command.pages > MAX_PAGES:
            raise OutOfLimits(f"the document has {command.pages} pages; at most {MAX_PAGES} are taken: cut it down")
        return
    size = f"{command.width} x {command.height} pixels"
    if command.width * command.height > MAX_PIXELS:
        raise OutOfLimits(f"the image has {size}; at most {MAX_PIXELS:,} are taken: make it smaller")
    if min(command.width, command.height) < MIN_SIDE:
        raise OutOfLimits(f"the image has only {size}; a plot needs at least {MIN_SIDE} each way")


def evolve(image: GraphImage, event: GraphImageEvent) -> GraphImage:
    match event:
        case GraphImageRegistered():
            return GraphImage(
                registered=True,
                media_type=event.media_type,
                size_bytes=event.size_bytes,
                width=event.width,
                height=event.height,
                pages=event.pages,
                file_name=event.file_name,
                description=event.description,
                chart=event.chart,
                tj_c=event.tj_c,
                vds_v=event.vds_v,
                vgs_v=event.vgs_v,
            )
        case GraphImageDescribed():
            return replace(
                image,
                description=event.description,
                chart=event.chart,
                tj_c=event.tj_c,
                vds_v=event.vds_v,
                vgs_v=event.vgs_v,
            )
        case GraphImageAttached(product_id=product_id):
            return replace(image, products=(*image.products, product_id))
        case GraphImageDetached(product_id=product_id):
            return replace(image, products=tuple(one for one in image.products if one != product_id))
        case GraphImageExtracted(part=part, extraction_id=extraction_id):
            others = {key: value for key, value in image.extractions.items() if key != part}
            return replace(image, extractions={**others, part: extraction_id})
        case GraphImageRejected(reason=reason):
            return replace(image, rejected=reason)
    assert_never(event)


aggregate = Aggregate(kind="graph_image", initial=GraphImage(), decide=decide, evolve=evolve)
