"""Stand-ins for the systems that a lab delivers to, as processes on this machine, for `make demo`.

Pinata and MaskHub are doubles; the S3 server is a real one (`rclone serve s3`). NATS' key-value store, the fourth kind of target, comes
with the lab itself.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.doubles.maskhub import environ as maskhub_environ
from tests.doubles.pinata import JWT
from tests.doubles.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, RcloneS3
from tests.doubles.server import outside


@contextmanager
def systems(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Settings of the targets and the variables with their credentials, until the block ends."""
    s3 = RcloneS3(folder / "s3")
    doubles = [outside(name, folder / name) for name in ("pinata", "maskhub")]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        stack.callback(s3.stop)
        starting = [pool.submit(s3.start), *(pool.submit(double.__enter__) for double in doubles)]
        for double, started in zip(doubles, starting[1:], strict=True):
            started.result()
            stack.push(double)
        starting[0].result()
        pinata, maskhub = (started.result() for started in starting[1:])
        settings = f"""\
[targets.archive]
adapter = "storage.s3"
options = {{ endpoint_url = "{s3.url}", bucket = "{BUCKET}", key = "{{scan_id}}/{{file_name}}", addressing_style = "path" }}

[targets.ipfs]
adapter = "storage.ipfs"
options = {{ pinata = {{ upload_url = "{pinata.url}/v3", api_url = "{pinata.url}" }} }}

[targets.newest]
adapter = "storage.kv"
options = {{ nats = {{}} }}

[targets.maskhub]
adapter = "maskhub.runs"
"""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "PINATA_JWT": JWT}
        yield settings, keys | maskhub_environ(maskhub.url)
