"""The cheapest clients that Python allows: blocking sockets, no parsing of what is only counted.

A benchmark's own client must cost as little as it can, or it measures itself.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

READ_BYTES: Final = 1 << 18
PATIENCE_S: Final = 300.0

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Closed(Exception):
    """The other end closed."""


def connected(address: str) -> socket.socket:
    """A TCP connection to the host and port of a URL."""
    parts = urlsplit(address)
    sock = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Http:
    """One kept connection for small JSON requests."""

    def __init__(self, address: str, token: str) -> None:
        self._sock = connected(address)
        self._head = f"Host: {urlsplit(address).netloc}\r\nAuthorization: Bearer {token}\r\n".encode()

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of the answer, whatever its status. Raises Closed, and AssertionError for a status above 299."""
        fields = self._head
        if body:
            fields += b"Content-Type: application/json\r\n"
        if method == "POST":
            fields += b"Content-Length: %d\r\n" % len(body)
        self._sock.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + fields + b"\r\n" + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._read()
        head, _, rest = data.partition(b"\r\n\r\n")
        (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        chunks, size = [rest], len(rest)
        while size < length:
            chunks.append(self._read())
            size += len(chunks[-1])
        answer = b"".join(chunks)
        assert head.split(b" ", 2)[1].startswith(b"2"), answer
        return answer

    def close(self) -> None:
        """End it."""
        self._sock.close()

    def _read(self) -> bytes:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise Closed
        return data


class WebSocket:
    """A client of one WebSocket: whole text messages in, masked ones out."""

    def __init__(self, address: str, path: str = "/", *, token: str | None = None) -> None:
        self._sock = connected(address)
        self._buffer = bytearray()
        fields = [
            f"GET {path} HTTP/1.1",
            f"Host: {urlsplit(address).netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Authorization: Bearer {token}"] if token else []),
        ]
        self._sock.sendall("\r\n".join([*fields, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self.fill()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self._buffer = bytearray(rest)

    @property
    def fileno(self) -> int:
        """For select."""
        return self._sock.fileno()

    def send(self, text: bytes) -> None:
        """One text message."""
        self._frame(TEXT, text)

    def messages(self) -> Iterator[bytes]:
        """The text messages as they come. Raises Closed at the end."""
        while True:
            yield from self.waiting()
            self.fill()

    def fill(self) -> None:
        """Read once what is there, or wait for something. Raises Closed."""
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise Closed
        self._buffer += data

    def take(self, into: memoryview) -> int:
        """Put what was read before and not looked at, or what comes next, there: how many bytes. Raises Closed."""
        if self._buffer:
            size = min(len(into), len(self._buffer))
            into[:size] = self._buffer[:size]
            del self._buffer[:size]
            return size
        size = self._sock.recv_into(into)
        if not size:
            raise Closed
        return size

    def waiting(self) -> Iterator[bytes]:
        """The whole messages that were read already."""
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            if opcode == PING:
                self._frame(PONG, payload)
            elif opcode == CLOSE:
                raise Closed
            elif opcode == TEXT:
                yield payload

    def close(self) -> None:
        """End it without a goodbye."""
        self._sock.close()

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        assert buffer[0] & 0x80, "none of these servers splits a message"
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            if len(buffer) < 4:
                return None
            (size,), start = struct.unpack_from("!H", buffer, 2), 4
        elif size == 127:
            if len(buffer) < 10:
                return None
            (size,), start = struct.unpack_from("!Q", buffer, 2), 10
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        opcode = buffer[0] & 0x0F
        del buffer[: start + size]
        return opcode, payload

    def _frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        self._sock.sendall(head + b"\0\0\0\0" + payload)  # A mask of zeros masks nothing, and is a mask.
