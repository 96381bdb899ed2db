"""Messages of Codex as they come: through a line of bytes, made here or recorded (record_transcript.py)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from baa.codexd.appserver import jsonrpc, translate
from tests.support.record_transcript import TRANSCRIPT


def come(message: dict[str, Any], generation: int = 1) -> translate.Incoming:
    """What a message means, on its way through a line of bytes."""
    envelope = jsonrpc.decode(msgspec.json.encode(message))
    assert isinstance(envelope, jsonrpc.Envelope)
    return translate.incoming(envelope, generation)


def recorded(side: str) -> list[dict[str, Any]]:
    """What one side said in the recorded conversation: `sent` by codexd, or `told` by Codex."""
    said = (msgspec.json.decode(line) for line in TRANSCRIPT.read_bytes().splitlines())
    return [message[side] for message in said if side in message]


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))
