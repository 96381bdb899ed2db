"""How long ago an event was, also when the wall clock was set meanwhile.

Events hold UTC, which anybody may set; deadlines are monotonic. How far the two lie apart is kept in the log's file,
put down anew at each jump of the wall clock, with the seq from which on it holds: each event is dated by its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import apsw
import msgspec

from baa.clock import Clock
from baa.codexd.eventlog import Transaction
from baa.engine.boot import boot_id

JUMP_MS: Final = 1000
"""A difference that is put down: less is what clocks do when they are kept right."""

JUMPS_KEPT: Final = 16

_KEY: Final = "clock"


class _Apart(msgspec.Struct, array_like=True):
    """The wall clock was so much ahead of the monotonic one for the events after `seq`."""

    seq: int
    apart_ms: int


class _Told(msgspec.Struct):
    boot_id: str
    jumps: list[_Apart]


class WallTime:
    """The wall clock against the monotonic one, in the life of one codexd."""

    def __init__(self, connection: apsw.Connection, clock: Clock) -> None:
        """Go on from what the last codexd put down."""
        self._clock = clock
        self._told = _read(connection)

    def watch(self, head: int, transaction: Transaction) -> None:
        """Put down how far the clocks lie apart, if that changed; `head` is the last event before."""
        apart_ms = self._clock.utc_ms() - round(self._clock.monotonic() * 1000)
        jumps = self._told.jumps
        if not jumps or abs(apart_ms - jumps[-1].apart_ms) > JUMP_MS:
            self._told = _Told(boot_id(), [*jumps, _Apart(head, apart_ms)][-JUMPS_KEPT:])
            told = msgspec.json.encode(self._told).decode()
            transaction.statements.append(("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_KEY, told)))


def ago_ms(connection: apsw.Connection, clock: Clock, seq: int, at: str) -> int:
    """Milliseconds since event `seq`, which was written `at`. After a reboot there is only UTC to tell it by."""
    at_ms = round(datetime.fromisoformat(at).timestamp() * 1000)
    jumps = _read(connection).jumps
    now_ms = clock.utc_ms()
    if jumps:
        held = next((jump for jump in reversed(jumps) if jump.seq < seq), jumps[0])
        now_ms = round(clock.monotonic() * 1000) + held.apart_ms
    return max(0, now_ms - at_ms)


def _read(connection: apsw.Connection) -> _Told:
    """What is put down of this boot."""
    row = next(connection.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)), None)
    told = _Told(boot_id(), []) if row is None else msgspec.json.decode(row[0], type=_Told)
    return told if told.boot_id == boot_id() else _Told(boot_id(), [])
