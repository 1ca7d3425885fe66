"""Runs one role, as `labledger run` does: `python role.py commands | projections | station NAME`."""

import asyncio
import logging
import sys

from labledger import wiring
from labledger.settings import load


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = load()

    async def role(stopped: asyncio.Event) -> None:
        match sys.argv[1:]:
            case ["commands"]:
                await wiring.run_commands(settings, stopped)
            case ["projections"]:
                await wiring.run_projections(settings, stopped)
            case ["station", name]:
                await wiring.run_station(settings, stopped, name)
            case other:
                raise SystemExit(f"no such role: {other}")

    wiring.run_role(role)


if __name__ == "__main__":
    main()
