"""Answers from the log and its tables. Each function reads through one connection and changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import apsw
import msgspec
from msgspec import Raw

from baa.api.events import ItemDelta
from baa.api.interactions import AnswerInteraction, Interaction, InteractionKind, InteractionStatus, ResolvedBy
from baa.api.sessions import (
    Fork,
    Item,
    ItemStatus,
    Origin,
    Session,
    SessionSettings,
    SessionStatus,
    Turn,
    TurnRequest,
    TurnStatus,
    networked,
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


class Cut(Exception):
    """The log no longer holds all that follows the place to read from."""


def events(
    connection: apsw.Connection,
    *,
    after: int,
    head: int,
    limit: int,
    size: int,
    session_id: str | None,
    types: frozenset[str] | None,
) -> Page:
    """Events after seq `after` up to `head`, of one session and of some types if given.

    At most `limit`, and no more once they have `size` bytes together. Raises Cut.
    """
    where: list[str] = ["seq > ?", "seq <= ?"]
    values: list[Any] = [after, head]
    if session_id is not None:
        where.append("session_id = ?")
        values.append(session_id)
    if types is not None:
        where.append(f"type IN ({','.join('?' * len(types))})")
        values.extend(sorted(types))
    with connection:  # one view of the log: the oldest belongs to the rows
        (oldest,) = next(connection.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'oldest'"))
        if after < oldest - 1:
            raise Cut
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


LOOKED_BACK_MAX: Final = 10_000
"""Deltas of other texts that are looked through for what was told last of one."""


def last_told(
    connection: apsw.Connection, turn_id: str, item_id: str, stream: str, *, before: int, characters: int
) -> str:
    """The last characters of an item's text that were told up to seq `before`; "" if the item began later."""
    rows = connection.execute(
        "SELECT event.body FROM item JOIN turn USING (turn_id) JOIN event ON event.session_id = turn.session_id"
        " AND event.seq > item.started_seq AND event.seq <= ? AND event.type = 'item.delta'"
        " WHERE item.turn_id = ? AND item.item_id = ? AND item.started_seq <= ?1 ORDER BY event.seq DESC LIMIT ?",
        (before, turn_id, item_id, LOOKED_BACK_MAX),
    )
    text = ""
    for (body,) in rows:
        told = _delta_body.decode(body)
        if (told.turn_id, told.payload.item_id, told.payload.stream) == (turn_id, item_id, stream):
            text = told.payload.delta + text
            if len(text) >= characters:
                break
    return text[-characters:]


def growing(connection: apsw.Connection, turn_id: str, *, before: int, characters: int) -> list[tuple[str, str]]:
    """The messages of a turn's own thread that have not ended, and the last characters of each up to seq `before`."""
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT item_id FROM item WHERE turn_id = ? AND kind = 'agentMessage' AND agent IS NULL AND status = ?",
        (turn_id, ItemStatus.STARTED),
    ).fetchall()
    told = [
        (item_id, last_told(connection, turn_id, item_id, "text", before=before, characters=characters))
        for (item_id,) in rows
    ]
    return [(item_id, text) for item_id, text in told if text]


_SESSION: Final = """
SELECT session_id, thread_id, settings, forked_from, model, last_turn_id, last_turn_status, usage, created_at,
    updated_at, closed_at,
    (SELECT turn_id FROM turn WHERE turn.session_id = session.session_id AND ended_at IS NULL
        ORDER BY queued_seq LIMIT 1) AS current,
    (SELECT count(*) FROM turn WHERE turn.session_id = session.session_id AND ended_at IS NULL AND status = 'queued'),
    (SELECT count(*) FROM interaction WHERE interaction.session_id = session.session_id AND status = 'open') AS asking,
    EXISTS (SELECT 1 FROM loaded JOIN generation USING (generation)
        WHERE loaded.session_id = session.session_id AND generation.ended_at IS NULL) AS is_loaded,
    created_seq
FROM session
"""

_STANDS: Final = {
    SessionStatus.CLOSED: "closed_at IS NOT NULL",
    SessionStatus.ACTIVE: "closed_at IS NULL AND current IS NOT NULL",
    SessionStatus.IDLE: "closed_at IS NULL AND current IS NULL AND is_loaded",
    SessionStatus.NOT_LOADED: "closed_at IS NULL AND current IS NULL AND NOT is_loaded",
}


def session(connection: apsw.Connection, session_id: str) -> Session | None:
    """One session, or None."""
    row = next(connection.execute(_SESSION + "WHERE session_id = ?", (session_id,)), None)
    return None if row is None else _session_of(row)


def sessions(
    connection: apsw.Connection,
    *,
    limit: int,
    below: int | None,
    purpose: str | None = None,
    status: SessionStatus | None = None,
    needs_answer: bool = False,
) -> tuple[list[Session], int | None]:
    """Sessions, newest first, at most `limit`, made before created_seq `below`; and where the next page begins.

    A session that is made meanwhile is newer than every page that follows, so it moves none of them.
    """
    where = ["(?1 IS NULL OR created_seq < ?1)", "(?2 IS NULL OR purpose = ?2)"]
    if status is not None:
        where.append(_STANDS[status])
    if needs_answer:
        where.append("asking > 0")
    query = f"{_SESSION} WHERE {' AND '.join(where)} ORDER BY created_seq DESC LIMIT ?3"
    rows = list(connection.execute(query, (below, purpose, limit + 1)))
    more = rows[limit - 1][-1] if len(rows) > limit else None
    return [_session_of(row) for row in rows[:limit]], more


def _session_of(row: tuple[Any, ...]) -> Session:
    (session_id, thread_id, stored, fork, model, last_id, last_status, usage, created, updated, closed, *rest) = row
    current, queued, asking, loaded, _ = rest
    settings = _settings.decode(stored)
    status = SessionStatus.ACTIVE if current else SessionStatus.IDLE if loaded else SessionStatus.NOT_LOADED
    return Session(
        session_id=session_id,
        thread_id=thread_id,
        status=SessionStatus.CLOSED if closed else status,
        purpose=settings.purpose,
        cwd=settings.cwd,
        model=model,
        model_provider=settings.model_provider,
        sandbox=settings.sandbox,
        network_access=networked(settings.sandbox, settings.network_access),
        approval_policy=settings.approval_policy,
        writable_roots=settings.writable_roots,
        base_instructions=settings.base_instructions,
        developer_instructions=settings.developer_instructions,
        personality=settings.personality,
        service_tier=settings.service_tier,
        ephemeral=settings.ephemeral,
        forked_from=None if fork is None else msgspec.json.decode(fork, type=Fork),
        current_turn_id=current,
        last_turn_id=last_id,
        last_turn_status=None if last_status is None else TurnStatus(last_status),
        queued_turns=queued,
        open_interactions=asking,
        usage=None if usage is None else msgspec.json.decode(usage),
        metadata=settings.metadata,
        created_at=created,
        updated_at=updated,
        closed_at=closed,
    )


_TURN: Final = """
SELECT turn_id, session_id, codex_turn_id, status, origin, reason, error, evidence, request, final_message, output,
    usage, diff, plan, queued_at, accepted_at, started_at, ended_at, queued_seq FROM turn
"""


def turn(connection: apsw.Connection, turn_id: str, *, ledger: bool) -> Turn | None:
    """One turn, or None. With `ledger`, its items and interactions too."""
    with connection:
        row = next(connection.execute(_TURN + "WHERE turn_id = ?", (turn_id,)), None)
        found = None if row is None else _turn_of(row)
        if found is not None and ledger:
            items, interactions = _items(connection, turn_id), _interactions(connection, turn_id)
            found = msgspec.structs.replace(found, items=items, interactions=interactions)
    return found


def has_ended(connection: apsw.Connection, turn_id: str) -> bool:
    """Whether a turn has ended: to be asked at every commit, so nothing else of it is read."""
    row = next(connection.execute("SELECT ended_at IS NOT NULL FROM turn WHERE turn_id = ?", (turn_id,)), None)
    return row is not None and bool(row[0])


def turns(
    connection: apsw.Connection, session_id: str, *, limit: int, below: int | None
) -> tuple[list[Turn], int | None]:
    """The turns of a session, newest first, at most `limit`, older than queued_seq `below`; where the next page is."""
    where = "WHERE session_id = ?1 AND (?2 IS NULL OR queued_seq < ?2) ORDER BY queued_seq DESC LIMIT ?3"
    rows = list(connection.execute(_TURN + where, (session_id, below, limit + 1)))
    more = rows[limit - 1][-1] if len(rows) > limit else None
    return [_turn_of(row) for row in rows[:limit]], more


def last_ended(connection: apsw.Connection, session_id: str) -> str | None:
    """Codex's id of the last turn of a session that Codex had and that has ended."""
    row = next(
        connection.execute(
            "SELECT codex_turn_id FROM turn WHERE session_id = ? AND ended_at IS NOT NULL AND codex_turn_id IS NOT NULL"
            " ORDER BY queued_seq DESC LIMIT 1",
            (session_id,),
        ),
        None,
    )
    return None if row is None else str(row[0])


def _turn_of(row: tuple[Any, ...]) -> Turn:
    (turn_id, session_id, codex_id, status, origin, reason, error, evidence, request, final, output, *rest) = row
    usage, diff, plan, queued_at, accepted_at, started_at, ended_at, _ = rest
    asked = _request.decode(request)
    return Turn(
        turn_id=turn_id,
        session_id=session_id,
        codex_turn_id=codex_id,
        status=TurnStatus(status),
        origin=Origin(origin),
        reason=reason,
        error=None if error is None else msgspec.json.decode(error),
        evidence=msgspec.json.decode(evidence),
        prompt=asked.prompt,
        input=asked.input,
        model=asked.model,
        effort=asked.effort,
        sandbox=asked.sandbox,
        network_access=asked.network_access,
        approval_policy=asked.approval_policy,
        output_schema=asked.output_schema,
        deadline_ms=asked.deadline_ms,
        stall_ms=asked.stall_ms,
        lease_ms=asked.lease_ms,
        final_message=final,
        output=None if output is None else msgspec.json.decode(output),
        usage=None if usage is None else msgspec.json.decode(usage),
        diff=diff,
        plan=None if plan is None else msgspec.json.decode(plan),
        metadata=asked.metadata,
        queued_at=queued_at,
        accepted_at=accepted_at,
        started_at=started_at,
        ended_at=ended_at,
    )


def _items(connection: apsw.Connection, turn_id: str) -> list[Item]:
    rows = list(
        connection.execute(
            "SELECT item_id, kind, status, item, text, reason, agent, started_at, ended_at FROM item WHERE turn_id = ?"
            " ORDER BY started_seq",
            (turn_id,),
        )
    )
    items = [
        Item(
            item_id=item_id,
            kind=kind,
            status=ItemStatus(status),
            item=Raw(item.encode()),
            text=text_so_far(connection, turn_id, item_id) if status == ItemStatus.STARTED else text,
            reason=reason,
            agent_thread_id=agent,
            started_at=started_at,
            ended_at=ended_at,
        )
        for item_id, kind, status, item, text, reason, agent, started_at, ended_at in rows
    ]
    return [_told_once(item, items[place + 1 :]) for place, item in enumerate(items)]


def _told_once(item: Item, later: list[Item]) -> Item:
    """What Codex began anew is told by the item it began anew: once that says something, this one no longer does."""
    if item.reason != "retried" or item.text is None:
        return item
    again = any(other.kind == item.kind and (other.text or other.status is ItemStatus.COMPLETED) for other in later)
    return msgspec.structs.replace(item, text=None) if again else item


_INTERACTION: Final = """
SELECT interaction_id, session_id, turn_id, kind, status, item_id, request, decisions, requested_at, deadline_at,
    answer, resolved_by, ended_at FROM interaction
"""


def interaction(connection: apsw.Connection, interaction_id: str) -> Interaction | None:
    """One interaction, or None."""
    row = next(connection.execute(_INTERACTION + "WHERE interaction_id = ?", (interaction_id,)), None)
    return None if row is None else _interaction_of(row)


def open_interactions(connection: apsw.Connection, session_id: str) -> list[Interaction]:
    """What Codex waits for in a session, oldest first."""
    where = "WHERE session_id = ? AND status = 'open' ORDER BY asked_seq"
    return [_interaction_of(row) for row in connection.execute(_INTERACTION + where, (session_id,))]


def _interactions(connection: apsw.Connection, turn_id: str) -> list[Interaction]:
    rows = connection.execute(_INTERACTION + "WHERE turn_id = ? ORDER BY asked_seq", (turn_id,))
    return [_interaction_of(row) for row in rows]


def _interaction_of(row: tuple[Any, ...]) -> Interaction:
    (interaction_id, session_id, turn_id, kind, status, item_id, request, decisions, *rest) = row
    requested_at, deadline_at, answer, resolved_by, ended_at = rest
    return Interaction(
        interaction_id=interaction_id,
        session_id=session_id,
        turn_id=turn_id,
        kind=InteractionKind(kind),
        status=InteractionStatus(status),
        item_id=item_id,
        request=Raw(request.encode()),
        decisions=msgspec.json.decode(decisions),
        requested_at=requested_at,
        deadline_at=deadline_at,
        answer=None if answer is None else msgspec.json.decode(answer, type=AnswerInteraction),
        resolved_by=None if resolved_by is None else ResolvedBy(resolved_by),
        ended_at=ended_at,
    )


COUNTS: Final = """
SELECT (SELECT count(*) FROM session),
    (SELECT count(*) FROM turn WHERE ended_at IS NULL AND status = 'queued'),
    (SELECT count(*) FROM turn WHERE ended_at IS NULL AND status != 'queued'),
    (SELECT count(*) FROM turn) - (SELECT count(*) FROM turn WHERE ended_at IS NULL)
"""
"""From indexes alone: a turn may be megabytes, and this is asked in the loop's thread."""


def counts(connection: apsw.Connection) -> tuple[int, int, int, int]:
    """How many sessions there are, and turns queued, running and ended."""
    row: tuple[int, int, int, int] = next(connection.execute(COUNTS))
    return row
