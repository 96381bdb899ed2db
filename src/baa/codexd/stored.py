"""Events as the log holds them: their bytes, and their rows."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
from msgspec import Struct

from baa.api.events import EventType
from baa.codexd.machines.inputs import NewEvent


class Stored(Struct, frozen=True):
    """An event as the log holds it."""

    seq: int
    session_id: str | None
    type: str
    body: bytes


def body_of(event: NewEvent, seq: int, at: str, payload: bytes) -> bytes:
    """The event's bytes, as every reader gets them. `payload` is already JSON."""
    return b'{"seq":%d,%b%b}' % (seq, about(event, at), payload)


def about(event: NewEvent, at: str) -> bytes:
    """What stands between an event's seq and its payload."""
    return b'"at":"%b","type":"%b","sessionId":%b,"turnId":%b,"payload":' % (
        at.encode(),
        event.type.encode(),
        _id(event.session_id),
        _id(event.turn_id),
    )


def run_at(events: Sequence[NewEvent], begin: int) -> Sequence[NewEvent]:
    """The pieces of one turn that stand there, one after the other; no more than are needed to make each cheap."""
    turn_id, end = events[begin].turn_id, begin + 1
    while end < len(events) and events[end].type is EventType.ITEM_DELTA and events[end].turn_id == turn_id:
        end += 1
    return events[begin:end]


def _id(text: str | None) -> bytes:
    return b"null" if text is None else b'"%b"' % text.encode()


def insert(connection: apsw.Connection, stored: list[Stored]) -> None:
    """Put the rows of events into the log's table."""
    connection.executemany(
        "INSERT INTO event (seq, session_id, type, body) VALUES (?, ?, ?, ?)",
        [(event.seq, event.session_id, event.type, event.body) for event in stored],
    )
