"""An attempt in its worker's hands: taken up, written down step by step, ended, while the worker is alive.

`owner` is the incarnation of the worker. Whoever finds that the attempt is not its own any more gets Lost, and nothing
was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from baa.api.conductor import NodeState
from baa.api.tasks import ATTEMPT_ENDED, Attempt, AttemptState, Evidence, Task
from baa.api.tasks import QueueEventType as Told
from baa.engine import events, nodes, tasks
from baa.engine.database import Transaction
from baa.engine.ending import end, locked_attempt, locked_task
from baa.engine.events import tell
from baa.engine.nodes import Lost


class Standing(Struct, frozen=True, kw_only=True):
    """How a worker stands to its attempt: whether it is still its own, and whether its end was asked for."""

    cancel_asked: bool
    owned: bool


def claim(tx: Transaction, task_id: str, number: int, *, node_id: str, owner: str) -> tuple[Task, Attempt] | None:
    """Take the attempt up, or go on with what an earlier life of this node began; the same again is the same.

    None: it has ended, was given to another node, or this worker is not to take it. There is nothing to do.
    """
    sql = "SELECT state FROM node WHERE node_id = :node_id AND incarnation = :owner AND state <> 'gone'"
    node = tx.row(sql, lock="SHARE", node_id=node_id, owner=owner)
    task = locked_task(tx, task_id)
    attempt = None if task is None else locked_attempt(tx, task_id, number)
    if node is None or attempt is None or attempt.node_id != node_id or attempt.state in ATTEMPT_ENDED:
        return None
    fresh = attempt.state == AttemptState.ASSIGNED
    if fresh and node.state != NodeState.ACTIVE:
        return None  # a node that drains begins nothing, and the leader takes the attempt back
    if attempt.owner != owner:
        tx.run(
            """UPDATE attempt SET state = 'running', owner = :owner, boot_id = coalesce(boot_id, boot_id()),
              started_ms = coalesce(started_ms, now_ms()), started_at = coalesce(started_at, :now)
            WHERE attempt_id = :attempt_id""",
            owner=owner,
            now=tx.now,
            attempt_id=attempt.attempt_id,
        )
        told = Told.ATTEMPT_STARTED if fresh else Told.ATTEMPT_RESUMED
        tell(tx, told, node_id=node_id, task_id=task_id, attempt=number, payload={"owner": owner})
    if fresh:
        tx.run("UPDATE task SET tries = tries + 1 WHERE task_id = :task_id", task_id=task_id)
    found = tasks.get(tx, task_id)
    assert found.attempts is not None
    return found, next(each for each in found.attempts if each.number == number)


def record(
    tx: Transaction,
    owner: str,
    attempt_id: str,
    *,
    session_id: str | None,
    turn_id: str | None,
    evidence: Evidence | None,
    tokens: int | None,
    told: Sequence[tuple[str, Mapping[str, Any]]],
) -> Standing:
    """Write down how far the attempt is; None leaves what stands there. Raises Lost."""
    node_id = nodes.guard(tx, owner)
    row = tx.row("SELECT * FROM attempt WHERE attempt_id = :attempt_id", lock="UPDATE", attempt_id=attempt_id)
    if row is None or row.owner != owner or row.state != AttemptState.RUNNING:
        raise Lost(f"the attempt {attempt_id} is not this worker's any more")
    _write(tx, attempt_id, session_id, turn_id, evidence, tokens)
    for type_, payload in told:
        tell(
            tx,
            type_,
            node_id=node_id,
            task_id=row.task_id,
            attempt=row.number,
            session_id=session_id or row.session_id,
            turn_id=turn_id or row.turn_id,
            payload=payload,
        )
    asked = tx.number("SELECT cancel_asked FROM task WHERE task_id = :task_id", task_id=row.task_id)
    return Standing(cancel_asked=bool(asked), owned=True)


def standing(tx: Transaction, owner: str, attempt_ids: Sequence[str]) -> dict[str, Standing]:
    """How the worker stands to each of these attempts."""
    found = {attempt_id: Standing(cancel_asked=False, owned=False) for attempt_id in attempt_ids}
    if not found:
        return found
    alive = tx.row("SELECT 1 FROM node WHERE incarnation = :owner AND state <> 'gone'", owner=owner) is not None
    rows = tx.rows(
        """SELECT attempt_id, owner, attempt.state AS state, cancel_asked FROM attempt
        JOIN task ON task.task_id = attempt.task_id WHERE attempt_id IN :attempt_ids""",
        attempt_ids=list(attempt_ids),
    )
    for row in rows:
        owned = alive and row.owner == owner and row.state == AttemptState.RUNNING
        found[row.attempt_id] = Standing(cancel_asked=bool(row.cancel_asked), owned=owned)
    return found


def finish(
    tx: Transaction,
    owner: str,
    attempt_id: str,
    state: AttemptState,
    *,
    reason: str | None,
    evidence: Evidence | None,
    tokens: int | None,
    park_until_utc: int | None,
) -> Task:
    """End the attempt and move its task on; the task as it stands then. The same again gives the same. Raises Lost."""
    nodes.guard(tx, owner)
    task_id, _, number = attempt_id.rpartition(":")
    task = locked_task(tx, task_id)
    attempt = None if task is None else locked_attempt(tx, task_id, int(number))
    if task is None or attempt is None or attempt.owner != owner:
        raise Lost(f"the attempt {attempt_id} is not this worker's any more")
    if attempt.state in ATTEMPT_ENDED:
        if attempt.state != state:
            raise Lost(f"the attempt {attempt_id} has ended: {attempt.state}")
        return tasks.get(tx, task_id)
    _write(tx, attempt_id, None, None, evidence, tokens)
    end(tx, task, attempt, state, reason=reason, park_until_utc=park_until_utc)
    return tasks.get(tx, task_id)


def orphans(tx: Transaction, node_id: str, owner: str) -> list[Attempt]:
    """What earlier lives of this node's worker left running, for this one to take up."""
    where = "state = 'running' AND node_id = :node_id AND owner <> :owner"
    return tasks.open_attempts(tx, where, node_id=node_id, owner=owner)


def append_codexd(
    tx: Transaction,
    owner: str,
    node_id: str,
    epoch: str,
    next_seq: int,
    told: Sequence[Mapping[str, Any]],
    missed: Mapping[str, Any] | None,
) -> None:
    """Take over what the node's codexd told. Raises Lost."""
    if nodes.guard(tx, owner) != node_id:
        raise Lost(f"this worker is not that of the node {node_id}")
    events.append_codexd(tx, node_id=node_id, epoch=epoch, next_seq=next_seq, events=told, missed=missed)


def _write(
    tx: Transaction,
    attempt_id: str,
    session_id: str | None,
    turn_id: str | None,
    evidence: Evidence | None,
    tokens: int | None,
) -> None:
    changed: dict[str, Any] = {
        "session_id": session_id,
        "turn_id": turn_id,
        "tokens": tokens,
        "evidence": None if evidence is None else msgspec.json.encode(evidence).decode(),
        "turns": None if evidence is None else len(evidence.turns),
    }
    given = {name: value for name, value in changed.items() if value is not None}
    if given:
        columns = ", ".join(f"{name} = :{name}" for name in given)
        tx.run(f"UPDATE attempt SET {columns} WHERE attempt_id = :attempt_id", **given, attempt_id=attempt_id)
