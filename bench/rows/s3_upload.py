"""1 GiB to a local S3 server (SeaweedFS), against boto3 with its defaults; parts of 16 MiB, four at once.

Ours looks beforehand, sends a SHA-256 with each part, hashes the whole in the same pass, and asks for the store's proof afterwards.
"""

from bench.frame import Bench
from bench.s3 import file_of, server_of, upload
from bus.ids import uuid7

name = "1 GiB to S3"
unit = "MB/s"
floor, aim = 0.9, 1.0
reference_name = "boto3"
higher_is_better = True


async def reference(bench: Bench) -> float:
    server, (path, _) = await server_of(bench), await file_of(bench)
    it = server.options()
    login = (it["endpoint_url"], it["bucket"], it["access_key_id"], it["secret_access_key"])
    return (await bench.peer("boto3_upload", ("boto3",), *login, f"boto3-{uuid7()}", path))["value"]


async def ours(bench: Bench) -> float:
    return (await upload(bench))["value"]
