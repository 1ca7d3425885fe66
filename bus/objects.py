"""A bucket of NATS' object store (ADR-20), for objects that never change: chunks, and then the message that makes them visible.

Any client of the object store reads it (`nats object get blobs NAME`). Ours differs from theirs in how it works: nothing here makes a
consumer, so outsiders may read (see `bus/roles.py`); a chunk that is published twice is stored once; and of two that put the same
object at once, one makes it visible and the other takes its chunks back.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from bus.connection import WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT, Bus
from bus.errors import BusError, Rejected, Unavailable
from bus.ids import uuid7

T = TypeVar("T")

#: Well below what a message may hold; each costs one write to disk that is waited for.
CHUNK = 512 * 1024
#: The server's word for "there is none under this subject".
_NONE = 10037


@dataclass(frozen=True)
class Info:
    """A visible object. `seq` is that of the message that makes it visible."""

    seq: int
    chunks_under: str
    chunks: int
    size: int
    digest: str


class Objects:
    """One bucket. `patience_s`: how long to go on while NATS is away. `inside`: as one of our own processes, who may ask the leader
    of the stream, and remove what crashes left."""

    def __init__(self, bus: Bus, bucket: str, *, patience_s: float = 60.0, inside: bool = True) -> None:
        self._bus, self._bucket, self._patience_s, self._inside = bus, bucket, patience_s, inside
        self._stream = f"OBJ_{bucket}"

    async def info(self, name: str) -> Info | None:
        """What stands under a name."""
        found = await self._patiently(lambda: self._get({"last_by_subj": self._meta(name)}))
        if found is None:
            return None
        seq, data = found
        told: dict[str, Any] = json.loads(data)
        if told.get("deleted"):
            return Info(seq, "", 0, -1, "")
        return Info(seq, str(told["nuid"]), int(told["chunks"]), int(told["size"]), str(told.get("digest", "")))

    async def put(self, name: str, pieces: Iterable[bytes], sha256: str) -> None:
        """Store an object whose content has this hash. Safe to repeat: once it is visible, nothing more is stored."""
        before = await self.info(name)
        if before is not None and before.size >= 0:
            return
        # The name goes before the part of our own, so that what a crash left of the same object can be found.
        under = f"{name}.{uuid7()}"
        chunks = size = 0
        for piece in pieces:
            chunks, size = chunks + 1, size + len(piece)
            await self._publish(self._chunk(under), piece, {"Nats-Msg-Id": f"{under}:{chunks}"})
        meta = {
            "name": name,
            "bucket": self._bucket,
            "nuid": under,
            "size": size,
            "mtime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "chunks": chunks,
            "digest": "SHA-256=" + base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode(),
            "options": {"max_chunk_size": CHUNK},
        }
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(before.seq if before else 0),
            "Nats-Msg-Id": under,  # tried again after a lost answer, it is the same message, and no conflict
            "Nats-Rollup": "sub",
        }
        await self._publish(self._meta(name), json.dumps(meta).encode(), headers, taken_is_fine=True)
        if self._inside:
            await self._tidy(name)

    async def read(self, info: Info, into: Callable[[bytes], Any]) -> None:
        """All chunks, in order. Raises `Rejected` when one is missing."""
        subject, seq = self._chunk(info.chunks_under), 1
        for _ in range(info.chunks):
            found = await self._patiently(lambda seq=seq: self._get({"seq": seq, "next_by_subj": subject}))
            if found is None:
                raise Rejected(f"object store {self._bucket}: a chunk of {subject} is missing")
            seq = found[0] + 1
            into(found[1])

    # -- help ----------------------------------------------------------------------------------------------------------

    def _meta(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _chunk(self, under: str) -> str:
        return f"$O.{self._bucket}.C.{under}"

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask what may be asked twice, until it is answered."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await ask()
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _get(self, request: dict[str, Any]) -> tuple[int, bytes] | None:
        """A message with its sequence, or None. What is found never changes, so any of the servers may tell; what one of them does
        not find, the leader may have."""
        msg = await self._bus.request(f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(request).encode())
        headers = msg.headers or {}
        if "Status" not in headers:
            return int(headers["Nats-Sequence"]), msg.data
        if not self._inside:
            return None
        answer = await self._bus.api(f"STREAM.MSG.GET.{self._stream}", request)
        if error := answer.get("error"):
            if error.get("err_code") == _NONE:
                return None
            raise BusError(f"object store {self._bucket}: {error.get('description')}")
        message: dict[str, Any] = answer["message"]
        return int(message["seq"]), base64.b64decode(message.get("data", ""))

    async def _publish(
        self, subject: str, body: bytes, headers: dict[str, str], *, taken_is_fine: bool = False
    ) -> None:
        ack = await self._patiently(lambda: self._bus.publish(subject, body, headers))
        if taken_is_fine and ack.err_code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT):
            return  # another one was quicker with the same object
        if ack.err_code:
            raise BusError(f"object store {self._bucket}: {ack.error}")

    async def _tidy(self, name: str) -> None:
        """Remove the chunks of this object that are not the visible ones: of a crash, or of one who came second. Whoever is still at
        it will find the object there, and needs them no more."""
        visible = await self.info(name)
        if visible is None or visible.size < 0:
            return
        keep, all_of_it = self._chunk(visible.chunks_under), self._chunk(f"{name}.*")
        try:
            info = await self._bus.api(f"STREAM.INFO.{self._stream}", {"subjects_filter": all_of_it})
            state: dict[str, Any] = info.get("state") or {}
            subjects: dict[str, int] = state.get("subjects") or {}
            for subject in subjects:
                if subject != keep:
                    await self._bus.api(f"STREAM.PURGE.{self._stream}", {"filter": subject})
        except Unavailable:
            pass  # the next one who puts it tries again; what is left costs room, and nothing else
