"""Which Idempotency-Keys were used, and for what. They are kept as turns are, and most of them in the log alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apsw


@dataclass(slots=True)
class Key:
    """An Idempotency-Key that was used: for which body, and what was answered. `steering`: not answered yet."""

    body_hash: str
    turn_id: str
    seq: int
    steered: bool = False
    steering: asyncio.Future[dict[str, Any] | None] | None = None


class Keys:
    """All keys. What is not committed or not answered yet is held here, all else is looked up where it stands."""

    def __init__(self, reader: Callable[[], apsw.Connection]) -> None:
        """`reader` gives a connection to the log."""
        self._reader = reader
        self._fresh: dict[str, Key] = {}

    def get(self, key: str) -> Key | None:
        """What was answered to this key, or will be; None if it was not used."""
        return self._fresh.get(key) or self._stored(key)

    def use(self, key: str, entry: Key) -> None:
        """From now on it is used."""
        self._fresh[key] = entry

    def answered(self, key: str, entry: Key) -> None:
        """What came of it is in the log."""
        if entry.steering is not None:  # what a codexd after this one will answer
            stored = self._stored(key)
            assert stored is not None  # it was committed with the event that told of it
            entry.seq, entry.steering = stored.seq, None
        self.forget(key, entry)

    def forget(self, key: str, entry: Key) -> None:
        """It is not held any more: what came of it is in the log, or nothing did, and it may be used again."""
        if self._fresh.get(key) is entry:
            del self._fresh[key]

    def _stored(self, key: str) -> Key | None:
        query = "SELECT body_hash, turn_id, seq, steered FROM idempotency_key WHERE key = ?"
        for body_hash, turn_id, seq, steered in self._reader().execute(query, (key,)):
            return Key(body_hash, turn_id, seq, bool(steered))
        return None
