"""WebSocket frames made once and sent to many: for a hundred readers, encoding would cost more than sending."""

from __future__ import annotations

import struct
from typing import Final

FRAME: Final = "baa.frame"
"""The key of a `websocket.send` that holds a whole frame instead of its text. Only our own server knows it."""


def text_frame(text: bytes) -> bytes:
    """A text message, UTF-8, as one frame of a server: whole and not masked (RFC 6455, section 5.2)."""
    size = len(text)
    if size < 126:
        head = bytes((0x81, size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x81, 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, 127, size)
    return head + text
