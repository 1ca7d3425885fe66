"""Delivers a file to S3 and keeps its checkpoint in a file, as a worker keeps it in the ledger: to be killed at any moment.

python -m tests.faults.s3_uploader OPTIONS DELIVERY_ID FILE CHECKPOINT      prints the receipt
"""

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.integration.adapters.s3_desk import shipment, target


async def main(options: str, delivery_id: str, file: str, state: str) -> None:
    async def keep(checkpoint: Mapping[str, Any]) -> None:
        beside = Path(f"{state}.part")
        with beside.open("w") as out:
            json.dump(dict(checkpoint), out)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(state)

    kept = json.loads(Path(state).read_text()) if Path(state).exists() else None
    it = target(json.loads(options))
    parcel = shipment(Path(file), delivery_id=UUID(delivery_id), checkpoint=kept, keep=keep)
    arrived = await it.deliver(parcel)
    await it.close()
    print(json.dumps(dataclasses.asdict(arrived)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
