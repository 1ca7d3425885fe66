"""All that is said over NATS, and what is made of it.

nats-py loads aiohttp for web sockets, which nobody here uses: a tenth of the time in which a process starts. So it is loaded
without, as where aiohttp is not installed. A program that uses us and wants them imports `nats` first.
"""

import importlib
import sys

if "nats" not in sys.modules and "aiohttp" not in sys.modules:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # so that an import of it fails
    try:
        importlib.import_module("nats.aio.transport")
    finally:
        del sys.modules["aiohttp"]
