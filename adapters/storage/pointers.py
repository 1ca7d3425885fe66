"""What the key-value stores have in common: an entry with its order, and the bucket in which the newest of each key is noted."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bus.connection import Bus
from bus.errors import BusError, Forbidden, Rejected, Unavailable
from bus.keyvalue import Bucket, NoBucket, as_header
from domain.ports import Check, DeliveryFailed

#: Where an entry's order stands, in its value and in its metadata.
ORDER = "order"
METADATA = "Labledger-Metadata"


@dataclass(frozen=True)
class Entry:
    """A value with its metadata. Of two entries under one key the one with the higher order is the newer."""

    value: bytes
    metadata: Mapping[str, Any]
    order: int


@dataclass(frozen=True)
class Written:
    """What stands under the key now: ours, or what was newer. `sent`: we wrote in this attempt."""

    entry: Entry
    sent: bool
    details: Mapping[str, Any]


class Store(Protocol):
    """One key-value store."""

    def missing(self) -> Sequence[str]: ...

    def describe(self) -> Mapping[str, Any]: ...

    def check(self, key: str, entry: Entry) -> None:
        """Raises `DeliveryFailed` for what it does not take, before anything is asked of it."""
        ...

    async def read(self, key: str) -> Entry | None:
        """What stands there. An order of -1: nobody said."""
        ...

    async def advance(self, key: str, entry: Entry) -> Written:
        """Put it there unless a newer one, or this one, stands there."""
        ...

    async def test(self) -> Sequence[Check]: ...

    async def close(self) -> None: ...


def order_in(value: bytes) -> int:
    """The order that a value tells; -1 when it tells none."""
    try:
        found: Any = json.loads(value)
        order = found[ORDER]
    except (ValueError, KeyError, TypeError, IndexError):
        return -1
    return order if isinstance(order, int) and not isinstance(order, bool) else -1


class Shelf:
    """Entries in a bucket of NATS. Moves forward only: each write is a compare-and-set on what was read before."""

    def __init__(self, nats: Callable[[], Awaitable[Bus]], bucket: str) -> None:
        self._nats, self._name = nats, bucket
        self._connecting = asyncio.Lock()
        self._bus: Bus | None = None

    async def bucket(self) -> Bucket:
        """Connects with the first use. Raises `DeliveryFailed`."""
        async with self._connecting:
            if self._bus is None:
                try:
                    self._bus = await self._nats()
                except Unavailable as error:
                    raise DeliveryFailed("unreachable", str(error)) from None
            return Bucket(self._bus, self._name)

    async def close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def read(self, key: str) -> tuple[Entry | None, int]:
        """What stands there, and its revision. Raises `DeliveryFailed`."""
        try:
            found = await (await self.bucket()).get(key)
        except NoBucket as error:
            raise DeliveryFailed("misconfigured", f"{error}; `labledger provision` makes ours") from None
        except Unavailable as error:
            raise DeliveryFailed("unreachable", f"bucket {self._name}: {error}") from None
        except Forbidden as error:
            raise DeliveryFailed("unauthorized", f"bucket {self._name}: {error}") from None
        except BusError as error:
            raise DeliveryFailed("refused", str(error)) from None
        if found.value is None:
            return None, found.revision
        metadata: dict[str, Any] = json.loads(found.headers.get(METADATA, "{}"))
        return Entry(found.value, metadata, order_in(found.value)), found.revision

    async def advance(self, key: str, entry: Entry) -> tuple[Entry, int, bool]:
        """What stands there afterwards, its revision, and whether it was put there now. Raises `DeliveryFailed`."""
        while True:
            there, revision = await self.read(key)
            if there is not None and there.order >= entry.order:
                return there, revision, False
            try:
                headers = {METADATA: as_header(dict(entry.metadata))}
                if not await (await self.bucket()).put(key, entry.value, revision, headers):
                    continue  # somebody was faster: what did they put there?
            except Unavailable as error:
                # It may stand there all the same; the next attempt reads before it writes.
                raise DeliveryFailed("unreachable", f"bucket {self._name}: {error}") from None
            except Forbidden as error:
                raise DeliveryFailed("unauthorized", f"bucket {self._name}: {error}") from None
            except Rejected as error:
                raise DeliveryFailed("refused", str(error)) from None
            return entry, (await self.read(key))[1], True
