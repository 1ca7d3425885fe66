"""labledger sample, equipment, station: the lab's books."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Session, command, pairs, parse_time

if TYPE_CHECKING:
    from labledger.client import Lab

Sample = Annotated[str, typer.Argument(metavar="SAMPLE", help="The sample's name.")]
Instrument = Annotated[str, typer.Argument(metavar="INSTRUMENT", help="The instrument's name.")]
Tags = Annotated[list[str], typer.Argument(metavar="TAG...")]
Reason = Annotated[str, typer.Option("--reason", help="For the history.")]


def register(app: typer.Typer) -> None:
    _samples(app)
    _equipment(app)
    _stations(app)


def _samples(app: typer.Typer) -> None:
    group = typer.Typer(help="Samples: what is measured.", no_args_is_help=True)
    app.add_typer(group, name="sample")

    @command(group, "register", example="labledger sample register W12-3 --material GaAs --tag batch-7")
    def _register(
        session: Session,
        sample_id: Sample,
        material: Annotated[str, typer.Option("--material", help="What it is made of.")],
        tags: Annotated[list[str] | None, typer.Option("--tag")] = None,
        description: Annotated[str | None, typer.Option("--description")] = None,
        parent: Annotated[str | None, typer.Option("--parent", help="The sample it was made from.")] = None,
        image: Annotated[str | None, typer.Option("--image", help="SHA-256 of a picture in the blob store.")] = None,
    ) -> None:
        """Enter a sample into the books."""

        async def register(lab: "Lab") -> None:
            done = await lab.samples.register(
                sample_id, material, tags=tags or [], description=description, parent=parent, image=image
            )
            session.outcome(done, f"sample {sample_id} is registered")

        session.run(register)

    @command(group, "update", example="labledger sample update W12-3 --description 'annealed at 450 C'")
    def _update(
        session: Session,
        sample_id: Sample,
        material: Annotated[str | None, typer.Option("--material")] = None,
        description: Annotated[str | None, typer.Option("--description")] = None,
        parent: Annotated[str | None, typer.Option("--parent")] = None,
        image: Annotated[str | None, typer.Option("--image")] = None,
    ) -> None:
        """Change a sample's entry; what is not given stays."""
        fields = {"material": material, "description": description, "parent": parent, "image": image}
        given = {name: value for name, value in fields.items() if value is not None}

        async def update(lab: "Lab") -> None:
            session.outcome(await lab.samples.update(sample_id, **given), f"sample {sample_id} is updated")

        session.run(update)

    @command(group, "tag", example="labledger sample tag W12-3 batch-7 annealed")
    def _tag(session: Session, sample_id: Sample, tags: Tags) -> None:
        """Add tags to a sample."""

        async def tag(lab: "Lab") -> None:
            session.outcome(await lab.samples.tag(sample_id, *tags), f"sample {sample_id} is tagged")

        session.run(tag)

    @command(group, "untag", example="labledger sample untag W12-3 batch-7")
    def _untag(session: Session, sample_id: Sample, tags: Tags) -> None:
        """Take tags off a sample."""

        async def untag(lab: "Lab") -> None:
            session.outcome(await lab.samples.untag(sample_id, *tags), f"sample {sample_id} is untagged")

        session.run(untag)

    @command(group, "archive", example="labledger sample archive W12-3 --reason broken")
    def _archive(session: Session, sample_id: Sample, reason: Reason = "") -> None:
        """Keep a sample for ever, and change it no more."""

        async def archive(lab: "Lab") -> None:
            session.outcome(await lab.samples.archive(sample_id, reason), f"sample {sample_id} is archived")

        session.run(archive)

    @command(group, "list", example="labledger sample list --tag batch-7")
    def _list(
        session: Session,
        tag: Annotated[str | None, typer.Option("--tag", help="Only those with this tag.")] = None,
        all_: Annotated[bool, typer.Option("--all", help="Archived ones too.")] = False,
    ) -> None:
        """All samples."""
        found = session.run(lambda lab: lab.samples.list())
        rows = [one for one in found if (all_ or not one["archived"]) and (tag is None or tag in one["tags"])]
        columns = {"sample_id": "sample", "material": "material", "tags": "tags", "parent": "from"}
        session.table(rows, columns | {"description": "description", "archived": "archived"}, empty="no samples")

    @command(group, "show", example="labledger sample show W12-3")
    def _show(session: Session, sample_id: Sample) -> None:
        """A sample's entry."""
        session.record(session.run(lambda lab: lab.samples.get(sample_id)), title=f"sample {sample_id}")


def _equipment(app: typer.Typer) -> None:
    group = typer.Typer(help="Equipment: the instruments as the lab owns them.", no_args_is_help=True)
    app.add_typer(group, name="equipment")

    @command(group, "list", example="labledger equipment list")
    def _list(session: Session) -> None:
        """All instruments in the books. A station enters its own when it starts."""
        found = session.run(lambda lab: lab.equipment.list())
        for one in found:
            calibration: dict[str, Any] = one["calibration"] or {}
            one |= {"calibrated": calibration.get("done_at"), "due": calibration.get("due_at")}
            one["state"] = one["status"] if one["silent"] is None else f"{one['status']}, does not answer"
        columns = {"equipment_id": "instrument", "kind": "kind", "state": "status", "driver": "driver"}
        columns |= {"address": "address", "identity": "answers as", "calibrated": "calibrated", "due": "due"}
        session.table(found, columns, empty="no equipment")

    @command(group, "show", example="labledger equipment show meter")
    def _show(session: Session, equipment_id: Instrument) -> None:
        """An instrument's entry."""
        session.record(session.run(lambda lab: lab.equipment.get(equipment_id)), title=f"equipment {equipment_id}")

    @command(group, "register", example="labledger equipment register meter --kind measurement --driver scpi")
    def _register(
        session: Session,
        equipment_id: Instrument,
        kind: Annotated[str, typer.Option("--kind", help="movement, measurement or both.")],
        driver: Annotated[str, typer.Option("--driver")],
        address: Annotated[str | None, typer.Option("--address")] = None,
        serial_number: Annotated[str | None, typer.Option("--serial-number")] = None,
        title: Annotated[str | None, typer.Option("--title")] = None,
        location: Annotated[str | None, typer.Option("--location")] = None,
    ) -> None:
        """Enter an instrument into the books before a station has it."""

        async def register(lab: "Lab") -> None:
            done = await lab.equipment.register(
                equipment_id,
                kind,
                driver,
                address=address,
                serial_number=serial_number,
                title=title,
                location=location,
            )
            session.outcome(done, f"equipment {equipment_id} is registered")

        session.run(register)

    @command(group, "update", example="labledger equipment update meter --serial-number 0597794 --location 'rack 2'")
    def _update(
        session: Session,
        equipment_id: Instrument,
        serial_number: Annotated[str | None, typer.Option("--serial-number")] = None,
        title: Annotated[str | None, typer.Option("--title")] = None,
        location: Annotated[str | None, typer.Option("--location")] = None,
        address: Annotated[str | None, typer.Option("--address")] = None,
        driver: Annotated[str | None, typer.Option("--driver")] = None,
        kind: Annotated[str | None, typer.Option("--kind")] = None,
    ) -> None:
        """Change an instrument's entry; what is not given stays."""
        fields: dict[str, Any] = {"serial_number": serial_number, "title": title, "location": location}
        fields |= {"address": address, "driver": driver, "kind": kind}

        async def update(lab: "Lab") -> None:
            session.outcome(await lab.equipment.update(equipment_id, **fields), f"equipment {equipment_id} is updated")

        session.run(update)

    @command(group, "calibrate", example="labledger equipment calibrate meter --due 2027-05-01 --certificate K-1234")
    def _calibrate(
        session: Session,
        equipment_id: Instrument,
        by: Annotated[str | None, typer.Option("--by", help="Who did it. [default: you]")] = None,
        done: Annotated[str | None, typer.Option("--done", help="When. [default: now]")] = None,
        due: Annotated[str | None, typer.Option("--due", help="When the next is due.")] = None,
        certificate: Annotated[str, typer.Option("--certificate", help="Its number, or a document's SHA-256.")] = "",
        values: Annotated[list[str] | None, typer.Option("--value", metavar="NAME=VALUE", help="A result.")] = None,
    ) -> None:
        """Note a calibration."""

        async def calibrate(lab: "Lab") -> None:
            noted = await lab.equipment.calibrate(
                equipment_id,
                by=by,
                done_at=parse_time(done) if done else None,
                due_at=parse_time(due) if due else None,
                certificate=certificate,
                values=pairs(values or [], "--value"),
            )
            session.outcome(noted, f"the calibration of {equipment_id} is noted")

        session.run(calibrate)

    @command(group, "maintain", example="labledger equipment maintain stage 'new grease on the x axis'")
    def _maintain(
        session: Session,
        equipment_id: Instrument,
        note: Annotated[str, typer.Argument(help="What was done.")],
        by: Annotated[str | None, typer.Option("--by", help="Who did it. [default: you]")] = None,
        done: Annotated[str | None, typer.Option("--done", help="When. [default: now]")] = None,
    ) -> None:
        """Note maintenance that was done. The status is another thing (set-status)."""

        async def maintain(lab: "Lab") -> None:
            noted = await lab.equipment.maintain(equipment_id, note, by=by, done_at=parse_time(done) if done else None)
            session.outcome(noted, f"the maintenance of {equipment_id} is noted")

        session.run(maintain)

    @command(group, "set-status", example="labledger equipment set-status meter maintenance --reason 'in the workshop'")
    def _set_status(
        session: Session,
        equipment_id: Instrument,
        status: Annotated[str, typer.Argument(help="available, fault, maintenance or retired.")],
        reason: Reason = "",
    ) -> None:
        """Say whether an instrument may be used."""

        async def set_status(lab: "Lab") -> None:
            done = await lab.equipment.set_status(equipment_id, status, reason)
            session.outcome(done, f"equipment {equipment_id} is {status}")

        session.run(set_status)


def _stations(app: typer.Typer) -> None:
    group = typer.Typer(help="Stations: the processes that hold instruments.", no_args_is_help=True)
    app.add_typer(group, name="station")

    @command(group, "list", example="labledger station list")
    def _list(session: Session) -> None:
        """All stations that ever were up."""
        found = session.run(lambda lab: lab.stations.list())
        columns = {"station_id": "station", "state": "state", "host": "host", "pid": "process", "version": "version"}
        rows = [one | {"names": sorted(one["instruments"])} for one in found]
        session.table(rows, columns | {"names": "instruments", "stuck": "stuck"}, empty="no station was ever up")

    @command(group, "show", example="labledger station show bench")
    def _show(
        session: Session, station_id: Annotated[str, typer.Argument(metavar="STATION", help="The station's name.")]
    ) -> None:
        """A station, with the drivers of its instruments."""
        session.record(session.run(lambda lab: lab.stations.get(station_id)), title=f"station {station_id}")
