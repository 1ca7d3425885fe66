"""The SPICE models of the products, version by version."""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.spice_model import FitCancelled, FitFailed, FitRequested, FitStarted, Fitted

versions = Table(
    "versions",
    key=("fit_id",),
    columns=(
        Column("fit_id", "uuid", "The fit, and its job."),
        Column("spice_model_id", "text", "The product."),
        Column("version", "integer", "Its number, from 1."),
        Column("state", "text", "waiting, running, fitted, failed or cancelled."),
        Column("extraction_ids", "uuid[]", "The extractions that went in."),
        Column("batch_id", "uuid", "The batch it belongs to."),
        Column("attempt", "integer", "The newest attempt, from 1; 0 before the first."),
        Column("form", "text", "The form that was chosen."),
        Column("parameters", "jsonb", "Name, value and unit of each parameter."),
        Column("library", "text", "SHA-256 of the .lib."),
        Column("report", "text", "SHA-256 of the report (JSON)."),
        Column("plot", "text", "SHA-256 of the picture of model and curves."),
        Column(
            "grade",
            "text",
            "good, acceptable, poor, unchecked (not simulated) or suspect (the curves contradict physics).",
        ),
        Column("simulated", "boolean", "The figures are those of the simulated netlist."),
        Column("simulator_check", "text", "Which simulator, or why none."),
        Column("nrmse", "double precision", "Rms error of the currents as a share of the largest."),
        Column("mare", "double precision", "Mean relative error where the current is above 5 % of its maximum."),
        Column("capacitance_decades", "jsonb", "Rms error of each capacitance, in decades."),
        Column("findings", "text[]", "What the fit had to say."),
        Column("validity", "jsonb", "The range of the curves that it was made from, by quantity."),
        Column("error", "text", "Why it failed or was cancelled."),
        Column("duration_s", "double precision", "How long the fit took, s."),
        Column("requested_at", "timestamptz", "When it was requested."),
        Column("ended_at", "timestamptz", "When it ended; NULL while it has not."),
    ),
    indexes=(("spice_model_id", "version"),),
)

_DOC = {c.name: c.doc for c in versions.columns}

projection = Projection(
    "spice_models",
    version=1,
    tables=[versions],
    views=[
        View("spice_model_versions", "One row for each version of a model.", "select * from {schema}.versions", _DOC),
        View(
            "spice_models",
            "One row a product that has a model: its newest fitted version.",
            "select distinct on (spice_model_id) * from {schema}.versions where state = 'fitted'"
            " order by spice_model_id, version desc",
            _DOC,
        ),
    ],
)


@projection.on(FitRequested)
def requested(event: FitRequested, stored: Stored, rows: Rows) -> None:
    rows.put(
        versions,
        {
            "fit_id": event.fit_id,
            "spice_model_id": event.spice_model_id,
            "version": event.version,
            "state": "waiting",
            "extraction_ids": [str(one) for one in event.extraction_ids],
            "batch_id": event.batch_id,
            "attempt": 0,
            "error": "",
            "requested_at": stored.time,
        },
    )


@projection.on(FitStarted, Fitted, FitFailed, FitCancelled)
def changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(versions, event.fit_id)
    if row is None:
        return
    match event:
        case FitStarted():
            row |= {"state": "running", "attempt": event.attempt, "error": "", "ended_at": None}
        case Fitted(result=result):
            told = result.model_dump(mode="json")
            told["simulator_check"] = told.pop("check")
            row |= told | {"state": "fitted", "duration_s": event.duration_s, "ended_at": stored.time}
        case FitFailed():
            row |= {"state": "failed", "error": event.error, "ended_at": stored.time}
        case FitCancelled():
            row |= {"state": "cancelled", "error": event.reason, "ended_at": stored.time}
        case _:
            raise TypeError(f"{event} is no change of a model")
