"""The HTTP client of the targets, against a server with faults."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.web.client import (
    BadStatus,
    Body,
    Bucket,
    FilePart,
    HttpOptions,
    NoAnswer,
    Web,
    kind_of,
    multipart,
    one_line,
    retry_after_s,
    tally,
)
from domain.ports import DeliveryFailed
from tests.doubles.echo import Echo
from tests.doubles.server import outside

SECRET = "s3cr3t-token"


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as double:
        yield double


@pytest.fixture
async def client(echo: Echo) -> AsyncIterator[Web]:
    one = client_of(echo)
    yield one
    await one.close()


def client_of(echo: Echo, **options: float) -> Web:
    return Web(
        "echo",
        echo.url,
        options=HttpOptions.model_validate(options),
        credentials={"Authorization": f"Bearer {SECRET}"},
        secrets=[SECRET],
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(b"".join(hashlib.sha256(str(k).encode()).digest() for k in range(100_000)))  # 3.2 MB
    return path


async def test_a_file_is_streamed_with_its_length_and_told_of(client: Web, echo: Echo, file: Path) -> None:
    body, told = Body([FilePart(file)], "application/octet-stream"), []
    body.progress = lambda sent, size: told.append((sent, size))
    with tally() as made:
        reply = await client.request("PUT", "/echo/a", body=body)
    assert reply.fields()["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert echo.requests[0].headers["Content-Length"] == "3200000"
    assert made.requests == 1 and made.bytes_sent == 3_200_000
    assert told[-1] == (3_200_000, 3_200_000) and len(told) > 40


async def test_a_part_of_a_file(client: Web, file: Path) -> None:
    part = FilePart(file, offset=1_000_000, length=70_000)
    reply = await client.request("PUT", "/echo/a", body=Body([part], "application/octet-stream"))
    assert reply.fields()["sha256"] == hashlib.sha256(file.read_bytes()[1_000_000:1_070_000]).hexdigest()


async def test_a_form_with_a_file_whose_name_tries_to_break_out(client: Web, file: Path) -> None:
    form = multipart({"name": 'grüße; "x"'}, FilePart(file, 'a".png\r\nX-Evil: 1', "image/png"))
    told = (await client.request("POST", "/form", body=form)).fields()
    assert told["name"] == 'grüße; "x"' and told["type"] == "image/png"
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "\n" not in told["file_name"]


async def test_percent_encoding_is_sent_as_given(client: Web) -> None:
    reply = await client.request("GET", "/echo/temperature%3Adaily%2Fa%25")
    assert reply.fields()["path"] == "/echo/temperature%3Adaily%2Fa%25"


async def test_credentials_go_to_their_own_address_only(echo: Echo) -> None:
    async with Echo() as other:
        client = client_of(echo)
        try:
            assert (await client.request("GET", "/echo/a")).fields()["authorization"] == f"Bearer {SECRET}"
            assert (await client.request("GET", f"{other.url}/echo/a")).fields()["authorization"] is None
        finally:
            await client.close()


async def test_redirects_are_not_followed(client: Web) -> None:
    with pytest.raises(BadStatus, match=r"points to http://elsewhere.example/login; give that address") as caught:
        await client.request("GET", "/away")
    assert caught.value.kind == "misconfigured" and "next" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "refused"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "misconfigured"),
        (408, "timed_out"),
        (409, "conflict"),
        (413, "refused"),
        (422, "refused"),
        (429, "throttled"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (504, "timed_out"),
        (507, "full"),
    ],
)
async def test_statuses_are_kinds_of_failures(client: Web, echo: Echo, status: int, kind: str) -> None:
    echo.fail("status", status=status, body=f"<html><style>x{{}}</style><h1>No</h1>\n\n{SECRET} is wrong</html>")
    with pytest.raises(BadStatus) as caught:
        await client.request("GET", "/echo/a")
    assert caught.value.kind == kind and caught.value.status == status
    assert str(caught.value).endswith(f"answered {status}: No *** is wrong")


async def test_a_target_that_asks_for_a_pause_gets_it_from_all_requests(client: Web, echo: Echo) -> None:
    echo.fail("status", status=429, retry_after=100)
    for _ in range(2):
        with pytest.raises(DeliveryFailed) as caught:
            await client.request("GET", "/echo/a")
        assert caught.value.kind == "throttled" and 90 < (caught.value.retry_after_s or 0) <= 100
    assert len(echo.requests) == 1


async def test_a_lost_reply_is_not_taken_for_a_failure_without_effect(client: Web, echo: Echo) -> None:
    echo.fail("drop_after", method="POST")
    with pytest.raises(NoAnswer) as caught:
        await client.request("POST", "/echo/a", body=b"x")
    assert caught.value.kind == "unreachable" and caught.value.maybe_done
    assert echo.kept == [b"x"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_nothing_is_sent_twice_behind_our_back(client: Web, echo: Echo, method: str) -> None:
    await client.request("GET", "/echo/first")  # so that the connection is a reused one
    echo.fail("drop_after", path="second")
    with pytest.raises(NoAnswer):
        await client.request(method, "/echo/second", body=b"x" if method == "PUT" else None)
    assert echo.count(path="second") == 1


async def test_a_refused_connection_is_known_to_have_done_nothing(echo: Echo) -> None:
    client = client_of(echo)
    await echo.stop()
    try:
        with pytest.raises(NoAnswer) as caught:
            await client.request("POST", "/echo/a", body=b"x")
    finally:
        await client.close()
    assert caught.value.kind == "unreachable" and not caught.value.maybe_done


async def test_a_reset_in_the_midst_of_a_body(client: Web, echo: Echo, file: Path) -> None:
    echo.fail("reset", after_bytes=100_000)
    with pytest.raises(NoAnswer) as caught:
        await client.request("POST", "/echo/a", body=Body([FilePart(file)], "application/octet-stream"))
    assert caught.value.kind == "unreachable" and caught.value.maybe_done
    assert len(echo.kept[0]) == 100_000


async def test_a_no_that_comes_before_the_body_was_read_is_heard(tmp_path: Path) -> None:
    """As from a server that sees by the length that it is too much, and closes: the break must not hide the answer."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
        await writer.drain()
        writer.close()  # what it has not read makes this a reset

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    client = Web("echo", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        with pytest.raises(BadStatus, match="413: too large") as caught:
            await client.request("POST", "/a", body=Body([FilePart(large)], "application/octet-stream"))
    finally:
        await client.close()
        server.close()
    assert caught.value.kind == "refused"


async def test_a_peer_that_stops_reading_is_given_up(echo: Echo, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)  # more than the buffers of both ends hold
    echo.fail("stall", after_bytes=1, seconds=60)
    client = client_of(echo, idle_s=0.5)
    began = time.monotonic()
    try:
        with pytest.raises(NoAnswer, match="nothing moved") as caught:
            await client.request("POST", "/echo/a", body=Body([FilePart(large)], "application/octet-stream"))
    finally:
        await client.close()
    assert caught.value.kind == "timed_out" and time.monotonic() - began < 30


async def test_an_answer_that_does_not_come_is_given_up(echo: Echo) -> None:
    echo.fail("slow", seconds=60, times=2)
    client = client_of(echo, answer_s=0.3, connect_s=0.3)
    try:
        for body in (None, b"x"):
            with pytest.raises(NoAnswer) as caught:
                await client.request("POST", "/echo/a", body=body)
            assert caught.value.kind == "timed_out" and caught.value.maybe_done
    finally:
        await client.close()


async def test_slow_but_moving_is_not_given_up(echo: Echo, file: Path) -> None:
    """The whole takes much longer than `idle_s`; no single step does."""
    client = client_of(echo, idle_s=2.0, connections=1)
    inner = Body._pieces  # pyright: ignore[reportPrivateUsage]

    async def slowly(self: Body, writer: object, data: bytes) -> None:
        await asyncio.sleep(1.0)
        await inner(self, writer, data)  # pyright: ignore[reportArgumentType]

    body = Body([FilePart(file)], "application/octet-stream")
    body._pieces = slowly.__get__(body)  # pyright: ignore[reportPrivateUsage]
    try:
        assert (await client.request("POST", "/echo/a", body=body)).fields()["size"] == 3_200_000
    finally:
        await client.close()


async def test_a_file_that_shrinks_while_it_is_sent(client: Web, file: Path) -> None:
    part = FilePart(file, length=file.stat().st_size + 10)
    with pytest.raises(DeliveryFailed, match="shorter") as caught:
        await client.request("POST", "/echo/a", body=Body([part], "application/octet-stream"))
    assert caught.value.kind == "changed"


async def test_a_file_that_vanishes(client: Web, tmp_path: Path) -> None:
    part = FilePart(tmp_path / "gone", length=10)
    with pytest.raises(DeliveryFailed) as caught:
        await client.request("POST", "/echo/a", body=Body([part], "application/octet-stream"))
    assert caught.value.kind == "missing"


async def test_an_endless_answer_is_not_kept(client: Web) -> None:
    with pytest.raises(DeliveryFailed, match="more than 1,000,000 bytes"):
        await client.request("GET", "/large", largest=1_000_000)
    size = 0

    def count(piece: bytes) -> None:
        nonlocal size
        size += len(piece)

    assert (await client.request("GET", "/large", largest=1_000_000, into=count)).body == b""
    assert size == 3 << 20


async def test_an_answer_that_is_no_json(client: Web, echo: Echo) -> None:
    echo.fail("status", status=200, body="<html>Please log in</html>")
    with pytest.raises(DeliveryFailed, match="no JSON: Please log in"):
        (await client.request("GET", "/echo/a")).json()


async def test_requests_are_paced() -> None:
    now = 0.0
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 6))

    bucket = Bucket(2.0, 3, clock=lambda: now, sleep=sleep)
    for _ in range(5):
        await bucket.take()
    assert waited == [0.5, 1.0]
    now = 10.0
    for _ in range(3):
        await bucket.take()
    assert waited == [0.5, 1.0]
    with pytest.raises(DeliveryFailed) as caught:
        await bucket.take(patience_s=0.1)
    assert caught.value.kind == "throttled" and caught.value.retry_after_s == 0.5


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s({"Retry-After": "7"}) == 7
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:02:00 GMT"}, now=lambda: 100.0) == 20
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, now=lambda: 100.0) == 0
    assert retry_after_s({"Retry-After": "soon"}) is None and retry_after_s({}) is None


def test_a_status_with_its_wait_is_throttling() -> None:
    assert kind_of(503, 3.0) == "throttled" and kind_of(500, 3.0) == "server_error"


def test_errors_are_cut_to_a_line() -> None:
    assert one_line(b"a\r\n\x1b[31m b" + b"x" * 5000) == ("a [31m b" + "x" * 5000)[:297] + "..."


def test_a_double_lives_as_a_process(tmp_path: Path) -> None:
    """As fault tests use it: faults, switches and looks from outside."""
    with outside("echo", tmp_path) as double:
        double.fail("status", status=418, times=1)
        with pytest.raises(BadStatus):
            asyncio.run(_get(double.url))
        asyncio.run(_get(double.url))
        assert [one.status for one in double.seen()] == [418, 200]
        assert double.contents() == [""]


async def _get(url: str) -> None:
    client = Web("echo", url)
    try:
        await client.request("GET", "/echo/a")
    finally:
        await client.close()
