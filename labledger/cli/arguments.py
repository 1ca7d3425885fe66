"""What several groups of commands take on their way from pictures to models."""

from typing import Annotated

import typer

Part = Annotated[str, typer.Argument(metavar="PRODUCT", help="Its part number.")]
Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="The image's id (SHA-256), its first or last letters, or the name of its file."
    ),
]
Method = Annotated[str, typer.Option("--method", help="standard, legacy or llm.")]
Priority = Annotated[str, typer.Option("--priority", help="low, normal, high or urgent.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Its queue. [default: extractions]")]
Batch = Annotated[str | None, typer.Option("--batch", help="Id of the batch (a UUID).")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is over; exit code 1 unless it succeeded.")]
