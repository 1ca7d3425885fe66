"""From a command to its durable event, one client in sequence, against raw `js.publish` of 200 bytes.

The ceiling is a bare publish without headers and without an expectation: what one durable write costs this client on
this server. Judged with `sync_interval: always`, as every server of ours runs (an acknowledged event survives a power
cut): that is what a client meets. There the disk hides part of our own work, so the same pair is also told with the
server's default, where the publish is cheaper and our overhead shows.
"""

import time

from bench.frame import Bench
from bench.load import publish_in_sequence
from bench.ours import describe, ledger_of, register

name = "command -> durable event, in sequence"
unit = "commands/s"
floor, aim = 0.5, 0.8
reference_name = "raw js.publish, 200 B"
higher_is_better = True
syncs = ("always", "default")


async def reference(bench: Bench) -> float:
    server = await bench.nats()
    nc = await bench.once("reference", server.connect, lambda nc: nc.close())
    full = 1500 if bench.sync == "always" else 6000
    return await publish_in_sequence(nc, bench.size(full, 300))


async def ours(bench: Bench) -> float:
    ledger = await ledger_of(bench)
    sample = await register(ledger)
    count = bench.size(1500 if bench.sync == "always" else 6000, 300)
    began = time.perf_counter()
    await describe(ledger, sample, count)
    return count / (time.perf_counter() - began)
