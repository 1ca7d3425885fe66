"""The command line. One module per group of commands; each command is a few lines over `labledger.client`.

Exit codes: 0 done, 1 refused by the lab, 2 not valid as typed, 3 not reachable or no answer in time, 4 verification failed,
5 parked or otherwise not done.
"""

from functools import cache

import typer


@cache
def app() -> typer.Typer:
    """All commands."""
    from labledger.cli import (
        artifacts,
        books,
        deliveries,
        extractions,
        history,
        images,
        processes,
        products,
        publications,
        queues,
        runs,
        scans,
        spice,
    )

    made = typer.Typer(
        name="labledger",
        help="An event-sourced backend for a measuring lab. Begin with `labledger demo` or `labledger up --data lab`.",
        epilog=(
            "Exit codes: 0 done, 1 refused, 2 not valid, 3 not reachable or no answer in time, 4 verification failed, "
            "5 parked or not done. Every command takes --json."
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    curves = (products, images, extractions, spice)
    for module in (processes, scans, queues, books, *curves, artifacts, deliveries, publications, runs, history):
        module.register(made)
    return made


def main() -> None:
    """The program `labledger`."""
    app()(prog_name="labledger")
