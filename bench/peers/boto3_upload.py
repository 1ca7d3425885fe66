"""MB/s of boto3's own upload of one file, with its defaults, and parts and threads as ours.

boto3_upload.py ENDPOINT BUCKET ACCESS SECRET KEY FILE      prints {"value": MB/s, ...}
"""

import json
import sys
import time
from pathlib import Path


def main(endpoint: str, bucket: str, access: str, secret: str, key: str, file: str) -> None:
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret
    )
    config = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
    client.list_objects_v2(Bucket=bucket, MaxKeys=1)  # connected, as ours is
    size = Path(file).stat().st_size
    started = time.perf_counter()
    client.upload_file(file, bucket, key, Config=config)
    took_s = time.perf_counter() - started
    if client.head_object(Bucket=bucket, Key=key)["ContentLength"] != size:
        raise SystemExit("boto3 did not store all of it")
    print(json.dumps({"value": size / 1e6 / took_s, "version": boto3.__version__, "bytes": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
