"""The read models: one file each, with its tables, what each event does to them, and the view that people query.

The folder is the list: a new file with a `projection` needs no entry anywhere.
"""

import importlib
import pkgutil
from functools import cache

from bus.projector import Projection


@cache
def projections() -> tuple[Projection, ...]:
    """Every projection in this folder."""
    found: list[Projection] = []
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        projection = getattr(importlib.import_module(module.name), "projection", None)
        if isinstance(projection, Projection):
            found.append(projection)
    return tuple(found)


def named(name: str) -> Projection:
    """The projection of that name, or the one that has a view of that name. Raises `LookupError` with what there is."""
    for projection in projections():
        if name == projection.name:
            return projection
    for projection in projections():
        if any(view.name == name for view in projection.views):
            return projection
    names = sorted({p.name for p in projections()} | {v.name for p in projections() for v in p.views})
    raise LookupError(f"there is no read model {name!r}; there are {', '.join(names)}")


def documentation() -> str:
    """The views of schema `labledger` and their columns, as a page."""
    lines = [
        "# Views",
        "",
        "What people and dashboards read: views in schema `labledger`, for the user `labledger_reader`. They are made from",
        "the events alone, and made anew at any time; wait for a sequence with `labledger.checkpoints`.",
        "",
        "| view | what it shows |",
        "|---|---|",
        "| `checkpoints` | How far each read model has come: it shows every event up to `sequence`. |",
        "| `projections` | The state of each read model: running, stopped (see `reason`), building. |",
    ]
    views = sorted((view for projection in projections() for view in projection.views), key=lambda view: view.name)
    lines += [f"| [`{view.name}`](#{view.name}) | {view.doc} |" for view in views]
    for view in views:
        lines += ["", f"## {view.name}", "", view.doc, "", "| column | holds |", "|---|---|"]
        lines += [f"| `{column}` | {doc} |" for column, doc in view.columns.items()]
    return "\n".join(lines) + "\n"
