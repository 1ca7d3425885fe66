"""The read models from the command line: built anew, compared with themselves, seen as of an earlier moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from labledger.cli.common import Code, Session, Stop

if TYPE_CHECKING:
    from bus.connection import Bus
    from bus.postgres import Connection
    from bus.projector import Projection

T = TypeVar("T")


def _chosen(name: str) -> "list[Projection]":
    from projections import projections

    known = {projection.name: projection for projection in projections()}
    if name == "all":
        return list(known.values())
    if name not in known:
        raise Stop(f"there is no read model {name!r}; there are {', '.join(known)}, or all", Code.INVALID)
    return [known[name]]


def _with_both(session: Session, work: "Callable[[Bus, Connection], Awaitable[T]]") -> T:
    """Connected to NATS and, as the owner, to Postgres."""
    import psycopg

    from bus import postgres
    from bus.roles import Role
    from labledger.wiring import connected

    to = session.settings.connection(Role.PROJECTIONS)
    if to.postgres_url is None:
        raise Stop("no address of Postgres: set LABLEDGER_POSTGRES_URL, or name a lab with --data", Code.UNREACHABLE)
    url = to.postgres_url

    async def main() -> T:
        bus = await connected(to, "labledger-cli", first_try_s=5)
        try:
            async with await postgres.connect(url, "labledger-cli") as connection:
                return await work(bus, connection)
        except psycopg.OperationalError as error:
            raise Stop(f"Postgres: {str(error).strip().splitlines()[0]}", Code.UNREACHABLE) from error
        except LookupError as error:
            raise Stop(str(error), Code.REFUSED) from error
        finally:
            await bus.close()

    return asyncio.run(main())


def rebuild(session: Session, name: str) -> None:
    """Fill the next generation, and switch over."""
    from bus import projector

    chosen = _chosen(name)

    async def work(bus: "Bus", connection: "Connection") -> None:
        rows: list[dict[str, Any]] = []
        for projection in chosen:
            generation, sequence = await projector.rebuild(bus, connection, projection)
            rows.append({"name": projection.name, "generation": generation, "sequence": sequence})
            session.print(f"{projection.name} is built anew: generation {generation}, up to event {sequence}")
        session.emit(rows)

    _with_both(session, work)


def compare(session: Session, name: str) -> None:
    """Build beside, compare row by row, change nothing."""
    from bus import projector

    chosen = _chosen(name)

    async def work(bus: "Bus", connection: "Connection") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for projection in chosen:
            sequence, found = await projector.compare(bus, connection, projection)
            rows += [
                {
                    "name": projection.name,
                    "table": one.table,
                    "rows": one.rows,
                    "sequence": sequence,
                    "equal": one.equal,
                    "only_live": one.only_live,
                    "only_rebuilt": one.only_rebuilt,
                    "examples": one.examples,
                }
                for one in found
            ]
        return rows

    rows = _with_both(session, work)
    wrong = [row for row in rows if not row["equal"]]
    if wrong:
        text = "; ".join(
            f"{row['name']}.{row['table']}: {row['only_live']} rows only in the live one, {row['only_rebuilt']} only in "
            f"the rebuilt one"
            for row in wrong
        )
        raise Stop(
            f"{text}. The events are the truth: `labledger rebuild {name}` mends it", Code.NOT_VERIFIED, tables=rows
        )
    columns = {"name": "read model", "table": "table", "rows": "rows", "equal": "equal", "sequence": "as of event"}
    session.table(rows, columns)


def as_of(session: Session, view: str, sequence: int) -> list[dict[str, Any]]:
    """The rows of a view as they were."""
    from bus import projector
    from projections import projections

    found = {shown.name: projection for projection in projections() for shown in projection.views}
    if view not in found:
        raise Stop(f"there is no view {view!r}; there are {', '.join(sorted(found))}, or KIND/ID", Code.INVALID)

    async def work(bus: "Bus", connection: "Connection") -> list[dict[str, Any]]:
        return await projector.as_of(bus, connection, found[view], view, sequence)

    return _with_both(session, work)
