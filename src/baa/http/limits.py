"""What a request may cost us before the application sees it, each figure with its reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from baa.api.errors import Code, Rejected

Scope: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]  # Every framework has its own types for the three.

MAX_BODY_BYTES: Final = 8 << 20  # Codex takes 1,048,576 characters; JSON may write each of them as six bytes.
MAX_JSON_DEPTH: Final = 32  # Ours go four deep; an output schema goes deeper.
MAX_JSON_NODES: Final = 10_000  # Bounds what a small body can cost as Python objects.
MAX_HEAD_BYTES: Final = 16 * 1024  # Request line and header fields together; ours take 300 bytes.
MAX_HEADER_FIELDS: Final = 64
MAX_HEAD_LINE_BYTES: Final = 8000  # The WebSocket parser behind the HTTP one hangs at 8192.
MAX_WS_MESSAGE_BYTES: Final = 64 * 1024  # Clients only ever send small control frames.


@dataclass(frozen=True, slots=True)
class Allowance:
    """What clients may take of our time and room. Seconds are those of the whole, however it trickles.

    `head_s` from the connection, or from the first byte of a later request; `body_s` from the end of the head;
    `handshake_s` for our own part of a WebSocket's; `idle_s` between two requests, and for taking a part of an answer.
    Of `connections` more than that only `/healthz` is answered; above `spare` more, who kept us waiting longest goes.
    """

    head_s: float = 5.0
    body_s: float = 15.0
    handshake_s: float = 10.0
    idle_s: float = 30.0
    connections: int = 256
    spare: int = 32


ALLOWED: Final = Allowance()

ABORT: Final = "baa.abort"
"""The extension of a request's scope that ends its connection at once, whatever of the answer is unsent."""


def too_large() -> Rejected:
    """The refusal of a body above the limit."""
    return Rejected(
        Code.TOO_LARGE,
        f"The body is larger than {MAX_BODY_BYTES} bytes. Put long input in a file, and name the file in the prompt.",
    )


def check_announced(content_length: str | None) -> None:
    """Refuse a body that says by itself that it is too large; what it says otherwise is not believed."""
    if content_length is not None and content_length.isascii() and content_length.isdigit():
        significant = content_length.lstrip("0")
        if len(significant) > len(str(MAX_BODY_BYTES)) or int(significant or "0") > MAX_BODY_BYTES:
            raise too_large()


async def read_body(receive: Receive, *, keep: bool = True) -> bytes | None:
    """The whole body, counted as it comes; None if the client went away before its end. Without `keep`, nothing."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise too_large()
        if keep:
            chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out `body` in one piece, and then whatever comes from the client."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def cut_off(scope: Scope) -> None:
    """End the connection of an HTTP request whose client takes nothing: an end in good order would wait for it."""
    scope["extensions"][ABORT]["now"]()
