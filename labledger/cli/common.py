"""What all commands share: the options that say which lab is meant, output for people and for programs, exit codes.

Heavy imports stand inside functions: `labledger --help` must answer at once.
"""

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bus.connection import Bus
    from bus.outcomes import Outcome
    from labledger.client import Lab, Progress
    from labledger.settings import Settings

T = TypeVar("T")


class Code(IntEnum):
    """Exit codes, part of the stable contract (docs)."""

    OK = 0
    REFUSED = 1
    INVALID = 2
    UNREACHABLE = 3
    NOT_VERIFIED = 4
    PARKED = 5


class Stop(Exception):
    """End the command with a code and words for a person."""

    def __init__(self, text: str, code: Code, **details: Any) -> None:
        super().__init__(text)
        self.code = code
        self.details = details


@dataclass
class Session:
    """The options given on the command line, and what follows from them."""

    data: Path | None = None
    config: Path | None = None
    url: str | None = None
    user: str | None = None
    json: bool = False
    _settings: "Settings | None" = field(default=None, repr=False)

    def environ(self) -> dict[str, str]:
        """The environment with what the options say; also for the roles that `up` starts."""
        environ = dict(os.environ)
        if self.data is not None:
            environ["LABLEDGER_DATA_DIR"] = str(self.data.absolute())
        config = self.config
        if config is None and "LABLEDGER_CONFIG" not in environ:
            # The settings beside us, else those that lie in the lab's folder.
            here = Path("labledger.toml")
            folder = Path(environ.get("LABLEDGER_DATA_DIR", "lab")) / "labledger.toml"
            config = here if here.exists() else folder if folder.exists() else None
        if config is not None:
            environ["LABLEDGER_CONFIG"] = str(config.absolute())
        if self.url is not None:
            from labledger.client import split_url

            bare, user, password = split_url(self.url)
            environ["LABLEDGER_NATS_URL"] = bare
            if user:
                environ["LABLEDGER_NATS_USER"] = user
            if password:
                environ["LABLEDGER_NATS_PASSWORD"] = password
        return environ

    @property
    def settings(self) -> "Settings":
        if self._settings is None:
            from labledger.settings import load

            self._settings = load(self.environ())
        return self._settings

    def lab(self, *, timeout_s: float = 10.0, role: str | None = None) -> "Lab":
        from labledger.client import Lab

        return Lab.connect(settings=self.settings, user=role or self.user, timeout_s=timeout_s)

    def run(self, work: "Callable[[Lab], Awaitable[T]]", *, timeout_s: float = 10.0, role: str | None = None) -> T:
        """Connect, do it, close."""
        import logging

        # What goes wrong is said once, at the end.
        logging.getLogger("labledger.bus").setLevel(logging.CRITICAL)

        async def main() -> T:
            async with self.lab(timeout_s=timeout_s, role=role) as lab:
                return await work(lab)

        return asyncio.run(main())

    def run_bus(self, role: str, work: "Callable[[Bus], Awaitable[T]]") -> T:
        """The same with a bare connection as one of the lab's roles."""
        from labledger.wiring import connected

        async def main() -> T:
            bus = await connected(self.settings.connection(role), "labledger-cli", first_try_s=10)
            try:
                return await work(bus)
            finally:
                await bus.close()

        return asyncio.run(main())

    # -- output -------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def console(self) -> "Console":
        return make_console()

    def print(self, text: Any = "") -> None:
        """A line for people; programs do not get it."""
        if not self.json:
            self.console.print(text)

    def emit(self, data: Any) -> None:
        """One JSON document on a line, for programs."""
        if self.json:
            sys.stdout.write(to_json(data) + "\n")
            sys.stdout.flush()

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str = "", empty: str = "none"
    ) -> None:
        """Rows as a table with these columns (key -> head), or all of them as JSON."""
        if self.json:
            self.emit(list(rows))
            return
        if not rows:
            self.print(f"[dim]{empty}[/dim]")
            return
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for head in columns.values():
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(shown(row.get(key)) for key in columns))
        self.console.print(table)

    def record(self, data: Mapping[str, Any], *, title: str = "") -> None:
        """One thing, a line for each of its fields."""
        if self.json:
            self.emit(data)
            return
        if title:
            self.print(f"[bold]{title}[/bold]")
        width = max((len(key) for key in data), default=0)
        for key, value in data.items():
            if value in (None, "", [], {}, ()) or value is False:
                continue
            self.console.print(f"  [dim]{key:<{width}}[/dim]  ", end="")
            self.console.print(shown(value), markup=False, highlight=False)

    def outcome(self, outcome: "Outcome", text: str) -> None:
        """An accepted command."""
        if self.json:
            self.emit(outcome.model_dump(mode="json"))
            return
        so_already = "" if outcome.events else " [dim](it was so already)[/dim]"
        at = f" [dim](event {outcome.sequence})[/dim]" if outcome.sequence else ""
        self.print(f"{text}{at}{so_already}")


def make_console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Where nobody reads along, lines are not broken at 80 characters.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def to_json(data: Any) -> str:
    return json.dumps(data, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(cast("set[Any]", value))
    return str(value)


def shown(value: Any) -> str:
    """A value as a person wants to read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(shown(item) for item in cast("Iterable[Any]", value))
    if isinstance(value, Mapping):
        return to_json(value)
    return str(value)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def scan_row(progress: "Progress") -> dict[str, Any]:
    """A scan for a table."""
    share = f"{100 * progress.points / progress.total_points:.0f} %" if progress.total_points else ""
    state = progress.status
    if progress.held:
        state = "held"
    elif progress.interrupted:
        state = "interrupted"
    elif progress.wish and not progress.over:
        state = f"{state} ({progress.wish})"
    return progress.model_dump(mode="json") | {
        "state": state,
        "share": share,
        "of": f"{progress.points} / {progress.total_points}",
        "left": duration(progress.remaining_s) if not progress.over else "",
        "since": progress.requested_at,
    }


# ------------------------------------------------------------------------------------------------------------------ options

_OPTIONS: dict[str, Any] = {
    "data": Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="The lab's folder, where `labledger up` runs. [default: lab]"),
    ],
    "config": Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Settings. [default: labledger.toml here, else in the lab's folder]"
        ),
    ],
    "url": Annotated[
        str | None, typer.Option("--url", metavar="URL", help="A NATS server: nats://user:password@host:4222.")
    ],
    "user": Annotated[
        str | None, typer.Option("--user", metavar="ROLE", help="Sign in as this user. [default: publisher]")
    ],
    "json_": Annotated[bool, typer.Option("--json", help="JSON for programs, on standard output.")],
}


def command(app: typer.Typer, name: str, *, example: str = "", **settings: Any) -> Callable[[Callable[..., Any]], Any]:
    """A command of `app`: its function takes a `Session` first, and the options of every command are added to its own.

    `example` is the last line of its help. What it raises becomes words and an exit code.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            given = {key.rstrip("_"): kwargs.pop(key) for key in _OPTIONS}
            session = Session(**given)
            with failures(session):
                function(session, *args, **kwargs)

        signature = inspect.signature(function)
        own = [parameter for key, parameter in signature.parameters.items() if key != "session"]
        shared = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=False if key == "json_" else None, annotation=kind
            )
            for key, kind in _OPTIONS.items()
        ]
        wrapper.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        doc = inspect.getdoc(function) or ""
        if example:
            doc += f"\n\nExample:  {example}"
        app.command(name, help=doc, no_args_is_help=False, **settings)(wrapper)
        return function

    return mark


@contextmanager
def failures(session: Session) -> Generator[None]:
    """What went wrong, in words on stderr (or as JSON on stdout), and as an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read us has gone (`| head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        code, text, details = explained(error)
        if code is None:
            raise
        if session.json:
            session.emit({"error": text, "exit_code": int(code)} | details)
        else:
            console = make_console(stderr=True)
            console.print(f"[bold red]{_HEADS[code]}[/bold red] ", end="")
            console.print(text, markup=False)
        raise SystemExit(int(code)) from None


_HEADS = {
    Code.REFUSED: "refused:",
    Code.INVALID: "not valid:",
    Code.UNREACHABLE: "not reachable:",
    Code.NOT_VERIFIED: "not verified:",
    Code.PARKED: "not done:",
}


def explained(error: Exception) -> tuple[Code | None, str, dict[str, Any]]:
    """Which exit code an exception is, and its words. None for a defect of ours."""
    if isinstance(error, Stop):
        return error.code, str(error), error.details
    from pydantic import ValidationError

    from bus.errors import BusError, Forbidden, Unavailable
    from domain.errors import Refused
    from domain.plan import explain
    from labledger import client
    from labledger.embedded.errors import EmbeddedError
    from labledger.settings import SettingsError

    if isinstance(error, client.CommandError):
        outcome = error.outcome
        details = {"outcome": outcome.model_dump(mode="json")}
        if isinstance(error, client.CommandRefused):
            return Code.REFUSED, str(error), details
        if isinstance(error, client.CommandInvalid):
            return Code.INVALID, str(error), details
        return Code.PARKED, f"{error}. It is kept: labledger parked show {outcome.parked_id}", details
    if isinstance(error, client.NoOutcomeYet):
        return Code.UNREACHABLE, str(error), {"command_id": error.command_id}
    if isinstance(error, client.NotReachable | Unavailable):
        return Code.UNREACHABLE, str(error), {}
    if isinstance(error, client.NotFound | client.NotDone | client.NotAllowed | Forbidden | EmbeddedError):
        return Code.REFUSED, str(error), {}
    if isinstance(error, SettingsError):
        # That nothing runs here is no fault of what was typed.
        nowhere = "no address of" in str(error)
        return (Code.UNREACHABLE if nowhere else Code.INVALID), str(error), {}
    if isinstance(error, ValidationError):
        return Code.INVALID, explain(error), {}
    if isinstance(error, Refused | json.JSONDecodeError):
        return Code.INVALID, str(error), {}
    if isinstance(error, TimeoutError):
        return Code.UNREACHABLE, str(error) or "waited long enough", {}
    if isinstance(error, client.LabError | BusError):
        return Code.PARKED, str(error), {}
    if isinstance(error, OSError) and error.filename:
        return Code.INVALID, f"{error.filename}: {error.strerror}", {}
    return None, "", {}


def read_text(path: str) -> str:
    """A file's text; `-` is standard input."""
    return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")


def write_file(session: Session, path: Path, data: bytes) -> None:
    """Write it, and say so."""
    path.write_bytes(data)
    session.print(f"[dim]written:[/dim] {path}")


def parse_value(text: str) -> Any:
    """`3` is a number, `true` a truth value, `[1, 2]` a list, and everything else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def pairs(given: Sequence[str], what: str = "--set") -> dict[str, Any]:
    """`name=value` options."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise Stop(f"{what} {one}: give it as name=value", Code.INVALID)
        found[name] = parse_value(value)
    return found


def parse_time(text: str) -> datetime:
    """A time as people write it; without a zone it is this machine's."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        raise Stop(f"{text!r} is no time: write 2026-05-04T13:00 or 2026-05-04T13:00:00Z", Code.INVALID) from None


async def resolve(lab: "Lab", kind: str, given: str) -> str:
    """An id from what a person types: all of it, its beginning or end, or `last`; of an image also the name of its file."""
    from labledger.client.curves import ids_like

    if len(given) == (64 if kind in ("graph_image", "artifact") else 36):
        return given
    words = {"graph_image": "image"}.get(kind, kind)
    if kind == "extraction" and given == "last":
        # Ids of the other charts of a PDF are not in the order of time.
        found = [str(one["extraction_id"]) for one in await lab.extractions.list(1)]
    else:
        found = ids_like(await lab.ids(kind), given)
    if kind == "graph_image" and not found:
        found = [one["graph_image_id"] for one in await lab.images.list() if one["file_name"] == given]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Stop(f"there is no {words} {given}", Code.REFUSED)
    raise Stop(f"{given} stands for {len(found)} {words}s: give more of the id", Code.INVALID)
