"""Frames that are no good WebSocket, on a socket whose handshake went through; and what must come of each."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Final, NamedTuple

from tests.support.node import PATIENCE_SECONDS

PROTOCOL, NOT_TEXT, TOO_BIG = 1002, 1007, 1009
PATH: Final = "/v1/codexd/events"
KEY: Final = base64.b64encode(bytes(16)).decode()


class Case(NamedTuple):
    """`close` is the code that the server closes with; None: it takes what came and answers a ping that follows."""

    name: str
    raw: bytes
    close: int | None


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A frame under a mask of zeros, or under none."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b""
    if not length:
        length = b"\x7f" + struct.pack(">Q", size)
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    return bytes([first, length[0] | (0x80 if mask else 0)]) + length[1:] + (bytes(4) if mask else b"") + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(8, struct.pack(">H", code) + reason)


CASES: Final = (
    # what a client may say: nobody listens, and nothing comes of it
    Case("text", frame(1, b"hello"), None),
    Case("binary", frame(2, b"\x00\xff"), None),
    Case("text in three pieces", frame(1, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c"), None),
    Case("a ping between pieces", frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"c"), None),
    Case("a character in two pieces", frame(1, b"\xc3", fin=False) + frame(0, b"\xa9"), None),
    Case("a thousand empty pieces", frame(1, fin=False) + frame(0, fin=False) * 1000 + frame(0), None),
    Case("a thousand pings", frame(9, b"p") * 1000, None),
    Case("a pong for nobody", frame(10, b"p"), None),
    Case("JSON that asks for something", frame(1, b'{"type":"subscribe","after":"0"}'), None),
    Case("the largest message", frame(1, b"x" * 65536), None),
    # masks, bits, opcodes
    Case("text without a mask", frame(1, b"hello", mask=False), PROTOCOL),
    Case("a ping without a mask", frame(9, mask=False), PROTOCOL),
    Case("a close without a mask", frame(8, mask=False), PROTOCOL),
    Case("the first reserved bit: compressed", frame(1, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4), PROTOCOL),
    Case("the second reserved bit", frame(1, b"a", rsv=2), PROTOCOL),
    Case("the third reserved bit", frame(1, b"a", rsv=1), PROTOCOL),
    Case("all reserved bits of a ping", frame(9, rsv=7), PROTOCOL),
    *(Case(f"the reserved opcode {opcode}", frame(opcode), PROTOCOL) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    # pieces
    Case("a piece of nothing", frame(0, b"a"), PROTOCOL),
    Case("a last piece of nothing", frame(0, b"a", fin=False), PROTOCOL),
    Case("text within text", frame(1, b"a", fin=False) + frame(1, b"b"), PROTOCOL),
    Case("a ping in pieces", frame(9, b"a", fin=False), PROTOCOL),
    Case("a close in pieces", frame(8, b"\x03\xe8", fin=False), PROTOCOL),
    # lengths
    Case("a ping of 126 bytes", frame(9, b"x" * 126), PROTOCOL),
    Case("a close of 126 bytes", frame(8, b"\x03\xe8" + b"x" * 124), PROTOCOL),
    Case("a byte more than the largest message", frame(1, b"x" * 65537), TOO_BIG),
    Case("pieces of too much", frame(1, b"x" * 40000, fin=False) + frame(0, b"x" * 40000), TOO_BIG),
    Case("a length of 2^62", b"\x81\xff" + struct.pack(">Q", 2**62) + bytes(4), TOO_BIG),
    Case("a length of 2^63 and more", b"\x81\xff" + b"\xff" * 8 + bytes(4), TOO_BIG),
    # text
    Case("a byte that no UTF-8 has", frame(1, b"\xff"), NOT_TEXT),
    Case("half a surrogate pair", frame(1, b"\xed\xa0\x80"), NOT_TEXT),
    Case("an overlong slash", frame(1, b"\xc0\xaf"), NOT_TEXT),
    Case("beyond Unicode", frame(1, b"\xf4\x90\x80\x80"), NOT_TEXT),
    Case("half a character at the end", frame(1, b"\xc3"), NOT_TEXT),
    # ends
    Case("a close", closing(1000), 1000),
    Case("a close without a code", frame(8), 1005),
    Case("a close of our own codes", closing(4408), 4408),
    Case("half a code", frame(8, b"\x03"), PROTOCOL),
    *(
        Case(f"the code {code}", closing(code), PROTOCOL)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    ),
    Case("a reason that is no UTF-8", closing(1000, b"\xff"), NOT_TEXT),
    Case("text behind a close", closing(1000) + frame(1, b"a"), 1000),
)


async def close_of(address: str, token: str, case: Case, *, early: bool = False) -> int | None:
    """The code that the server closes with; None if it answers a ping behind the case, and that is what should come.

    `early`: it is sent in one piece with the handshake, and what comes so early counts for nothing. Raises
    TimeoutError, or EOFError if the server says nothing.
    """
    host, _, port = address.removeprefix("http://").rpartition(":")
    head = (
        f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(head.encode() + (case.raw if early else b""))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            writer.write((b"" if early else case.raw) + frame(9, b"still there"))
            while True:
                opcode, payload = await _frame(reader)
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
                if (opcode, payload) == (10, b"still there") and (early or case.close is None):
                    return None
    finally:
        writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    return first & 15, await reader.readexactly(size)
