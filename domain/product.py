"""A semiconductor device of a maker's catalogue, whose curves are read and modelled.

registered --> updated, images added and removed ... --> archived (kept for ever, changed no more)

A part number stands for one product. The stream keeps that itself: the id *is* the part number, reduced to what all ways
of writing it share (`product_id_of`), so a second product of the same part number would have to begin the same history.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never

from pydantic import Field, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.events import Command, Event, Id
from domain.sample import Sha256, Text

DeviceType = Literal[
    "GaN-HEMT", "SiC-MOSFET", "Si-MOSFET", "SiC-JFET", "IGBT", "BJT", "diode", "Schottky-diode", "SiC-diode", "other"
]
PartNumber = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
Name = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]


def product_id_of(part_number: str) -> str:
    """The id of a part number: upper case, and each run of anything but letters and digits is one hyphen.

    `c3m 0016120k` and `C3M-0016120K` are the same. Raises `Refused` when nothing is left.
    """
    plain = unicodedata.normalize("NFKD", part_number).upper()
    found = re.sub(r"[^A-Z0-9]+", "-", plain).strip("-")[:64].strip("-")
    if not found:
        raise Refused(f"the part number {part_number!r} has no letter or digit; give it as the data sheet has it")
    return found


class ProductRegistered(Event, name="product.registered"):
    """The product is in the books, under the id that follows from its part number."""

    product_id: Id
    device_type: DeviceType
    manufacturer: Name
    part_number: PartNumber
    package: Name = ""
    description: Text = ""


class ProductUpdated(Event, name="product.updated"):
    """Its entry as it is from now on."""

    product_id: Id
    device_type: DeviceType
    manufacturer: Name
    part_number: PartNumber
    package: Name
    description: Text


class ProductImageAdded(Event, name="product.image_added"):
    """The image shows curves of this product."""

    product_id: Id
    graph_image_id: Sha256


class ProductImageRemoved(Event, name="product.image_removed"):
    """The image shows none of its curves after all."""

    product_id: Id
    graph_image_id: Sha256


class ProductArchived(Event, name="product.archived"):
    """It is kept, but changed no more."""

    product_id: Id
    reason: str


ProductEvent = ProductRegistered | ProductUpdated | ProductImageAdded | ProductImageRemoved | ProductArchived


class RegisterProduct(Command, name="product.register"):
    """Enter a product. `product_id` is the part number in upper case, with one hyphen for each run of other characters."""

    product_id: Id
    device_type: DeviceType
    manufacturer: Name
    part_number: PartNumber
    package: Name = ""
    description: Text = ""


class UpdateProduct(Command, name="product.update"):
    """Fields that are not given stay as they are. The part number can be written otherwise, but not be another."""

    product_id: Id
    device_type: DeviceType = "other"
    manufacturer: Name = ""
    part_number: PartNumber = "-"
    package: Name = ""
    description: Text = ""


class ArchiveProduct(Command, name="product.archive"):
    """Keep a product for ever, and change it no more."""

    product_id: Id
    reason: Annotated[str, Field(max_length=2000)] = ""


class AddImage(Command):
    product_id: Id
    graph_image_id: Sha256


class RemoveImage(Command):
    product_id: Id
    graph_image_id: Sha256


ProductCommand = RegisterProduct | UpdateProduct | ArchiveProduct | AddImage | RemoveImage


@dataclass(frozen=True)
class Product:
    registered: bool = False
    archived: bool = False
    device_type: DeviceType = "other"
    manufacturer: str = ""
    part_number: str = ""
    package: str = ""
    description: str = ""
    #: The images that show its curves, in the order in which they came.
    images: tuple[str, ...] = ()


def decide(product: Product, command: ProductCommand) -> list[ProductEvent]:
    """Raises `AlreadyExists`, `NotFound`, `WrongState` (archived), `Refused` (id and part number disagree)."""
    product_id = command.product_id
    if isinstance(command, RegisterProduct):
        return _register(product, command)
    if not product.registered:
        raise NotFound(f"there is no product {product_id}; register it first")
    if isinstance(command, ArchiveProduct):
        return [] if product.archived else [ProductArchived(product_id=product_id, reason=command.reason)]
    if product.archived:
        raise WrongState(f"product {product_id} is archived and changes no more")
    match command:
        case UpdateProduct():
            given = command.model_fields_set
            if "part_number" in given:
                _must_fit(product_id, command.part_number)
            event = ProductUpdated(
                product_id=product_id,
                device_type=command.device_type if "device_type" in given else product.device_type,
                manufacturer=command.manufacturer if "manufacturer" in given else product.manufacturer,
                part_number=command.part_number if "part_number" in given else product.part_number,
                package=command.package if "package" in given else product.package,
                description=command.description if "description" in given else product.description,
            )
            return [] if evolve(product, event) == product else [event]
        case AddImage(graph_image_id=image):
            if image in product.images:
                return []
            return [ProductImageAdded(product_id=product_id, graph_image_id=image)]
        case RemoveImage(graph_image_id=image):
            if image not in product.images:
                return []
            return [ProductImageRemoved(product_id=product_id, graph_image_id=image)]
    assert_never(command)


def _register(product: Product, command: RegisterProduct) -> list[ProductEvent]:
    _must_fit(command.product_id, command.part_number)
    event = ProductRegistered.model_validate(command.model_dump())
    if not product.registered:
        return [event]
    if replace(evolve(Product(), event), images=product.images) == product:
        return []
    raise AlreadyExists(
        f"part number {command.part_number} is registered already, as {product.part_number} of "
        f"{product.manufacturer or 'an unnamed maker'}; update that product instead"
    )


def _must_fit(product_id: str, part_number: str) -> None:
    wanted = product_id_of(part_number)
    if product_id != wanted:
        raise Refused(
            f"the part number {part_number} belongs to the product id {wanted}, not {product_id}; use that id"
        )


def evolve(product: Product, event: ProductEvent) -> Product:
    match event:
        case ProductRegistered() | ProductUpdated():
            return replace(
                product,
                registered=True,
                device_type=event.device_type,
                manufacturer=event.manufacturer,
                part_number=event.part_number,
                package=event.package,
                description=event.description,
            )
        case ProductImageAdded(graph_image_id=image):
            return replace(product, images=(*product.images, image))
        case ProductImageRemoved(graph_image_id=image):
            return replace(product, images=tuple(one for one in product.images if one != image))
        case ProductArchived():
            return replace(product, archived=True)
    assert_never(event)


aggregate = Aggregate(kind="product", initial=Product(), decide=decide, evolve=evolve)
