"""The most memory that a process of ours ever held while it brought 1 GiB to S3. Judged by itself."""

from bench.frame import Bench
from bench.s3 import upload

name = "peak memory of 1 GiB to S3"
unit = "MB"
floor, aim = 200.0, 120.0
absolute = True
repeat = 1
reference_name = "-"
higher_is_better = False


async def ours(bench: Bench) -> float:
    return (await upload(bench))["peak_mb"]
