"""What only the leader does: give tasks to nodes, take back what a dead node had, let old events go.

Each write holds the leader's lease to its commit and raises Fenced when its term is over.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from baa.api.conductor import NodeState
from baa.api.tasks import Attempt, AttemptState, Evidence, TaskState
from baa.api.tasks import QueueEventType as Told
from baa.clock import rfc3339
from baa.engine import events, tasks
from baa.engine.database import Transaction
from baa.engine.decide import Next
from baa.engine.ending import OPEN, end, locked_attempt, locked_task, move
from baa.engine.events import tell
from baa.engine.leases import VALID, guard
from baa.engine.waiting import FreeNode, Waiting, WaitingTask

NODE_GONE: Final = "node_gone"
"""The reason of an attempt whose node died with it, was cut off for too long, or stopped before it was taken up."""

NOT_RESUMED: Final = "not_resumed"
"""The reason of an attempt whose worker was followed by another one, which did not take it up in time."""

REAPED_AT_ONCE: Final = 100

FORGOTTEN_AT_ONCE: Final = 100

_FREE: Final = f"""SELECT node_id, slots - (
    SELECT count(*) FROM attempt WHERE attempt.node_id = node.node_id AND attempt.state IN {OPEN}) AS free
  FROM node WHERE state = 'active' AND {VALID}"""

_READY: Final = """state = 'queued' AND (not_before_utc IS NULL OR not_before_utc <= :utc_ms)"""

_STILL: Final = """EXISTS (SELECT 1 FROM dependency JOIN task AS other ON other.task_id = dependency.depends_on
  WHERE dependency.task_id = task.task_id AND other.state IN ('queued', 'running'))"""

_BROKEN: Final = """EXISTS (SELECT 1 FROM dependency JOIN task AS other ON other.task_id = dependency.depends_on
  WHERE dependency.task_id = task.task_id AND other.state IN ('failed', 'canceled'))"""


def schedulable(tx: Transaction, limit: int) -> Waiting:
    """What could be given to a node now. Tasks that wait for others, for a time or for a busy node are left out."""
    nodes = [
        FreeNode(node_id=row.node_id, free=row.free) for row in tx.rows(f"{_FREE} ORDER BY node_id") if row.free > 0
    ]
    free = [node.node_id for node in nodes] or [""]
    rows = tx.rows(
        f"""SELECT task_id, priority, only_node, node_id FROM task
        WHERE {_READY} AND (only_node IS NULL OR only_node IN :free OR {_BROKEN}) AND (NOT {_STILL} OR {_BROKEN})
        ORDER BY priority DESC, task_id LIMIT :limit""",
        free=free,
        utc_ms=tx.utc_ms,
        limit=limit,
    )
    needs: dict[str, dict[str, TaskState]] = {row.task_id: {} for row in rows}
    if rows:
        sql = """SELECT dependency.task_id, depends_on, state FROM dependency JOIN task ON task.task_id = depends_on
          WHERE dependency.task_id IN :ids"""
        for need in tx.rows(sql, ids=list(needs)):
            needs[need.task_id][need.depends_on] = TaskState(need.state)
    waiting = [
        WaitingTask(
            task_id=row.task_id,
            priority=row.priority,
            dependencies=needs[row.task_id],
            node=row.only_node,
            last_node=row.node_id,
        )
        for row in rows
    ]
    return Waiting(tasks=waiting, nodes=nodes, paused=tasks.paused(tx))


def assign(tx: Transaction, term: int, task_id: str, node_id: str) -> Attempt | None:
    """Give a queued task to a node as its next attempt. None: that cannot be done any more; look again.

    Raises Fenced.
    """
    guard(tx, term)
    if tasks.paused(tx, lock="SHARE"):
        return None
    node = tx.row(f"{_FREE} AND node_id = :node_id", lock="SHARE", node_id=node_id)
    task = locked_task(tx, task_id)
    if node is None or node.free < 1 or task is None or task.only_node not in (None, node_id):
        return None
    sql = f"""SELECT task_id FROM task WHERE task_id = :task_id AND {_READY} AND NOT EXISTS (
        SELECT 1 FROM dependency JOIN task AS other ON other.task_id = dependency.depends_on
        WHERE dependency.task_id = task.task_id AND other.state <> 'succeeded')"""
    if tx.row(sql, task_id=task_id, utc_ms=tx.utc_ms) is None:
        return None
    number = task.attempts + 1
    tx.run(
        """INSERT INTO attempt (attempt_id, task_id, number, state, node_id, tokens, turns, time_ms, evidence,
          created_at)
        VALUES (:attempt_id, :task_id, :number, 'assigned', :node_id, 0, 0, 0, :evidence, :now)""",
        attempt_id=f"{task_id}:{number}",
        task_id=task_id,
        number=number,
        node_id=node_id,
        evidence=msgspec.json.encode(Evidence()).decode(),
        now=tx.now,
    )
    tx.run(
        """UPDATE task SET state = 'running', attempts = :number, node_id = :node_id, reason = NULL,
          not_before_utc = NULL, started_at = coalesce(started_at, :now) WHERE task_id = :task_id""",
        number=number,
        node_id=node_id,
        now=tx.now,
        task_id=task_id,
    )
    about: dict[str, Any] = {"node_id": node_id, "task_id": task_id, "attempt": number}
    tell(tx, Told.TASK_STARTED, **about)
    tell(tx, Told.ATTEMPT_ASSIGNED, **about)
    return tasks.open_attempts(tx, "attempt_id = :attempt_id", attempt_id=f"{task_id}:{number}")[0]


def unqueued(tx: Transaction, term: int) -> list[Attempt]:
    """The attempts that no worker has taken up yet: each is to be on its node's queue. Raises Fenced."""
    guard(tx, term)
    return tasks.open_attempts(tx, "state = 'assigned'")


def fail(tx: Transaction, term: int, task_id: str, reason: str) -> bool:
    """End a queued task as failed; False if it is not queued any more. Raises Fenced."""
    guard(tx, term)
    task = locked_task(tx, task_id)
    if task is None or task.state != TaskState.QUEUED:
        return False
    following = Next(state=TaskState.FAILED, told=Told.TASK_FAILED, reason=reason, tries=task.tries, parks=task.parks)
    move(tx, task, following)
    tell(tx, following.told, task_id=task_id, payload={"reason": reason})
    return True


def reap(tx: Transaction, term: int) -> list[Attempt]:
    """Give up the nodes whose heartbeat expired, and end as lost what can run there no longer; those attempts.

    What a worker had taken up is ended once the node is gone for longer than its turns' lease, so that its codexd has
    ended the turn by then; the same for what a worker left to its successor, which did not take it up. What was only
    given to a node that is gone or drains is ended at once. At most 100 a time. Raises Fenced.
    """
    guard(tx, term)
    # After a reboot nobody knows how long a node has been silent: it counts from when that is seen.
    tx.run("UPDATE node SET boot_id = boot_id(), expires_ms = now_ms() WHERE boot_id <> boot_id()")
    gone = tx.rows(
        f"UPDATE node SET state = 'gone' WHERE state <> 'gone' AND NOT {VALID} RETURNING node_id, incarnation"
    )
    for row in gone:
        told = {"incarnation": row.incarnation, "reason": "expired"}
        tell(tx, Told.NODE_GONE, node_id=row.node_id, payload=told)
    found = tx.rows(
        f"""SELECT attempt.task_id, attempt.number, attempt.owner, node.state AS node_state FROM attempt
        JOIN node ON node.node_id = attempt.node_id
        WHERE attempt.state IN {OPEN} AND CASE
          WHEN attempt.state = 'assigned' THEN node.state <> 'active'
          WHEN node.state = 'gone' THEN node.expires_ms + node.turn_lease_ms <= now_ms()
          ELSE attempt.owner <> node.incarnation
            AND node.registered_ms + node.ttl_ms + node.turn_lease_ms <= now_ms()
          END
        ORDER BY attempt.task_id LIMIT {REAPED_AT_ONCE}"""
    )
    return [ended for row in found if (ended := _take_back(tx, row)) is not None]


def prune(tx: Transaction, term: int, *, keep_ms: int) -> int:
    """Let go of at most 1000 of the oldest events; how many went. Raises Fenced."""
    guard(tx, term)
    return events.prune(tx, keep_ms=keep_ms)


def forget(tx: Transaction, term: int, *, keep_ms: int) -> int:
    """Let go of tasks that ended longer than `keep_ms` ago, with their attempts; at most 100 of them. Raises Fenced.

    One that another task depends on stays as long as that one: whoever tries that again must know what became of it.
    """
    guard(tx, term)
    sql = f"""SELECT task_id FROM task WHERE ended_at < :before
      AND NOT EXISTS (SELECT 1 FROM dependency WHERE depends_on = task.task_id)
      ORDER BY task_id LIMIT {FORGOTTEN_AT_ONCE}"""
    old = [row.task_id for row in tx.rows(sql, lock="UPDATE", before=rfc3339(tx.utc_ms - keep_ms))]
    if old:
        for table in ("attempt", "dependency", "task"):
            tx.run(f"DELETE FROM {table} WHERE task_id IN :ids", ids=old)
    return len(old)


def _take_back(tx: Transaction, seen: sa.Row[Any]) -> Attempt | None:
    task = locked_task(tx, seen.task_id)
    attempt = locked_attempt(tx, seen.task_id, seen.number)
    assert task is not None
    assert attempt is not None
    if attempt.state not in (AttemptState.ASSIGNED, AttemptState.RUNNING) or attempt.owner != seen.owner:
        return None
    with_node = seen.node_state == NodeState.GONE or attempt.state == AttemptState.ASSIGNED
    end(tx, task, attempt, AttemptState.LOST, reason=NODE_GONE if with_node else NOT_RESUMED)
    row = tx.row("SELECT * FROM attempt WHERE attempt_id = :attempt_id", attempt_id=attempt.attempt_id)
    assert row is not None
    return tasks.attempt_of(row)
