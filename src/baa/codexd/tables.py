"""Session, turn, item and idempotency key as tables: made from the events, in the transaction of each event.

`project` is the only writer of these tables. It reads the payload's bytes, so what it does to a live event and to one
read back from the log is the same by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw
import msgspec

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import ItemStatus, TurnStatus

Row = tuple[str | None, str | None, int, str]
"""What the projections need besides the payload: session id, turn id, seq, and the time of the commit."""


def project(connection: apsw.Connection, type_: EventType, row: Row, payload: bytes) -> None:
    """Carry one event over into the tables."""
    write = _PROJECTIONS.get(type_)
    if write is not None:
        write(connection, row, _DECODERS[type_].decode(payload))


TOKENS_MAX: Final = 1 << 53
"""More than any turn can use, and few enough that every reader of JSON can hold sums of them."""

_DECODERS: Final = {type_: msgspec.json.Decoder(payload) for type_, payload in e.PAYLOADS.items()}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _session_registered(connection: apsw.Connection, row: Row, payload: e.SessionRegistered) -> None:
    session_id, _, seq, at = row
    connection.execute(
        "INSERT INTO session (session_id, created_seq, settings, model, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (session_id, seq, _json(payload.settings), payload.settings.model, at, at),
    )


def _session_loaded(connection: apsw.Connection, row: Row, payload: e.SessionLoaded) -> None:
    session_id, _, _, at = row
    connection.execute(
        "UPDATE session SET resumable = resumable AND thread_id IS ?1, thread_id = ?1, loaded_in = ?2,"
        " model = coalesce(?3, model), updated_at = ?4 WHERE session_id = ?5",
        (payload.thread_id, payload.generation, payload.model, at, session_id),
    )


def _turn_queued(connection: apsw.Connection, row: Row, payload: e.TurnQueued) -> None:
    session_id, turn_id, seq, at = row
    if payload.requeued:
        connection.execute(
            "UPDATE turn SET status = ?, generation = 0, accepted_at = NULL WHERE turn_id = ?",
            (TurnStatus.QUEUED, turn_id),
        )
    else:
        connection.execute(
            "INSERT INTO turn (turn_id, session_id, queued_seq, status, request, queued_at) VALUES (?, ?, ?, ?, ?, ?)",
            (turn_id, session_id, seq, TurnStatus.QUEUED, _json(payload.request), at),
        )
    if payload.idempotency_key is not None:
        connection.execute(
            "INSERT INTO idempotency_key (key, body_hash, turn_id, at) VALUES (?, ?, ?, ?)",
            (payload.idempotency_key, payload.body_hash, turn_id, at),
        )
    _last_turn(connection, row, TurnStatus.QUEUED)


def _turn_accepted(connection: apsw.Connection, row: Row, payload: e.TurnAccepted) -> None:
    connection.execute(
        "UPDATE turn SET status = ?, generation = ?, accepted_at = ? WHERE turn_id = ?",
        (TurnStatus.ACCEPTED, payload.generation, row[3], row[1]),
    )
    _last_turn(connection, row, TurnStatus.ACCEPTED)


def _turn_started(connection: apsw.Connection, row: Row, payload: e.TurnStarted) -> None:
    session_id, turn_id, _, at = row
    connection.execute(
        "UPDATE turn SET status = ?, codex_turn_id = ?, started_at = ? WHERE turn_id = ?",
        (TurnStatus.IN_PROGRESS, payload.codex_turn_id, at, turn_id),
    )
    connection.execute("UPDATE session SET resumable = 1 WHERE session_id = ?", (session_id,))
    _last_turn(connection, row, TurnStatus.IN_PROGRESS)


def _turn_ended(status: TurnStatus) -> Callable[[apsw.Connection, Row, e.TurnEnded], None]:
    def write(connection: apsw.Connection, row: Row, payload: e.TurnEnded) -> None:
        error = None if payload.error is None else _json(payload.error)
        connection.execute(
            "UPDATE turn SET status = ?, reason = ?, error = ?, evidence = ?, ended_at = ? WHERE turn_id = ?",
            (status, payload.reason, error, _json(payload.evidence), row[3], row[1]),
        )
        _last_turn(connection, row, status)

    return write


def _last_turn(connection: apsw.Connection, row: Row, status: TurnStatus) -> None:
    session_id, turn_id, _, at = row
    connection.execute(
        "UPDATE session SET updated_at = ?1, last_turn_status = CASE WHEN ?3 = 'queued' OR last_turn_id = ?2 THEN ?3"
        " ELSE last_turn_status END, last_turn_id = CASE WHEN ?3 = 'queued' THEN ?2 ELSE last_turn_id END"
        " WHERE session_id = ?4",
        (at, turn_id, status, session_id),
    )


def _item_started(connection: apsw.Connection, row: Row, payload: e.ItemStarted) -> None:
    _, turn_id, seq, at = row
    connection.execute(
        "INSERT INTO item (turn_id, item_id, started_seq, kind, status, item, started_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET status = excluded.status, item = excluded.item, ended_at = NULL",
        (turn_id, payload.item_id, seq, payload.kind, ItemStatus.STARTED, bytes(payload.item).decode(), at),
    )


def _item_completed(connection: apsw.Connection, row: Row, payload: e.ItemStarted) -> None:
    _, turn_id, seq, at = row
    item = bytes(payload.item).decode()
    connection.execute(
        "INSERT INTO item (turn_id, item_id, started_seq, kind, status, item, started_at, ended_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET status = excluded.status, item = excluded.item, ended_at = excluded.ended_at",
        (turn_id, payload.item_id, seq, payload.kind, ItemStatus.COMPLETED, item, at, at),
    )
    if payload.kind == "agentMessage":
        connection.execute(
            "UPDATE turn SET final_message = json_extract(?, '$.text') WHERE turn_id = ?", (item, turn_id)
        )


def _item_abandoned(connection: apsw.Connection, row: Row, payload: e.ItemAbandoned) -> None:
    connection.execute(
        "UPDATE item SET status = ?, text = ?, ended_at = ? WHERE turn_id = ? AND item_id = ?",
        (ItemStatus.ABANDONED, payload.text, row[3], row[1], payload.item_id),
    )


class _Usage(msgspec.Struct):
    total: dict[str, Any] = {}
    last: dict[str, Any] = {}


class _UsageTold(msgspec.Struct, rename="camel"):
    token_usage: _Usage


_usage: Final = msgspec.json.Decoder(_UsageTold)


def _usage_updated(connection: apsw.Connection, row: Row, payload: e.Updated) -> None:
    try:
        usage = _usage.decode(payload.update).token_usage
    except msgspec.DecodeError:  # What Codex may say some day must not stop the log.
        return
    total = _json(_tokens(usage.total))
    connection.execute("UPDATE session SET usage = ? WHERE session_id = ?", (total, row[0]))
    (before,) = next(connection.execute("SELECT usage FROM turn WHERE turn_id = ?", (row[1],)))
    spent: dict[str, int] = msgspec.json.decode(before) if before else {}
    # Codex tells the usage of each response of the model; a turn's is their sum.
    for name, tokens in _tokens(usage.last).items():
        spent[name] = spent.get(name, 0) + tokens
    connection.execute("UPDATE turn SET usage = ? WHERE turn_id = ?", (_json(spent), row[1]))


def _tokens(told: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in told.items() if type(count) is int and 0 <= count < TOKENS_MAX}


def _plan_updated(connection: apsw.Connection, row: Row, payload: e.Updated) -> None:
    connection.execute("UPDATE turn SET plan = ? WHERE turn_id = ?", (bytes(payload.update).decode(), row[1]))


def _diff_updated(connection: apsw.Connection, row: Row, payload: e.Updated) -> None:
    connection.execute(
        "UPDATE turn SET diff = json_extract(?, '$.diff') WHERE turn_id = ?",
        (bytes(payload.update).decode(), row[1]),
    )


_PROJECTIONS: Final[dict[EventType, Callable[[apsw.Connection, Row, Any], None]]] = {
    EventType.SESSION_REGISTERED: _session_registered,
    EventType.SESSION_LOADED: _session_loaded,
    EventType.TURN_QUEUED: _turn_queued,
    EventType.TURN_ACCEPTED: _turn_accepted,
    EventType.TURN_STARTED: _turn_started,
    EventType.TURN_COMPLETED: _turn_ended(TurnStatus.COMPLETED),
    EventType.TURN_FAILED: _turn_ended(TurnStatus.FAILED),
    EventType.TURN_INTERRUPTED: _turn_ended(TurnStatus.INTERRUPTED),
    EventType.TURN_LOST: _turn_ended(TurnStatus.LOST),
    EventType.ITEM_STARTED: _item_started,
    EventType.ITEM_COMPLETED: _item_completed,
    EventType.ITEM_ABANDONED: _item_abandoned,
    EventType.USAGE_UPDATED: _usage_updated,
    EventType.PLAN_UPDATED: _plan_updated,
    EventType.DIFF_UPDATED: _diff_updated,
}
