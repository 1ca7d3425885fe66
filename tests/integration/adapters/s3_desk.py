"""A desk for tests of the S3 target: files, shipments, and what the store really has, asked by another client than ours."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import botocore.session

from adapters.storage.s3 import Options, Target
from domain.ports import Shipment, TargetContext

MIB = 1 << 20


async def no_nats() -> Any:
    raise AssertionError("S3 needs no NATS")


def target(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Target:
    return Target("archive", Options.model_validate(dict(options)), TargetContext(environ=environ or {}, nats=no_nats))


def write(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


@dataclass
class Told:
    """What an attempt told of itself."""

    kept: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reports: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    async def keep(self, checkpoint: Mapping[str, Any]) -> None:
        self.kept.append(dict(checkpoint))


def shipment(path: Path, told: Told | None = None, **more: Any) -> Shipment:
    told = told or Told()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    known: dict[str, Any] = {
        "delivery_id": uuid4(),
        "attempt": 1,
        "key": "",
        "path": path,
        "sha256": sha256,
        "size": path.stat().st_size,
        "media_type": "application/octet-stream",
        "file_name": path.name,
        "options": {},
        "checkpoint": None,
        "report": lambda percent, text: told.reports.append((percent, text)),
        "keep": told.keep,
    }
    return Shipment(**known | more)


def again(first: Shipment, told: Told) -> dict[str, Any]:
    """What the next attempt of the same delivery is given."""
    return {
        "delivery_id": UUID(str(first.delivery_id)),
        "attempt": 2,
        "checkpoint": told.kept[-1] if told.kept else None,
    }


class Eye:
    """Looks at a store with botocore, past the proxy."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        session = botocore.session.get_session()
        self.bucket = options["bucket"]
        self.client: Any = session.create_client(
            "s3",
            endpoint_url=options["endpoint_url"],
            region_name="us-east-1",
            aws_access_key_id=options["access_key_id"],
            aws_secret_access_key=options["secret_access_key"],
        )

    def sha256(self, key: str) -> str:
        return hashlib.sha256(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()).hexdigest()

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Unfinished ones. SeaweedFS does not take a key for a prefix of itself, so all are looked through."""
        try:
            found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        except self.client.exceptions.NoSuchUpload:
            return []  # rclone's way to say that there are none
        return [(one["Key"], one["UploadId"]) for one in found if one["Key"].startswith(prefix)]

    def put(self, key: str, data: bytes, **more: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **more)
