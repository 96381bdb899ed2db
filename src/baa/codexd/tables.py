"""Session, turn, item and idempotency key as tables: made from the events, in the transaction of each event.

`project` is the only writer of these tables. It reads the payload's bytes, so what it does to a live event and to one
read back from the log is the same by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw
import msgspec
from msgspec import UNSET, Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import InteractionStatus
from baa.api.sessions import ItemStatus, TurnStatus

Row = tuple[str | None, str | None, int, str]
"""What the projections need besides the payload: session id, turn id, seq, and the time of the commit."""


def project(connection: apsw.Connection, type_: EventType, row: Row, payload: bytes) -> None:
    """Carry one event over into the tables."""
    write = _PROJECTIONS.get(type_)
    if write is not None:
        write(connection, row, _DECODERS[type_].decode(payload))


class _Body(msgspec.Struct, rename="camel"):
    seq: int
    at: str
    type: str
    session_id: str | None
    turn_id: str | None
    payload: Raw


ASKING: Final = frozenset(
    {EventType.INTERACTION_REQUESTED, EventType.INTERACTION_RESOLVED, EventType.INTERACTION_EXPIRED}
)
"""What makes a row of its own: a question can be told without the turn or session that it belongs to."""


def fold(connection: apsw.Connection, source: apsw.Connection | None = None) -> None:
    """Make the tables, which must be empty, from all events that `source` has (without one: `connection` itself).

    Where the first events were cut, only what was born after the cut is made: of the rest there is no beginning.
    """
    read = msgspec.json.Decoder(_Body)
    born: set[str | None] = {None}
    query = "SELECT body FROM event WHERE type != 'item.delta' ORDER BY seq"
    for (body,) in (source or connection).execute(query):
        event = read.decode(body)
        type_ = EventType(event.type)
        if type_ is EventType.SESSION_REGISTERED:
            born.add(event.session_id)
        elif type_ is EventType.TURN_QUEUED and not _queued.decode(event.payload).requeued:
            born.add(event.turn_id)
        owner_id = event.session_id if event.turn_id is None else event.turn_id
        if owner_id in born or type_ in ASKING:
            project(connection, type_, (event.session_id, event.turn_id, event.seq, event.at), bytes(event.payload))


_queued: Final = msgspec.json.Decoder(e.TurnQueued)


TOKENS_MAX: Final = 1 << 53
"""More than any turn can use, and few enough that every reader of JSON can hold sums of them."""

_DECODERS: Final = {type_: msgspec.json.Decoder(payload) for type_, payload in e.PAYLOADS.items()}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _session_registered(connection: apsw.Connection, row: Row, payload: e.SessionRegistered) -> None:
    session_id, _, seq, at = row
    settings, fork = payload.settings, payload.forked_from
    connection.execute(
        "INSERT INTO session (session_id, created_seq, settings, purpose, thread_id, resumable, forked_from, model,"
        " created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session_id,
            seq,
            _json(settings),
            settings.purpose,
            payload.thread_id,
            int(payload.thread_id is not None),
            None if fork is None else _json(fork),
            settings.model,
            at,
            at,
        ),
    )


def _session_loaded(connection: apsw.Connection, row: Row, payload: e.SessionLoaded) -> None:
    session_id, _, _, at = row
    connection.execute(
        "UPDATE session SET resumable = resumable AND thread_id IS ?1, thread_id = ?1, model = coalesce(?2, model),"
        " effort = coalesce(?3, effort), updated_at = ?4 WHERE session_id = ?5",
        (payload.thread_id, payload.model, payload.effort, at, session_id),
    )


def _session_closed(connection: apsw.Connection, row: Row, payload: e.SessionClosed) -> None:
    session_id, _, _, at = row
    connection.execute("UPDATE session SET closed_at = ?1, updated_at = ?1 WHERE session_id = ?2", (at, session_id))


def _turn_queued(connection: apsw.Connection, row: Row, payload: e.TurnQueued) -> None:
    session_id, turn_id, seq, at = row
    if payload.requeued:
        connection.execute(
            "UPDATE turn SET status = ?, generation = 0, accepted_at = NULL WHERE turn_id = ?",
            (TurnStatus.QUEUED, turn_id),
        )
    else:
        connection.execute(
            "INSERT INTO turn (turn_id, session_id, queued_seq, status, origin, request, queued_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (turn_id, session_id, seq, TurnStatus.QUEUED, payload.origin.value, _json(payload.request), at),
        )
    if payload.idempotency_key is not None:
        _key(connection, row, payload, steered=False)
    _last_turn(connection, row, TurnStatus.QUEUED)


def _key(connection: apsw.Connection, row: Row, payload: e.TurnQueued | e.TurnSteered, *, steered: bool) -> None:
    _, turn_id, seq, at = row
    connection.execute(
        "INSERT INTO idempotency_key (key, body_hash, turn_id, seq, steered, at) VALUES (?, ?, ?, ?, ?, ?)",
        (payload.idempotency_key, payload.body_hash, turn_id, seq - 1, int(steered), at),
    )


def _turn_steered(connection: apsw.Connection, row: Row, payload: e.TurnSteered) -> None:
    if payload.idempotency_key is not None:
        _key(connection, row, payload, steered=True)


def _turn_accepted(connection: apsw.Connection, row: Row, payload: e.TurnAccepted) -> None:
    connection.execute(
        "UPDATE turn SET status = ?, generation = ?, accepted_at = ? WHERE turn_id = ?",
        (TurnStatus.ACCEPTED, payload.generation, row[3], row[1]),
    )
    connection.execute(
        # Of a turn that only shortens the history, or that it began by itself, Codex learns no effort.
        "UPDATE session SET effort_set = json_extract(turn.request, '$.effort') IS NOT NULL FROM turn"
        " WHERE turn.turn_id = ? AND session.session_id = ? AND json_extract(turn.request, '$.compact') IS NULL"
        " AND turn.origin != 'codex'",
        (row[1], row[0]),
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
        output = None if payload.output is UNSET else bytes(payload.output).decode()
        connection.execute(
            "UPDATE turn SET status = ?, reason = ?, error = ?, evidence = ?, output = ?, ended_at = ?"
            " WHERE turn_id = ?",
            (status, payload.reason, error, _json(payload.evidence), output, row[3], row[1]),
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
        "INSERT INTO item (turn_id, item_id, started_seq, kind, status, item, agent, started_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET status = excluded.status, item = excluded.item, ended_at = NULL",
        (
            turn_id,
            payload.item_id,
            seq,
            payload.kind,
            ItemStatus.STARTED,
            bytes(payload.item).decode(),
            payload.agent_thread_id,
            at,
        ),
    )


def _item_completed(connection: apsw.Connection, row: Row, payload: e.ItemStarted) -> None:
    _, turn_id, seq, at = row
    item = bytes(payload.item).decode()
    connection.execute(
        "INSERT INTO item (turn_id, item_id, started_seq, kind, status, item, agent, started_at, ended_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET status = excluded.status, item = excluded.item, ended_at = excluded.ended_at",
        (turn_id, payload.item_id, seq, payload.kind, ItemStatus.COMPLETED, item, payload.agent_thread_id, at, at),
    )
    if payload.kind == "agentMessage" and payload.agent_thread_id is None:
        connection.execute(
            "UPDATE turn SET final_message = json_extract(?, '$.text') WHERE turn_id = ?", (item, turn_id)
        )


def _item_abandoned(connection: apsw.Connection, row: Row, payload: e.ItemAbandoned) -> None:
    connection.execute(
        "UPDATE item SET status = ?, text = ?, reason = ?, ended_at = ? WHERE turn_id = ? AND item_id = ?",
        (ItemStatus.ABANDONED, payload.text, payload.reason, row[3], row[1], payload.item_id),
    )


def _interaction_requested(connection: apsw.Connection, row: Row, payload: e.InteractionRequested) -> None:
    session_id, turn_id, seq, at = row
    connection.execute(
        "INSERT INTO interaction (interaction_id, session_id, turn_id, generation, request_id, asked_seq, kind, status,"
        " item_id, request, decisions, requested_at, deadline_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            payload.interaction_id,
            session_id,
            turn_id,
            payload.generation,
            _json(payload.request_id),
            seq,
            payload.kind.value,
            InteractionStatus.OPEN.value,
            payload.item_id,
            bytes(payload.request).decode(),
            _json(payload.decisions),
            at,
            payload.deadline_at,
        ),
    )


def _interaction_ended(status: InteractionStatus) -> Callable[[apsw.Connection, Row, e.InteractionEnded], None]:
    def write(connection: apsw.Connection, row: Row, payload: e.InteractionEnded) -> None:
        answer = None if payload.answer is None else _json(payload.answer)
        connection.execute(
            "UPDATE interaction SET status = ?, answer = ?, resolved_by = ?, ended_at = ? WHERE interaction_id = ?",
            (status.value, answer, payload.resolved_by.value, row[3], payload.interaction_id),
        )

    return write


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
    if payload.agent_thread_id is None:  # of a sub-agent's thread the total says nothing of the session's
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
    EventType.SESSION_CLOSED: _session_closed,
    EventType.TURN_QUEUED: _turn_queued,
    EventType.TURN_ACCEPTED: _turn_accepted,
    EventType.TURN_STARTED: _turn_started,
    EventType.TURN_STEERED: _turn_steered,
    EventType.TURN_COMPLETED: _turn_ended(TurnStatus.COMPLETED),
    EventType.TURN_FAILED: _turn_ended(TurnStatus.FAILED),
    EventType.TURN_INTERRUPTED: _turn_ended(TurnStatus.INTERRUPTED),
    EventType.TURN_EXPIRED: _turn_ended(TurnStatus.EXPIRED),
    EventType.TURN_LOST: _turn_ended(TurnStatus.LOST),
    EventType.ITEM_STARTED: _item_started,
    EventType.ITEM_COMPLETED: _item_completed,
    EventType.ITEM_ABANDONED: _item_abandoned,
    EventType.INTERACTION_REQUESTED: _interaction_requested,
    EventType.INTERACTION_RESOLVED: _interaction_ended(InteractionStatus.RESOLVED),
    EventType.INTERACTION_EXPIRED: _interaction_ended(InteractionStatus.EXPIRED),
    EventType.USAGE_UPDATED: _usage_updated,
    EventType.PLAN_UPDATED: _plan_updated,
    EventType.DIFF_UPDATED: _diff_updated,
}
