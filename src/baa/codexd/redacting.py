"""What the log does with secrets, where events become bytes: nothing else writes what Codex or a client said.

An event is told without its secrets, and the tables follow from the event. What is needed as it was (the settings of a
session, the request of a turn, a question, a line for the child) is kept closed beside (seal.py) for as long as it is.

An item's text comes in pieces, and a secret may lie across several. What may be the beginning of one is held back until
more of it comes or the item ends. Where each such text stands is committed with the events that brought it there: what
was told is read back from the log, what was not is in `held`, closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import apsw
import msgspec
from msgspec import Struct

from baa.api import events as e
from baa.api.events import TURN_ENDS, EventType, Payload
from baa.codexd import reading
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.seal import Seal
from baa.known_secrets import KnownSecrets
from baa.redaction import CONTEXT, FRESH, Tail

KEPT: Final = frozenset(
    {
        *("thread_id", "agent_thread_id", "codex_turn_id", "last_turn_id", "session_id", "turn_id", "item_id"),
        *("interaction_id", "request_id", "daemon_id", "idempotency_key", "body_hash", "kind", "stream", "method"),
        *("version", "codex_version", "emitted_at", "deadline_at", "cwd", "writable_roots", "resolved_by", "answered"),
        *("model", "model_provider", "effort", "service_tier"),
    }
)
"""The fields of events and their parts that stay as they are: names and places that other things are found by."""

ITEM_ENDS: Final = frozenset({EventType.ITEM_COMPLETED, EventType.ITEM_ABANDONED})

ASKED_ENDS: Final = frozenset({EventType.INTERACTION_RESOLVED, EventType.INTERACTION_EXPIRED})

Told = TypeVar("Told")

Key = tuple[str, str, str]
"""A text that comes in pieces: of which turn, which item, and which of its streams."""


_encode: Final = msgspec.json.Encoder().encode


class Private(Struct, frozen=True):
    """A value of a statement that may hold a secret and must be kept as it is: a line for the child, what it needs.

    `surely`: it holds one, whether or not it looks like any.
    """

    value: bytes | str
    surely: bool = False


class Redacting:
    """What one log tells of what it is given. Used by the writer's thread alone, but for `seal`."""

    def __init__(self, connection: apsw.Connection, secrets: KnownSecrets, seal: Seal, head: int) -> None:
        """`head`: up to there the log is an earlier codexd's."""
        self._connection = connection
        self._secrets = secrets
        self.seal = seal
        self._redactor = secrets.redactor()
        self._earlier = head
        self._tails: dict[Key, Tail] = {}
        self._changed: dict[Key, Tail | None] = {}
        self._held: set[Key] = set()
        for turn_id, item_id, stream, told in connection.execute("SELECT turn_id, item_id, stream, told FROM held"):
            opened = seal.open(told)
            tail = Tail() if opened is None else msgspec.convert(msgspec.json.decode(opened), Tail)
            key = (turn_id, item_id, stream)
            self._held.add(key)
            self._tails[key] = tail._replace(shown=self._shown(key))

    def told(self, value: Told) -> Told:
        """The value without secrets; the value itself if there are none. For any thread."""
        told: Told = self._redactor.value(value, KEPT)
        return told

    # --- around a commit

    def begin(self) -> None:
        """A transaction begins: what an undone one changed is forgotten, and what has become known is known."""
        self._changed = {}
        self._redactor = self._secrets.redactor()

    def put_down(self) -> None:
        """Put down, in the transaction, where the texts stand of which something is held back."""
        for key, tail in self._changed.items():
            if tail is not None and (tail.hidden or tail.within):
                told = self.seal.close(msgspec.json.encode(tail._replace(shown="")))
                statement = "INSERT OR REPLACE INTO held (turn_id, item_id, stream, told) VALUES (?, ?, ?, ?)"
                self._connection.execute(statement, (*key, told))
            elif key in self._held:
                self._connection.execute("DELETE FROM held WHERE turn_id = ? AND item_id = ? AND stream = ?", key)

    def committed(self) -> None:
        """The transaction is committed."""
        for key, tail in self._changed.items():
            if tail is None:
                self._tails.pop(key, None)
                self._held.discard(key)
                continue
            self._tails[key] = tail
            (self._held.add if tail.hidden or tail.within else self._held.discard)(key)
        self._changed = {}

    # --- events

    def deltas(self, run: Sequence[NewEvent]) -> list[bytes]:
        """The JSON of pieces of one turn, one after the other, as far as they may be told; each text may be empty."""
        turn_id = run[0].turn_id
        assert turn_id is not None
        pieces = [event.payload for event in run if isinstance(event.payload, e.ItemDelta)]
        item_id, stream = pieces[0].item_id, pieces[0].stream
        said = [piece.delta for piece in pieces if piece.item_id == item_id and piece.stream == stream]
        key = (turn_id, item_id, stream)
        plain = self._redactor.plain(self._tail(key), "".join(said)) if len(said) == len(pieces) else None
        if plain is None:
            return [_encode(self._delta(turn_id, piece)) for piece in pieces]
        self._changed[key] = plain
        return [_encode(piece) for piece in pieces]

    def _delta(self, turn_id: str, piece: e.ItemDelta) -> e.ItemDelta:
        key = (turn_id, piece.item_id, piece.stream)
        told, self._changed[key] = self._redactor.piece(self._tail(key), piece.delta)
        return piece if told == piece.delta else msgspec.structs.replace(piece, delta=told)

    def before(self, event: NewEvent) -> Iterator[NewEvent]:
        """What is to be told before this event: what was held back of the texts that end with it."""
        if event.type not in ITEM_ENDS and event.type not in TURN_ENDS and event.type is not EventType.ITEM_STARTED:
            return
        item_id = getattr(event.payload, "item_id", None)
        keys = {*self._tails, *self._changed}
        for key in sorted(key for key in keys if key[0] == event.turn_id and item_id in (None, key[1])):
            tail = self._tail(key)
            rest = self._redactor.rest(tail)
            self._changed[key] = None
            if rest:
                payload = e.ItemDelta(item_id=key[1], stream=key[2], delta=rest)
                yield NewEvent(EventType.ITEM_DELTA, event.session_id, event.turn_id, payload)

    def encoded(self, event: NewEvent, payload: Payload) -> bytes:
        """The payload's JSON without secrets; what will be needed as it is, is closed and put beside."""
        if event.type in TURN_ENDS or event.type is EventType.SESSION_CLOSED or event.type in ASKED_ENDS:
            self._forget(event)
        encoded = _encode(payload)
        if event.type is EventType.ITEM_DELTA or not self._redactor.suspects(encoded):
            return encoded
        told: Payload = self._redactor.value(payload, KEPT)
        if told is payload:
            return encoded
        self._keep(event, payload)
        return _encode(told)

    def statement(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values of a statement; those that may hold a secret are closed if they do."""
        if not any(isinstance(value, Private) for value in values):
            return values
        return tuple(self._closed(value) if isinstance(value, Private) else value for value in values)

    def _closed(self, private: Private) -> bytes | str:
        value = private.value
        encoded = value.encode() if isinstance(value, str) else value
        if not (private.surely or self._redactor.suspects(encoded)):
            return value
        return self.seal.close_text(value) if isinstance(value, str) else self.seal.close(value)

    def _keep(self, event: NewEvent, payload: Payload) -> None:
        """Keep what the tables are read for at the next start: there it stands without its secrets."""
        match payload:
            case e.SessionRegistered():
                owner_id, needed = event.session_id, msgspec.json.encode(payload.settings)
            case e.TurnQueued(requeued=False):
                owner_id, needed = event.turn_id, msgspec.json.encode(payload.request)
            case e.InteractionRequested():
                owner_id, needed = payload.interaction_id, bytes(payload.request)
            case _:
                return
        statement = "INSERT OR REPLACE INTO sealed (owner_id, told) VALUES (?, ?)"
        self._connection.execute(statement, (owner_id, self.seal.close(needed)))

    def _forget(self, event: NewEvent) -> None:
        payload = event.payload
        owner_id = (
            payload.interaction_id if isinstance(payload, e.InteractionEnded) else event.turn_id or event.session_id
        )
        self._connection.execute("DELETE FROM sealed WHERE owner_id = ?", (owner_id,))

    # --- texts

    def _tail(self, key: Key) -> Tail:
        tail = self._changed.get(key)
        if tail is None and key not in self._changed:
            tail = self._tails.get(key)
            if tail is None and self._earlier:
                tail = Tail(self._shown(key))
        return tail or FRESH

    def _shown(self, key: Key) -> str:
        """What an earlier codexd told last of a text."""
        return reading.last_told(self._connection, *key, before=self._earlier, characters=CONTEXT)


def cannot_open(connection: apsw.Connection, seal: Seal) -> str | None:
    """Why lines for the living child cannot be read any more, if that is so: their key is gone."""
    for (line,) in connection.execute("SELECT line FROM outbox"):
        if seal.open(line) is None:
            return "the key of lines that its child was to get is gone (codexd.seal)"
    return None
