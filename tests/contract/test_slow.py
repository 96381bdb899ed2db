"""Clients that take our time or our room, over real sockets: each is cut off, and `/healthz` is answered meanwhile.

Times are settings, short here. Nothing measures them: what has to end is waited for, and what trickles would go on for
ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from baa.http.limits import Allowance, Receive, Scope, Send
from baa.http.serve import HttpServer, bind
from tests.support.faults import saw
from tests.support.house import DRIVE, JSON_TYPE, READ, UPGRADE, House, code, serving, status, until

SHORT_S = 0.3
LONG_S = 600.0
TRICKLE_S = 0.02
PATIENCE_S = 60

FAST = Allowance(head_s=SHORT_S, body_s=SHORT_S, handshake_s=SHORT_S, idle_s=SHORT_S)


def run(scenario: Callable[[House], Awaitable[None]], allowance: Allowance = FAST) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), serving(never_ends, allowance=allowance) as house:
            await scenario(house)

    asyncio.run(main())


async def never_ends(receive: Receive, _: Send) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def trickled(house: House, first: bytes, rest: bytes) -> bytes:
    """All that comes back for `first`, and then `rest` over and over, byte by byte, for as long as there is anybody."""
    async with connected(house) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(first)
        answer = tasks.create_task(all_of(reader), name="answer")
        with suppress(ConnectionError):
            while not answer.done():
                for byte in rest:
                    writer.write(bytes([byte]))
                    await asyncio.wait([answer], timeout=TRICKLE_S)
    return answer.result()


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; nothing, if the end is a hard one."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


TRICKLES = [
    ("a head", b"GET /open HTTP/1.1\r\n{host}X: ", b"y"),
    ("a request line", b"GET /", b"y"),
    ("blank lines", b"\r\n", b"\r\n"),
    ("a handshake", b"GET /live HTTP/1.1\r\n{host}{read}Upgrade: websocket\r\nConnection: Upgrade\r\nX: ", b"y"),
    ("a body", b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Content-Length: 999999\r\n\r\n", b"y"),
    ("chunks", b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Transfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"),
    ("a body of a GET", b"GET /open HTTP/1.1\r\n{host}Content-Length: 999999\r\n\r\n", b"y"),
]


@pytest.mark.parametrize(("first", "rest"), [each[1:] for each in TRICKLES], ids=[each[0] for each in TRICKLES])
def test_what_trickles_is_cut_off_and_reaches_nobody(first: bytes, rest: bytes) -> None:
    async def scenario(house: House) -> None:
        answer = await trickled(house, house.filled(first), rest)
        # A client that is writing when it is cut off may lose the answer; the count stays.
        assert answer == b"" or (status(answer), code(answer)) == (408, "request_timeout")
        await until(lambda: house.server.connections == 0)
        assert house.reached == []
        assert house.guard.refused == {"request_timeout": 1}
        saw("F73", answer == b"" or status(answer) == 408, "it trickled, and was cut off")

    run(scenario)


@pytest.mark.parametrize(
    "half", [b"GET /open HTTP/1.1\r\n", b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Content-Length: 2\r\n\r\n{"]
)
def test_a_half_request_is_told_that_it_was_too_slow(half: bytes) -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(house.filled(half))
        assert (status(answer), code(answer)) == (408, "request_timeout")
        assert b"connection: close" in answer
        await until(lambda: house.server.connections == 0)
        assert house.reached == []
        saw("F73", status(answer) == 408, "the rest of a request never came")

    run(scenario)


def test_who_asks_nothing_is_told_nothing() -> None:
    async def scenario(house: House) -> None:
        assert await house.exchange() == b""
        assert house.guard.refused == {}

    run(scenario)


@pytest.mark.parametrize("rest", [b"\r\n", b"GET /open HTTP/1.1\r\nX: "])
def test_a_later_request_has_no_more_time_than_the_first(rest: bytes) -> None:
    async def scenario(house: House) -> None:
        first = b"GET /healthz HTTP/1.1\r\n" + house.host + b"\r\n"
        answer = await trickled(house, first, rest)
        assert house.reached == ["/healthz"]
        assert answer == b"" or answer.startswith(b"HTTP/1.1 200 ")
        await until(lambda: house.server.connections == 0)
        saw("F73", house.server.connections == 0, "a later request trickled")

    run(scenario)


def test_an_answer_is_not_broken_by_words_about_the_request_behind_it() -> None:
    async def scenario(house: House) -> None:
        poll = b"GET /poll HTTP/1.1\r\n" + house.host + b"\r\n"
        assert await trickled(house, poll + b"GET /open HTTP/1.1\r\nX: ", b"y") == b""
        assert house.reached == ["/poll"]

    run(scenario)


def test_what_waits_for_us_may_take_its_time() -> None:
    async def scenario(house: House) -> None:
        async with connected(house) as (_, poll), connected(house) as (_, live):
            poll.write(b"GET /poll HTTP/1.1\r\n" + house.host + b"\r\n")
            live.write(b"GET /live HTTP/1.1\r\n" + house.host + READ + UPGRADE + b"\r\n")
            await house.polling.wait()
            for _ in range(3):
                assert await house.exchange() == b""  # every time that there is has passed once more
            assert house.server.connections == 2
        await until(lambda: house.server.connections == 0)

    run(scenario)


async def mute(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


def test_a_handshake_that_nobody_answers_ends() -> None:
    async def main() -> None:
        sock = bind("127.0.0.1", 0)
        server = HttpServer(mute, sock, grace_seconds=0.1, allowance=FAST)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(), name="server")
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n")
            assert await reader.read() == b""
            writer.close()
            server.stop()

    asyncio.run(main())


@pytest.mark.parametrize("ask", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"])
def test_an_answer_that_nobody_takes_holds_no_connection(ask: bytes) -> None:
    body = b"x" * (16 << 20)

    async def much(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def main() -> None:
        sock = bind("127.0.0.1", 0)
        server = HttpServer(much, sock, grace_seconds=0.1, allowance=FAST)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(), name="server")
            reader, writer = await asyncio.open_connection(*sock.getsockname(), limit=1024)
            writer.write(ask)
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: server.connections == 0)
            writer.transport.abort()
            server.stop()

    asyncio.run(main())


# --- room

OPEN = b"GET /open HTTP/1.1\r\nConnection: close\r\n{host}\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n{host}\r\n"
FEW = Allowance(head_s=LONG_S, body_s=LONG_S, idle_s=LONG_S, connections=2, spare=2)


async def fill(house: House, room: AsyncExitStack, count: int, first: bytes) -> list[asyncio.StreamReader]:
    """As many connections that are open and stay so; their readers, in the order in which they came."""
    readers = []
    for number in range(count):
        reader, writer = await room.enter_async_context(connected(house))
        writer.write(house.filled(first))
        await until(lambda: house.server.connections == number + 1)  # noqa: B023
        readers.append(reader)
    return readers


@pytest.mark.parametrize(
    "ask", [OPEN, b"GET /healthzz HTTP/1.1\r\n{host}\r\n", b"GET /live HTTP/1.1\r\n{host}{read}{upgrade}\r\n"]
)
def test_beyond_what_there_is_room_for_only_health_is_told(ask: bytes) -> None:
    async def scenario(house: House) -> None:
        async with AsyncExitStack() as room:
            await fill(house, room, 2, b"GET /op")
            answer = await house.exchange(house.filled(ask))
            assert (status(answer), code(answer)) == (503, "too_many_connections")
            assert b"retry-after: 1" in answer
            assert house.guard.refused == {"too_many_connections": 1}
            assert status(await house.exchange(house.filled(HEALTH))) == 200
            assert (
                status(await house.exchange(house.filled(HEALTH.replace(b"z ", b"z?nonce=" + b"n" * 22 + b" ")))) == 200
            )
            assert house.reached == ["/healthz"]
        await until(lambda: house.server.connections == 0)
        assert status(await house.exchange(house.filled(OPEN))) == 200

    run(scenario, FEW)


HALVES = [
    ("silence", b""),
    ("half a head", b"GET /open HTTP/1.1\r\nX: "),
    ("half a body", b"POST /drive HTTP/1.1\r\n{host}{drive}{json}Content-Length: 9\r\n\r\n{"),
    ("an idle connection", b"GET /healthz HTTP/1.1\r\n{host}\r\n"),
]


@pytest.mark.parametrize("half", [each[1] for each in HALVES], ids=[each[0] for each in HALVES])
def test_who_kept_us_waiting_longest_goes_and_health_is_always_told(half: bytes) -> None:
    async def scenario(house: House) -> None:
        async with AsyncExitStack() as room:
            readers = await fill(house, room, 4, half)
            for number in range(8):
                assert status(await house.exchange(house.filled(HEALTH))) == 200, number
            told = await all_of(readers[0])
            assert told == b"" or told.startswith(b"HTTP/1.1 200 ")
            assert not readers[3].at_eof() or half == b""
            assert house.server.connections <= 4

    run(scenario, Allowance(head_s=LONG_S, body_s=LONG_S, idle_s=LONG_S, connections=4, spare=0))


def test_who_is_at_work_is_not_cut_off_for_who_comes() -> None:
    async def scenario(house: House) -> None:
        async with AsyncExitStack() as room:
            readers = await fill(house, room, 2, b"GET /poll HTTP/1.1\r\n{host}\r\n")
            answer = await house.exchange()
            assert (status(answer), code(answer)) == (503, "too_many_connections")
            assert house.server.connections == 2
            assert not any(reader.at_eof() for reader in readers)

    run(scenario, Allowance(head_s=LONG_S, connections=2, spare=0))


def test_a_flood_of_connections_is_served_up_to_the_limit_and_leaves_nothing() -> None:
    async def scenario(house: House) -> None:
        async with AsyncExitStack() as room:
            for _ in range(200):
                await room.enter_async_context(connected(house))
            head = b"POST /drive HTTP/1.1\r\n" + house.host + DRIVE + JSON_TYPE
            assert status(await house.exchange(house.filled(HEALTH))) == 200
            assert status(await house.exchange(head + b"Content-Length: 0\r\n\r\n")) == 503
            await until(lambda: house.server.connections <= 4)
        await until(lambda: house.server.connections == 0)

    run(scenario, FEW)
