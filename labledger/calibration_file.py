"""A file with a calibration, as a person sends it back: read into what an extraction takes.

What `extractions show --calibration` prints, what `extract` writes as `calibration`, and a whole result of either will do: people
correct what they have at hand.
"""

import json
from typing import Any, cast

from pydantic import ValidationError

from domain.errors import OutOfLimits
from domain.extraction import Parameters

FORM = 'give {"x": {"scale": "linear", "points": [{"value": 0, "x_px": 91, "y_px": 489}, ...]}, "y": ...}'


def parameters_in(text: str) -> dict[str, Any]:
    """`Parameters` of an extraction as JSON: the calibration, and what else the file says. Raises `OutOfLimits` in words."""
    try:
        told: Any = json.loads(text)
    except ValueError as error:
        raise OutOfLimits(f"the calibration is no JSON ({error}); {FORM}") from None
    told = _within(_within(told, "result"), "calibration")
    given = dict(_mapping(told))
    if not {"x", "y"} <= set(given):
        raise OutOfLimits(f"the calibration has no x and y; {FORM}")
    calibration = {name: _axis(given.pop(name)) for name in ("x", "y", "y2") if given.get(name) is not None}
    given.pop("y2", None)
    parameters: dict[str, Any] = {"calibration": calibration}
    parameters |= {name: given[name] for name in ("page", "chart", "curves") if given.get(name) is not None}
    if given.get("count") is not None:
        parameters["curves"] = given["count"]
    if given.get("colours"):
        parameters["colours"] = [_colour(one) for one in given["colours"]]
    try:
        return Parameters.model_validate(parameters).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "calibration")
        raise OutOfLimits(f"the calibration cannot be used: {where}: {first['msg']}; {FORM}") from None


def _within(told: Any, name: str) -> Any:
    """What lies under a name, with page and chart of what lies around it."""
    outer = _mapping(told)
    inner = _mapping(outer.get(name))
    if not inner:
        return told
    place = _mapping(outer.get("at")) or outer
    return {key: place[key] for key in ("page", "chart") if place.get(key) is not None} | inner


def _mapping(told: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


def _axis(axis: Any) -> Any:
    """An axis with pixels as pairs, as `extract` writes them, in the form of events; what is wrong is left to be found."""
    out = dict(_mapping(axis))
    if isinstance(points := out.pop("calibration", None), list):
        rows = [_mapping(one) for one in cast("list[Any]", points)]
        out["points"] = [{"value": row.get("value")} | _pixel(row.get("px")) for row in rows]
    if isinstance(through := out.get("through"), list):
        out["through"] = [_mapping(one) or _pixel(one) for one in cast("list[Any]", through)]
    return out or axis


def _pixel(pair: Any) -> dict[str, Any]:
    if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2:
        return {"x_px": pair[0], "y_px": pair[1]}
    return {"px": pair}


def _colour(one: Any) -> Any:
    """`#rrggbb` of that or of a list of three numbers."""
    try:
        return one if isinstance(one, str) else "#" + bytes(int(part) for part in one).hex()
    except (TypeError, ValueError):
        return one
