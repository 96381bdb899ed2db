"""The guard and uvicorn over a real socket: raw bytes in, what comes back out, and what a stop leaves behind."""

from __future__ import annotations

import asyncio
import logging
import struct
from contextlib import suppress
from typing import Any

import pytest

from baa.http.guard import SECURITY_HEADERS
from baa.http.limits import MAX_BODY_BYTES, MAX_HEAD_BYTES, Receive, Send
from baa.http.serve import bind
from tests.support.faults import saw
from tests.support.house import DRIVE, JSON_TYPE, House, code, numbered, run, serving, status, until


@pytest.fixture(autouse=True)
def nothing_is_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_an_allowed_request_reaches_the_application_and_says_nothing_of_the_server() -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(b"GET /open HTTP/1.1\r\nConnection: close\r\n" + house.host + b"\r\n")
        assert status(answer) == 200
        assert b"server:" not in answer.lower()
        assert all(name + b": " + value in answer for name, value in SECURITY_HEADERS)
        assert house.reached == ["/open"]

    run(scenario)


REFUSED_HEADS = [
    (b"GET /open HTTP/1.1\r\nHost: evil.example\r\n", 421, "wrong_host"),
    (b"GET /open HTTP/1.1\r\n", 421, "wrong_host"),
    (b"GET /open HTTP/1.1\r\n{host}{host}", 421, "wrong_host"),
    (b"GET /open HTTP/1.1\r\n{host}Host: evil.example\r\n", 421, "wrong_host"),
    (b"GET http://evil.example/open HTTP/1.1\r\n{host}", 421, "wrong_host"),
    (b"GET http://evil.example/open HTTP/1.1\r\nHost: evil.example\r\n", 421, "wrong_host"),
    (b"GET /open HTTP/1.1\r\n{host}Origin: https://evil.example\r\n", 403, "origin_refused"),
    (b"GET /open HTTP/1.1\r\n{host}Origin:\r\n", 403, "origin_refused"),
    (b"GET /runs HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"OPTIONS /open HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"OPTIONS * HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"TRACE /open HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"GET /drive HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"GET //open HTTP/1.1\r\n{host}", 404, "unknown_route"),
    (b"GET /read HTTP/1.1\r\n{host}", 401, "unauthorized"),
    (b"POST /drive HTTP/1.1\r\n{host}{read}", 403, "read_only_token"),
    (b"POST /drive HTTP/1.1\r\n{host}{drive}Content-Type: text/plain\r\n", 415, "unsupported_media_type"),
    (b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Content-Length: 8388609\r\n", 413, "too_large"),
    (b"FETCH /open HTTP/1.1\r\n{host}", 400, "malformed_request"),
    (b"CONNECT evil.example:80 HTTP/1.1\r\n{host}", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\n{host}", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\nHost : x\r\n", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\n{host} folded\r\n", 400, "malformed_request"),
    (b"GET /caf\xc3\xa9 HTTP/1.1\r\n{host}", 400, "malformed_request"),
    (b"POST /drive HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\n{host}" + b"X: y\r\n" * 64, 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\n{host}X: " + b"y" * 9000 + b"\r\n", 400, "malformed_request"),
    (b"GET /open HTTP/1.1\r\n{host}" + (b"X: " + b"y" * 6000 + b"\r\n") * 3, 400, "malformed_request"),
    (b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\n{host}", 400, "malformed_request"),
    (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400, "malformed_request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", 400, "malformed_request"),
]


@pytest.mark.parametrize(("head", "wanted", "word"), REFUSED_HEADS, ids=numbered(REFUSED_HEADS))
def test_a_refused_request_gets_its_status_and_a_closed_connection(head: bytes, wanted: int, word: str) -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(house.filled(head) + b"\r\n")
        assert (status(answer), code(answer)) == (wanted, word)
        assert b"connection: close" in answer.lower()
        assert house.reached == []

    run(scenario)


def test_an_absolute_target_of_our_own_passes_as_a_proxy_would_send_it() -> None:
    async def scenario(house: House) -> None:
        target = f"http://127.0.0.1:{house.port}/open".encode()
        answer = await house.exchange(b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n" + house.host + b"\r\n")
        assert (status(answer), house.reached) == (200, ["/open"])

    run(scenario)


def test_the_second_of_two_pipelined_requests_is_checked_too() -> None:
    async def scenario(house: House) -> None:
        first = b"GET /open HTTP/1.1\r\n" + house.host + b"\r\n"
        answer = await house.exchange(first + b"GET /read HTTP/1.1\r\n" + house.host + b"\r\n" + first)
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401"]
        assert house.reached == ["/open"]

    run(scenario)


ENDLESS = b"y" * 1_000_000  # More than one read of the server, so that what it kept of the first one counts.


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /open HTTP/1.1\r\n{host}X: " + ENDLESS,
        b"GET /" + ENDLESS,
        b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + ENDLESS,
        b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Transfer-Encoding: chunked\r\n\r\n2;" + ENDLESS,
    ],
    ids=["header", "target", "trailer", "chunk extension"],
)
def test_what_has_no_end_is_cut_off(raw: bytes) -> None:
    async def scenario(house: House) -> None:
        assert status(await house.exchange(house.filled(raw))) in (0, 400)
        await until(lambda: house.server.connections == 0)
        assert house.reached == []

    run(scenario)


def test_a_head_too_large_for_its_limit_is_told_while_the_client_still_listens() -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(b"GET /open HTTP/1.1\r\n" + house.host + b"X: " + b"y" * (MAX_HEAD_BYTES + 1))
        assert (status(answer), code(answer)) == (400, "malformed_request")

    run(scenario)


def test_a_trailer_never_reaches_the_application() -> None:
    async def scenario(house: House) -> None:
        head = house.filled(b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Transfer-Encoding: chunked\r\n\r\n")
        answer = await house.exchange(head + b"2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n")
        assert (status(answer), house.reached) == (400, [])

    run(scenario)


def chunked(size: int) -> list[bytes]:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    return [piece] * (size // 0x10000) + [b"1\r\nx\r\n", b"0\r\n\r\n"]


def test_a_large_body_without_content_length_is_413_and_the_client_can_read_that() -> None:
    async def scenario(house: House) -> None:
        head = b"POST /drive HTTP/1.1\r\n" + house.host + DRIVE + JSON_TYPE + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await house.exchange(head, *chunked(4 * MAX_BODY_BYTES))
        assert (status(answer), code(answer), house.reached) == (413, "too_large", [])

    run(scenario)


def test_a_large_body_behind_a_bad_token_is_401_and_the_client_can_read_that() -> None:
    async def scenario(house: House) -> None:
        head = b"POST /drive HTTP/1.1\r\n" + house.host + JSON_TYPE + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = await house.exchange(head, *chunked(4 * MAX_BODY_BYTES))
        assert (status(answer), code(answer), house.reached) == (401, "unauthorized", [])

    run(scenario)


def test_a_client_that_waits_for_leave_to_send_its_body_is_refused_without_it() -> None:
    async def scenario(house: House) -> None:
        head = b"POST /drive HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + house.host + b"\r\n"
        assert status(await house.exchange(head)) == 401

    run(scenario)


def test_a_body_of_the_limit_reaches_the_application_whole() -> None:
    async def scenario(house: House) -> None:
        head = b"POST /drive HTTP/1.1\r\nConnection: close\r\n" + house.host + DRIVE + JSON_TYPE
        answer = await house.exchange(head + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES, b"x" * MAX_BODY_BYTES)
        assert (status(answer), answer.rpartition(b"\r\n\r\n")[0].endswith(b"%d\r\n0" % MAX_BODY_BYTES)) == (200, True)

    run(scenario)


REFUSED_HANDSHAKES = [
    (b"GET /live HTTP/1.1\r\nHost: evil.example\r\n{read}{upgrade}", 421, "wrong_host"),
    (b"GET http://evil.example/live HTTP/1.1\r\n{host}{read}{upgrade}", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}Origin: https://evil.example\r\n{upgrade}", 403, "origin_refused"),
    (b"GET /live HTTP/1.1\r\n{host}{read}Origin: null\r\n{upgrade}", 403, "origin_refused"),
    (b"GET /runs HTTP/1.1\r\n{host}{read}{upgrade}", 404, "unknown_route"),
    (b"GET /read HTTP/1.1\r\n{host}{read}{upgrade}", 404, "unknown_route"),
    (b"GET /live HTTP/1.1\r\n{host}{upgrade}", 401, "unauthorized"),
    (b"GET /live?token={token} HTTP/1.1\r\n{host}{upgrade}", 401, "unauthorized"),
    (b"POST /live HTTP/1.1\r\n{host}{read}{upgrade}", 400, "malformed_request"),
    (b"GET /live HTTP/1.0\r\n{host}{read}{upgrade}", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}Content-Length: 2\r\n{upgrade}", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}Transfer-Encoding: chunked\r\n{upgrade}", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}Upgrade: websocket\r\nConnection: Upgrade\r\n", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}{upgrade}Sec-WebSocket-Key: <b>\r\n", 400, "malformed_request"),
    (b"GET /live HTTP/1.1\r\n{host}{read}{upgrade}X: " + b"y" * 8100 + b"\r\n", 400, "malformed_request"),
]


@pytest.mark.parametrize(("head", "wanted", "word"), REFUSED_HANDSHAKES, ids=numbered(REFUSED_HANDSHAKES))
def test_a_handshake_is_refused_by_a_status_before_the_upgrade(head: bytes, wanted: int, word: str) -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(house.filled(head) + b"\r\n")
        assert (status(answer), code(answer)) == (wanted, word)
        assert house.reached == []

    run(scenario)


def frame(payload: bytes, opcode: int) -> bytes:
    """A short client frame under a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def server_frames(data: bytes) -> list[tuple[int, int]]:
    """(opcode, length, or the code of a close) of each whole frame."""
    frames = []
    while len(data) >= 2:
        opcode, size, start = data[0] & 15, data[1], 2
        if size == 126:
            size, start = struct.unpack(">H", data[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack(">Q", data[2:10])[0], 10
        payload = data[start : start + size]
        assert len(payload) == size, "half a frame"
        frames.append((opcode, struct.unpack(">H", payload[:2])[0] if opcode == 8 else size))
        data = data[start + size :]
    return frames


def test_a_websocket_gets_frames_and_its_close() -> None:
    async def echo_once(receive: Receive, send: Send) -> None:
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 4000})

    async def main() -> None:
        async with serving(echo_once) as house:
            reader, writer = await house.upgrade()
            writer.write(frame(b"hello", 1))
            async with asyncio.timeout(5):
                assert await reader.readexactly(7) == b"\x81\x05hello"
                assert await reader.readexactly(4) == b"\x88\x02" + struct.pack(">H", 4000)
                writer.write(frame(struct.pack(">H", 4000), 8))
                assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


FRAME = "x" * 16_384
STALL_SECONDS = 0.3  # A send that waits as long waits for the reader: the application's rule, as codexd's will be.
SLOW_READER_BYTES = 8 << 20  # What one may hold in the kernel's buffers (both ends) and ours; it is about 1 MiB here.


def test_a_send_waits_for_a_reader_that_does_not_read_and_the_close_code_still_gets_to_it() -> None:
    sent = 0
    closed = asyncio.Event()

    async def flood_until_it_waits(receive: Receive, send: Send) -> None:
        nonlocal sent
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(STALL_SECONDS):
                    await send({"type": "websocket.send", "text": FRAME})
                sent += 1
        await send({"type": "websocket.close", "code": 4408})
        closed.set()

    async def main() -> None:
        async with serving(flood_until_it_waits) as house:
            reader, writer = await house.upgrade(limit=2**26)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(20):
                await closed.wait()
                writer.transport.resume_reading()  # type: ignore[attr-defined]
                data = await reader.readuntil(b"\x88\x02" + struct.pack(">H", 4408))
            writer.close()
        assert server_frames(data) == [(1, len(FRAME))] * sent + [(8, 4408)]
        assert sent * len(FRAME) < SLOW_READER_BYTES

    asyncio.run(main())


def test_a_reader_that_never_reads_again_is_cut_off_once_its_application_has_ended() -> None:
    ended = asyncio.Event()

    async def flood_and_leave(receive: Receive, send: Send) -> None:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(STALL_SECONDS):
                    await send({"type": "websocket.send", "text": FRAME})
        await send({"type": "websocket.close", "code": 4408})
        ended.set()

    async def main() -> None:
        async with serving(flood_and_leave) as house:
            _, writer = await house.upgrade()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(20):
                await ended.wait()
                await until(lambda: house.server.connections == 0)
            writer.transport.abort()

    asyncio.run(main())


def test_a_reader_that_answers_no_ping_is_cut_off_though_a_send_waits() -> None:
    ended = asyncio.Event()

    async def flood_for_ever(receive: Receive, send: Send) -> None:
        try:
            while True:
                await send({"type": "websocket.send", "text": FRAME})
        finally:
            ended.set()

    async def main() -> None:
        async with serving(flood_for_ever, ping_seconds=0.1) as house:
            _, writer = await house.upgrade()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(20):
                await ended.wait()
            saw("F72", ended.is_set(), "a peer answered no ping and took nothing, as one does that has vanished")
            writer.transport.abort()

    asyncio.run(main())


def test_a_stop_tells_websockets_ends_long_polls_and_frees_the_port() -> None:
    listening = asyncio.Event()
    told: list[Any] = []

    async def listen(receive: Receive, send: Send) -> None:
        listening.set()
        told.append(await receive())

    async def main() -> None:
        async with serving(listen) as house:
            reader, writer = await house.upgrade()
            poller, poll = await asyncio.open_connection("127.0.0.1", house.port)
            poll.write(b"GET /poll HTTP/1.1\r\n" + house.host + b"\r\n")
            idler, idle = await asyncio.open_connection("127.0.0.1", house.port)
            async with asyncio.timeout(5):
                await listening.wait()
                await house.polling.wait()
                house.server.stop()
                assert server_frames(await reader.read()) == [(8, 1012)]
                assert await idler.read() == b""
                with suppress(ConnectionResetError):
                    assert await poller.read() == b""
            for stream in (writer, poll, idle):
                stream.close()
        assert told == [{"type": "websocket.disconnect", "code": 1012}]
        assert house.server.connections == 0
        bind("127.0.0.1", house.port).close()

    asyncio.run(main())


def test_serving_ends_when_it_is_cancelled() -> None:
    async def main() -> None:
        house = House(bind("127.0.0.1", 0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as deadline:
                async with asyncio.TaskGroup() as group:
                    group.create_task(house.server.serve(), name="server")
                    await house.server.started.wait()
                    deadline.reschedule(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", house.port)

    asyncio.run(main())
