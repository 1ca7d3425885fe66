"""A proxy before an S3 server that breaks things on the way: one request a connection, faults by what the request is.

async with FaultProxy(server.port) as proxy:
    proxy.mode = "dupdrop"
    ...                                # speak to proxy.url
    proxy.count("UploadPart")

reset    the first try of each part, and of each PUT, is cut off with RST after 2 MiB (or half of it)
e503     SlowDown for the first two requests, and for every fourth
dupdrop  the store gets the second and third part (or a whole PUT), and its first answer is lost
corrupt  one byte of the second part (or of a PUT) is another one when it arrives, the first time
lost404  the store completes the upload, the answer is lost, and a repetition is told NoSuchUpload (as MinIO does)
stall    the first try of the second part (or of a PUT) is taken for 1 MiB, and then not any more; no FIN
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Self

Mode = Literal["none", "reset", "e503", "dupdrop", "corrupt", "lost404", "stall"]
MIB = 1 << 20


@dataclass(frozen=True)
class Request:
    """What came, by the names of the S3 API."""

    action: str
    part: int
    length: int

    @classmethod
    def of(cls, head: bytes) -> "Request":
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        query = target.partition("?")[2]
        found = re.search(r"(?im)^content-length: *(\d+)", head.decode("latin-1"))
        number = re.search(r"partNumber=(\d+)", query)
        action = method
        if method == "PUT":
            action = "UploadPart" if number else "Put"
        elif method == "POST" and "uploadId=" in query:
            action = "Complete"
        elif method == "POST" and "uploads" in query:
            action = "Create"
        elif method == "GET" and "uploadId=" in query:
            action = "ListParts"
        return cls(action, int(number[1]) if number else 0, int(found[1]) if found else 0)


class FaultProxy:
    def __init__(self, upstream: int, mode: Mode = "none") -> None:
        self.upstream, self.mode = upstream, mode
        self.seen: list[Request] = []
        self.port = 0
        #: Each part is handed on so much later: time to do something meanwhile.
        self.delay_s = 0.0
        self._tries: Counter[tuple[str, int]] = Counter()
        self._completed: set[bytes] = set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, action: str) -> int:
        return sum(1 for one in self.seen if one.action == action)

    def parts(self) -> list[int]:
        """The numbers of the parts that came, as they came."""
        return [one.part for one in self.seen if one.action == "UploadPart"]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 18)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        back: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request = Request.of(head)
            self.seen.append(request)
            key = request.action, request.part
            self._tries[key] += 1
            first = self._tries[key] == 1
            if self.mode == "e503" and (len(self.seen) <= 2 or len(self.seen) % 4 == 0):
                await self._answer(reader, writer, request, 503, "SlowDown")
                return
            if request.action == "UploadPart":
                await asyncio.sleep(self.delay_s)
            upload = re.search(rb"uploadId=[^& ]+", head)
            if self.mode == "lost404" and request.action == "Complete" and upload and upload[0] in self._completed:
                await self._answer(reader, writer, request, 404, "NoSuchUpload")
                return
            up, back = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 18)
            back.write(re.sub(rb"(?im)^connection: .*\r\n", b"", head)[:-2] + b"Connection: close\r\n\r\n")
            chosen = request.action == "Put" or (request.action == "UploadPart" and request.part == 2)
            if not await self._body(reader, back, request, first, chosen):
                _cut(writer)
                return
            await back.drain()
            answer = await up.read()  # to its end: what is dropped was done, and nothing of it is told
            lost = self.mode == "dupdrop" and first and request.action in ("Put", "UploadPart")
            if lost and (request.action == "Put" or request.part in (2, 3)):
                _cut(writer)
                return
            if self.mode == "lost404" and request.action == "Complete" and upload:
                self._completed.add(upload[0])
                _cut(writer)
                return
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            _cut(writer)  # the store is away, or the client
        finally:
            self._open.discard(task)
            for one in (writer, back):
                if one is not None:
                    with contextlib.suppress(OSError):
                        one.close()

    async def _body(
        self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, request: Request, first: bool, chosen: bool
    ) -> bool:
        """Hand the body on; False when the connection is to be cut."""
        at = 0
        carried = request.action in ("Put", "UploadPart")
        cut_at = min(2 * MIB, request.length // 2) if self.mode == "reset" and carried and first else None
        stall_at = min(MIB, request.length // 2) if self.mode == "stall" and chosen and first else None
        flip_at = request.length // 3 if self.mode == "corrupt" and chosen and first else None
        while at < request.length:
            piece = await reader.read(min(1 << 18, request.length - at))
            if not piece:
                return False
            if flip_at is not None and at <= flip_at < at + len(piece):
                changed = bytearray(piece)
                changed[flip_at - at] ^= 1
                piece = bytes(changed)
            back.write(piece)
            await back.drain()
            at += len(piece)
            if cut_at is not None and at >= cut_at:
                return False
            if stall_at is not None and at >= stall_at:
                await asyncio.sleep(3600)
        return True

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request, status: int, code: str
    ) -> None:
        left = request.length
        while left:
            left -= len(await reader.read(min(1 << 18, left))) or left
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
        if request.action == "HEAD":
            body = b""
        writer.write(
            f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()


def _cut(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
