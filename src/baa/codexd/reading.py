"""Answers from the log and its tables. Each function reads through one connection and changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import apsw
import msgspec
from msgspec import UNSET, Raw

from baa.api.events import ItemDelta
from baa.api.sessions import (
    Item,
    ItemStatus,
    Session,
    SessionSettings,
    SessionStatus,
    Turn,
    TurnRequest,
    TurnStatus,
)
from baa.api.status import RecentEvent

SHOWN_TEXT: Final = frozenset({"text", "output", "plan", "reasoning"})
"""The streams whose pieces make up an item's text (a summary of reasoning is told beside it)."""


class _DeltaBody(msgspec.Struct, rename="camel"):
    turn_id: str | None
    payload: ItemDelta


_delta_body: Final = msgspec.json.Decoder(_DeltaBody)
_settings: Final = msgspec.json.Decoder(SessionSettings)
_request: Final = msgspec.json.Decoder(TurnRequest)
_AT: Final = re.compile(rb'"at":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events: their bytes, and the seq up to which the log has been looked through."""

    bodies: list[bytes]
    next: int


def events(
    connection: apsw.Connection,
    *,
    after: int,
    limit: int,
    size: int,
    session_id: str | None,
    types: frozenset[str] | None,
) -> Page:
    """Events after seq `after`, of one session and of some types if given.

    At most `limit`, and no more once they have `size` bytes together.
    """
    where: list[str] = ["seq > ?"]
    values: list[Any] = [after]
    if session_id is not None:
        where.append("session_id = ?")
        values.append(session_id)
    if types is not None:
        where.append(f"type IN ({','.join('?' * len(types))})")
        values.extend(sorted(types))
    with connection:  # one view of the log: the head belongs to the rows
        (head,) = next(connection.execute("SELECT coalesce(max(seq), 0) FROM event"))
        bodies: list[bytes] = []
        seq, left = after, size
        for seq, body in connection.execute(
            f"SELECT seq, body FROM event WHERE {' AND '.join(where)} ORDER BY seq LIMIT ?", (*values, limit)
        ):
            bodies.append(body)
            left -= len(body)
            if left <= 0:
                return Page(bodies, seq)
    return Page(bodies, seq if len(bodies) == limit else max(head, after))


def recent(connection: apsw.Connection, limit: int) -> list[RecentEvent]:
    """The last events, oldest first, without their content."""
    # The time stands at the body's beginning; what follows may be megabytes.
    rows = connection.execute("SELECT seq, substr(body, 1, 80), type FROM event ORDER BY seq DESC LIMIT ?", (limit,))
    return [RecentEvent(seq, _AT.findall(body)[0].decode(), type_) for seq, body, type_ in reversed(list(rows))]


def text_so_far(connection: apsw.Connection, turn_id: str, item_id: str) -> str | None:
    """What an item that has not ended has said: its deltas, in order. None if it said nothing."""
    rows = connection.execute(
        "SELECT event.body FROM item JOIN turn USING (turn_id) JOIN event ON event.session_id = turn.session_id"
        " AND event.seq > item.started_seq AND event.type = 'item.delta'"
        " WHERE item.turn_id = ? AND item.item_id = ? ORDER BY event.seq",
        (turn_id, item_id),
    )
    told = (_delta_body.decode(body) for (body,) in rows)
    pieces = [
        delta.payload.delta
        for delta in told
        if delta.turn_id == turn_id and delta.payload.item_id == item_id and delta.payload.stream in SHOWN_TEXT
    ]
    return "".join(pieces) if pieces else None


_SESSION: Final = """
SELECT session_id, thread_id, settings, model, loaded_in, last_turn_id, last_turn_status, usage, created_at, updated_at,
    (SELECT turn_id FROM turn WHERE turn.session_id = session.session_id AND ended_at IS NULL
        ORDER BY queued_seq LIMIT 1),
    (SELECT count(*) FROM turn WHERE turn.session_id = session.session_id AND ended_at IS NULL AND status = 'queued'),
    (SELECT generation FROM generation WHERE ended_at IS NULL), created_seq
FROM session
"""


def session(connection: apsw.Connection, session_id: str) -> Session | None:
    """One session, or None."""
    row = next(connection.execute(_SESSION + "WHERE session_id = ?", (session_id,)), None)
    return None if row is None else _session_of(row)


def sessions(
    connection: apsw.Connection, *, limit: int, below: int | None, purpose: str | None
) -> tuple[list[Session], int | None]:
    """Sessions, newest first, at most `limit`, made before created_seq `below`; and where the next page begins."""
    where = "WHERE (?1 IS NULL OR created_seq < ?1) AND (?2 IS NULL OR json_extract(settings, '$.purpose') = ?2)"
    rows = list(
        connection.execute(_SESSION + where + " ORDER BY created_seq DESC LIMIT ?3", (below, purpose, limit + 1))
    )
    more = rows[limit - 1][-1] if len(rows) > limit else None
    return [_session_of(row) for row in rows[:limit]], more


def _session_of(row: tuple[Any, ...]) -> Session:
    (
        session_id,
        thread_id,
        stored,
        model,
        loaded_in,
        last_id,
        last_status,
        usage,
        created,
        updated,
        current,
        queued,
        generation,
        _,
    ) = row
    settings = _settings.decode(stored)
    loaded = loaded_in != 0 and loaded_in == generation
    status = SessionStatus.ACTIVE if current else SessionStatus.IDLE if loaded else SessionStatus.NOT_LOADED
    return Session(
        session_id=session_id,
        thread_id=thread_id,
        status=status,
        purpose=settings.purpose,
        cwd=settings.cwd,
        model=model,
        sandbox=settings.sandbox,
        approval_policy=settings.approval_policy,
        current_turn_id=current,
        last_turn_id=last_id,
        last_turn_status=None if last_status is None else TurnStatus(last_status),
        queued_turns=queued,
        open_interactions=0,
        usage=None if usage is None else msgspec.json.decode(usage),
        metadata=settings.metadata,
        created_at=created,
        updated_at=updated,
    )


_TURN: Final = """
SELECT turn_id, session_id, codex_turn_id, status, reason, error, evidence, request, final_message, usage, diff, plan,
    queued_at, accepted_at, started_at, ended_at FROM turn
"""


def turn(connection: apsw.Connection, turn_id: str, *, ledger: bool) -> Turn | None:
    """One turn, or None. With `ledger`, its items too."""
    with connection:
        row = next(connection.execute(_TURN + "WHERE turn_id = ?", (turn_id,)), None)
        items = _items(connection, turn_id) if ledger and row is not None else None
    return None if row is None else _turn_of(row, items)


def _turn_of(row: tuple[Any, ...], items: list[Item] | None) -> Turn:
    (turn_id, session_id, codex_id, status, reason, error, evidence, request, final, usage, diff, plan, *times) = row
    asked = _request.decode(request)
    queued_at, accepted_at, started_at, ended_at = times
    return Turn(
        turn_id=turn_id,
        session_id=session_id,
        codex_turn_id=codex_id,
        status=TurnStatus(status),
        origin="api",
        reason=reason,
        error=None if error is None else msgspec.json.decode(error),
        evidence=msgspec.json.decode(evidence),
        prompt=asked.prompt,
        model=asked.model,
        effort=asked.effort,
        final_message=final,
        usage=None if usage is None else msgspec.json.decode(usage),
        diff=diff,
        plan=None if plan is None else msgspec.json.decode(plan),
        metadata=asked.metadata,
        queued_at=queued_at,
        accepted_at=accepted_at,
        started_at=started_at,
        ended_at=ended_at,
        items=UNSET if items is None else items,
    )


def _items(connection: apsw.Connection, turn_id: str) -> list[Item]:
    rows = list(
        connection.execute(
            "SELECT item_id, kind, status, item, text, started_at, ended_at FROM item WHERE turn_id = ?"
            " ORDER BY started_seq",
            (turn_id,),
        )
    )
    return [
        Item(
            item_id=item_id,
            kind=kind,
            status=ItemStatus(status),
            item=Raw(item.encode()),
            text=text_so_far(connection, turn_id, item_id) if status == ItemStatus.STARTED else text,
            started_at=started_at,
            ended_at=ended_at,
        )
        for item_id, kind, status, item, text, started_at, ended_at in rows
    ]


def counts(connection: apsw.Connection) -> tuple[int, int, int, int]:
    """How many sessions there are, and turns queued, running and ended."""
    row: tuple[int, int, int, int] = next(
        connection.execute(
            "SELECT (SELECT count(*) FROM session),"
            " (SELECT count(*) FROM turn WHERE ended_at IS NULL AND status = 'queued'),"
            " (SELECT count(*) FROM turn WHERE ended_at IS NULL AND status != 'queued'),"
            " (SELECT count(*) FROM turn WHERE ended_at IS NOT NULL)"
        )
    )
    return row
