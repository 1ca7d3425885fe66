"""Pointers in a bucket of NATS' key-value store: the lab's own, or one on a server that the lab is connected to.

Any client of NATS reads it (`nats kv get pointers temperature.daily.latest`). How keys are spelled there: `bus/keyvalue.py`.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from adapters.storage.pointers import Entry, Shelf, Written
from bus.connection import Bus
from bus.keyvalue import spelled
from bus.streams import POINTERS
from domain.ports import Check, DeliveryFailed

#: A message of NATS has at most 1 MB, with its headers.
LARGEST = 900_000


class NatsOptions(BaseModel):
    """A bucket on the lab's own NATS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: str = Field(default=POINTERS, pattern=r"^[-_a-zA-Z0-9]+$", description="The bucket's name.")


class NatsStore:
    """One bucket."""

    def __init__(self, options: NatsOptions, nats: Callable[[], Awaitable[Bus]]) -> None:
        self._name = options.bucket
        self._shelf = Shelf(nats, options.bucket)

    def missing(self) -> Sequence[str]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {"service": "nats", "bucket": self._name}

    async def close(self) -> None:
        await self._shelf.close()

    def check(self, key: str, entry: Entry) -> None:
        if len(entry.value) > LARGEST:
            text = f"the value has {len(entry.value):,} bytes, NATS takes {LARGEST:,}: keep the content elsewhere and point to it"
            raise DeliveryFailed("refused", text)

    async def read(self, key: str) -> Entry | None:
        return (await self._shelf.read(key))[0]

    async def advance(self, key: str, entry: Entry) -> Written:
        stands, revision, ours = await self._shelf.advance(key, entry)
        return Written(stands, ours, {"revision": revision, "nats_key": spelled(key)})

    async def test(self) -> Sequence[Check]:
        key, entry = f"labledger:test:{secrets.token_hex(8)}", Entry(b'{"order": 1}', {}, 1)
        try:
            await self._shelf.advance(key, entry)
            stands, revision = await self._shelf.read(key)
            await (await self._shelf.bucket()).delete(key, revision)
        except DeliveryFailed as error:
            return [Check("bucket", False, str(error))]
        same = stands == entry
        return [Check("bucket", same, f"a value was written to {self._name}, read back and removed")]
