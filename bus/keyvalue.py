"""A bucket of NATS' key-value store, written by compare-and-set.

Its keys have an alphabet without `:`, so ours are spelled in it, one to one:

    ours                     there
    a:b                      a.b           `:` between two other characters
    a.b   a=b   a b   ä      a=2Eb   a=3Db   a=20b   =C3=A4
    :a    a::b               =3Aa   a=3A=3Ab
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bus.connection import WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT, Bus
from bus.errors import Rejected

#: The server's word for "there is none under this subject", and for "there is no such stream".
_NONE, _NO_STREAM = 10037, 10059


@dataclass(frozen=True)
class Entry:
    """What stands under a key. `revision` 0: nothing ever did."""

    value: bytes | None
    revision: int
    headers: Mapping[str, str]


class NoBucket(Exception):
    """There is no such bucket."""


class Bucket:
    """One bucket, read from its leader, so that what was written is seen."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus, self.name = bus, name

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{spelled(key)}"

    async def get(self, key: str) -> Entry:
        """Raises `NoBucket`, `Unavailable`, `Forbidden`."""
        answer = await self._bus.api(f"STREAM.MSG.GET.KV_{self.name}", {"last_by_subj": self._subject(key)})
        if error := answer.get("error"):
            if error.get("err_code") == _NONE:
                return Entry(None, 0, {})
            if error.get("err_code") == _NO_STREAM:
                raise NoBucket(f"there is no key-value bucket {self.name!r} on this NATS server")
            raise Rejected(f"bucket {self.name}: {error.get('description')}")
        message: dict[str, Any] = answer["message"]
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        gone = headers.get("KV-Operation") in ("DEL", "PURGE")
        value = None if gone else base64.b64decode(message.get("data", ""))
        return Entry(value, int(message["seq"]), headers)

    async def put(self, key: str, value: bytes, revision: int, headers: Mapping[str, str] | None = None) -> bool:
        """Put a value in the place of the one that was read; False when another came between. Raises `Unavailable`, after
        which it may stand there all the same: read again. Raises `Rejected` when it is too large, or may not be written."""
        expected = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        ack = await self._bus.publish(self._subject(key), value, {**(headers or {}), **expected})
        if ack.err_code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT):
            return False
        if ack.err_code:
            raise Rejected(f"bucket {self.name}: {ack.error}")
        return True

    async def delete(self, key: str, revision: int) -> bool:
        return await self.put(key, b"", revision, {"KV-Operation": "DEL"})


def spelled(key: str) -> str:
    """A key of ours in NATS' alphabet."""
    out: list[str] = []
    for at, letter in enumerate(key):
        inside = 0 < at < len(key) - 1 and key[at - 1] != ":" and key[at + 1] != ":"
        if letter == ":" and inside:
            out.append(".")
        elif re.fullmatch(r"[-/_a-zA-Z0-9]", letter):
            out.append(letter)
        else:
            out.append("".join(f"={byte:02X}" for byte in letter.encode()))
    return "".join(out)


def read(spelling: str) -> str:
    """The key that is spelled so."""
    data = re.sub(rb"=([0-9A-F]{2})|\.", lambda found: bytes.fromhex((found[1] or b"3A").decode()), spelling.encode())
    return data.decode()


def _headers(block: bytes) -> dict[str, str]:
    pairs = [line.partition(":") for line in block.decode().split("\r\n")[1:]]
    return {name: value.strip() for name, colon, value in pairs if colon}


def as_header(value: Any) -> str:
    """JSON that fits on the line of a header."""
    return json.dumps(value, ensure_ascii=True)
