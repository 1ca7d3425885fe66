"""The most memory that any process of ours ever held, whatever the size of the data. Judged by itself.

The kernel's own mark of each child process (`bench.machine.peak_rss_mb`), so no peak falls between two samples. The
reference is a bare interpreter that has imported what a process of ours stands on.
"""

import subprocess
import sys

from bench.frame import Bench
from bench.lab import kept_lab, run_scan
from bench.machine import peak_rss_mb
from bus.ids import uuid7

name = "peak memory of any process"
unit = "MB"
floor, aim = 500.0, 200.0
absolute = True
reference_name = "interpreter with nats, psycopg, pydantic, numpy"
higher_is_better = False

BARE = "import nats, numpy, psycopg, pydantic; print(flush=True); input()"


def reference(bench: Bench) -> float:
    with subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        peak_mb = peak_rss_mb(child.pid)
        child.stdin.write(b"\n")
    return peak_mb


async def ours(bench: Bench) -> float:
    """Every role of a whole lab, after a long scan and its replay into the read models."""
    real = await kept_lab(bench, 0.0)
    scan_id = uuid7()
    await run_scan(real.lab, bench.size(100_000, 10_000), scan_id=scan_id)
    await real.lab.scans.wait(scan_id, timeout_s=120)
    await real.lab.wait_for(await real.lab.last_sequence(), timeout_s=60)
    found = {name: peak_rss_mb(role.pid) for name, role in real.supervisor.roles.items()}
    for name, peak_mb in found.items():
        bench.note(name, round(peak_mb))
    return max(found.values())
