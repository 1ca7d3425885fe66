"""Runs a worker as `labledger run extract` does, with the quick extractor of the tests behind the port."""

import asyncio
import logging

from labledger import wiring
from labledger.settings import load


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = load()

    async def role(stopped: asyncio.Event) -> None:
        ports = {"extractor": "tests.curves:FastExtractor", "fitter": "tests.curves:FastFitter"}
        await wiring.run_extract(settings, stopped, **ports)

    wiring.run_role(role)
