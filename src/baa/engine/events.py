"""The events of the fleet: numbered in the order of their commits, without a gap.

The row that counts them is locked as the last thing that a transaction does, and kept until its commit: whoever reads
`seq` n has everything before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from baa.api.errors import Code, Rejected
from baa.api.tasks import QueueEvent, QueueEventType
from baa.engine.database import Transaction

HEAD: Final = "SELECT epoch, seq, oldest FROM head WHERE name = 'event'"

PRUNED_AT_ONCE: Final = 1000


class Head(msgspec.Struct, frozen=True):
    """How far the events go: `head` is the last one's number, `oldest` that of the first one that is still there.

    `epoch` is another one when the database was made anew.
    """

    epoch: str
    head: int
    oldest: int


def tell(
    tx: Transaction,
    type_: str,
    *,
    node_id: str | None = None,
    task_id: str | None = None,
    attempt: int | None = None,
    session_id: str | None = None,
    turn_id: str | None = None,
    payload: Mapping[str, Any] | None = None,
) -> None:
    """An event of the engine's own, told with the transaction's commit."""
    tx.told.append(
        {
            "at": tx.now,
            "stored_utc": tx.utc_ms,
            "type": str(type_),
            "node_id": node_id,
            "task_id": task_id,
            "attempt": attempt,
            "session_id": session_id,
            "turn_id": turn_id,
            "source": "engine",
            "source_epoch": None,
            "source_seq": None,
            "payload": _json(payload or {}),
        }
    )


def number(tx: Transaction) -> int:
    """Give what the transaction tells its numbers and write it down; the new head, 0 if nothing was told."""
    if not tx.told:
        return 0
    head = tx.number("UPDATE head SET seq = seq + :told WHERE name = 'event' RETURNING seq", told=len(tx.told))
    first = head - len(tx.told) + 1
    rows = [{**told, "seq": first + place} for place, told in enumerate(tx.told)]
    tx.many(
        """INSERT INTO event (seq, at, stored_utc, type, node_id, task_id, attempt, session_id, turn_id, source,
          source_epoch, source_seq, payload)
        VALUES (:seq, :at, :stored_utc, :type, :node_id, :task_id, :attempt, :session_id, :turn_id, :source,
          :source_epoch, :source_seq, :payload)""",
        rows,
    )
    return head


def append_codexd(
    tx: Transaction,
    *,
    node_id: str,
    epoch: str,
    next_seq: int,
    events: Sequence[Mapping[str, Any]],
    missed: Mapping[str, Any] | None = None,
) -> None:
    """Take over what a node's codexd told, and how far that goes. What was taken over before is passed by.

    `missed` is told first: what codexd no longer had.
    """
    found = tx.row("SELECT epoch, next_seq FROM feed WHERE node_id = :node_id", lock="UPDATE", node_id=node_id)
    done = found.next_seq if found is not None and found.epoch == epoch else -1
    if missed is not None:
        tell(tx, QueueEventType.NODE_EVENTS_MISSED, node_id=node_id, payload=missed)
    new = [event for event in events if event["seq"] > done]
    sessions = sorted({event["sessionId"] for event in new if event.get("sessionId")})
    attempts: dict[str, sa.Row[Any]] = {}
    if sessions:
        sql = "SELECT session_id, task_id, number FROM attempt WHERE session_id IN :sessions AND node_id = :node_id"
        attempts = {
            row.session_id: row for row in tx.rows(f"{sql} ORDER BY number", sessions=sessions, node_id=node_id)
        }
    for event in new:
        attempt = attempts.get(event.get("sessionId") or "")
        tx.told.append(
            {
                "at": event["at"],
                "stored_utc": tx.utc_ms,
                "type": event["type"],
                "node_id": node_id,
                "task_id": attempt.task_id if attempt is not None else None,
                "attempt": attempt.number if attempt is not None else None,
                "session_id": event.get("sessionId"),
                "turn_id": event.get("turnId"),
                "source": f"codexd:{epoch}:{event['seq']}",
                "source_epoch": epoch,
                "source_seq": event["seq"],
                "payload": _json(event),
            }
        )
    if next_seq > done:
        tx.run(
            """INSERT INTO feed (node_id, epoch, next_seq) VALUES (:node_id, :epoch, :next_seq)
            ON CONFLICT (node_id) DO UPDATE SET epoch = excluded.epoch, next_seq = excluded.next_seq""",
            node_id=node_id,
            epoch=epoch,
            next_seq=next_seq,
        )


def feed_cursor(tx: Transaction, node_id: str) -> str | None:
    """Up to where a node's codexd was taken over, as codexd's own cursor; None: nothing yet."""
    found = tx.row("SELECT epoch, next_seq FROM feed WHERE node_id = :node_id", node_id=node_id)
    return None if found is None else f"{found.epoch}:{found.next_seq}"


def head(tx: Transaction) -> Head:
    """How far the events go."""
    found = tx.row(HEAD)
    assert found is not None
    return Head(found.epoch, found.seq, found.oldest)


def page(
    tx: Transaction, after: int, limit: int, *, types: Sequence[str] | None, task_id: str | None
) -> tuple[list[QueueEvent], int]:
    """The events after `after`, of some types and of one task if given, and the `after` of the next page.

    Raises Rejected: `cursor_expired`, `cursor_ahead`.
    """
    stands = head(tx)
    if after > stands.head:
        details = {"head": stands.head}
        raise Rejected(Code.CURSOR_AHEAD, f"The last event is {stands.head}, not {after}.", details=details)
    if after + 1 < stands.oldest:
        details = {"oldest": stands.oldest}
        message = f"Events up to {stands.oldest - 1} are gone. Read on after {stands.oldest - 1}."
        raise Rejected(Code.CURSOR_EXPIRED, message, details=details)
    where, values = "seq > :after AND seq <= :head", dict[str, Any](after=after, head=stands.head, limit=limit)
    if types is not None:
        where, values = f"{where} AND type IN :types", {**values, "types": sorted(types)}
    if task_id is not None:
        where, values = f"{where} AND task_id = :task_id", {**values, "task_id": task_id}
    rows = tx.rows(f"SELECT * FROM event WHERE {where} ORDER BY seq LIMIT :limit", **values)
    return [_event(row) for row in rows], rows[-1].seq if len(rows) == limit else stands.head


def prune(tx: Transaction, *, keep_ms: int) -> int:
    """Let go of the oldest events, at most 1000 of them: those older than `keep_ms` and before any of a task that has
    not ended. How many went; fewer than 1000: all that may go are gone."""
    stands = head(tx)
    young = tx.row("SELECT min(seq) AS seq FROM event WHERE stored_utc > :since", since=tx.utc_ms - keep_ms)
    open_ = tx.row(
        """SELECT min(event.seq) AS seq FROM task JOIN event ON event.task_id = task.task_id
        WHERE task.state IN ('queued', 'running')"""
    )
    assert young is not None
    assert open_ is not None
    keep = min(row.seq if row.seq is not None else stands.head + 1 for row in (young, open_))
    keep = min(keep, stands.oldest + PRUNED_AT_ONCE)
    if keep <= stands.oldest:
        return 0
    gone = tx.run("DELETE FROM event WHERE seq < :keep", keep=keep)
    tx.run("UPDATE head SET oldest = :keep WHERE name = 'event'", keep=keep)
    return gone


def _event(row: sa.Row[Any]) -> QueueEvent:
    return QueueEvent(
        seq=row.seq,
        at=row.at,
        type=row.type,
        node_id=row.node_id,
        task_id=row.task_id,
        attempt=row.attempt,
        session_id=row.session_id,
        turn_id=row.turn_id,
        source=row.source,
        payload=msgspec.json.decode(row.payload),
    )


def _json(payload: Mapping[str, Any]) -> str:
    return msgspec.json.encode(payload).decode()
