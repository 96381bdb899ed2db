"""How an attempt ends, whoever ends it: its row, its task and their events in one transaction.

Locks are taken in one order everywhere: lease, node, task, attempt, and last the row that counts the events.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from baa.api.tasks import ATTEMPT_ENDED, AttemptState, Evidence, SubmitTask, TaskState
from baa.api.tasks import QueueEventType as Told
from baa.clock import rfc3339
from baa.engine import decide
from baa.engine.database import Transaction
from baa.engine.events import tell

OPEN: Final = "('assigned', 'running')"


def locked_task(tx: Transaction, task_id: str) -> sa.Row[Any] | None:
    """The task's row, kept to the end of the transaction."""
    return tx.row("SELECT * FROM task WHERE task_id = :task_id", lock="UPDATE", task_id=task_id)


def locked_attempt(tx: Transaction, task_id: str, number: int) -> sa.Row[Any] | None:
    """The attempt's row, kept to the end of the transaction; its task's must be kept already."""
    sql = "SELECT * FROM attempt WHERE task_id = :task_id AND number = :number"
    return tx.row(sql, lock="UPDATE", task_id=task_id, number=number)


def end(
    tx: Transaction,
    task: sa.Row[Any],
    attempt: sa.Row[Any],
    state: AttemptState,
    *,
    reason: str | None,
    park_until_utc: int | None = None,
) -> None:
    """End an open attempt and move its task on. Both rows are locked, and the attempt is the task's open one."""
    assert state in ATTEMPT_ENDED
    tx.run(
        """UPDATE attempt SET state = :state, reason = :reason, time_ms = :time_ms, ended_at = :now
        WHERE attempt_id = :id""",
        state=str(state),
        reason=reason,
        time_ms=lasted(tx, attempt),
        now=tx.now,
        id=attempt.attempt_id,
    )
    about: dict[str, Any] = {"node_id": attempt.node_id, "task_id": task.task_id, "attempt": attempt.number}
    told = {"state": str(state), "reason": reason}
    tell(tx, Told.ATTEMPT_ENDED, **about, session_id=attempt.session_id, turn_id=attempt.turn_id, payload=told)
    request = msgspec.json.decode(task.request, type=SubmitTask)
    following = decide.after(
        state,
        reason=reason,
        cancel_asked=bool(task.cancel_asked),
        tries=task.tries,
        parks=task.parks,
        max_attempts=request.max_attempts,
        park_until_utc=park_until_utc,
    )
    move(tx, task, following)
    payload: dict[str, Any] = {"reason": following.reason}
    if following.not_before_utc is not None:
        payload["notBefore"] = rfc3339(following.not_before_utc)
    tell(tx, following.told, **about, payload=payload)


def move(tx: Transaction, task: sa.Row[Any], following: decide.Next) -> None:
    """Write down how a task goes on; what its last attempt gave is its result so far."""
    ended = following.state is not TaskState.QUEUED
    tx.run(
        """UPDATE task SET state = :state, reason = :reason, tries = :tries, parks = :parks,
          not_before_utc = :not_before, result = :result, ended_at = :ended_at WHERE task_id = :task_id""",
        state=str(following.state),
        reason=following.reason,
        tries=following.tries,
        parks=following.parks,
        not_before=following.not_before_utc,
        result=_result(tx, task),
        ended_at=tx.now if ended else None,
        task_id=task.task_id,
    )


def _result(tx: Transaction, task: sa.Row[Any]) -> str:
    sql = "SELECT evidence FROM attempt WHERE task_id = :task_id ORDER BY number DESC LIMIT 1"
    last = tx.row(sql, task_id=task.task_id)
    given = Evidence() if last is None else msgspec.json.decode(last.evidence, type=Evidence)
    if given.final_message is None and given.output is None and given.branch is None:
        kept: str = task.result
        return kept
    result = {"finalMessage": given.final_message, "output": given.output, "branch": given.branch}
    return msgspec.json.encode(result).decode()


def lasted(tx: Transaction, attempt: sa.Row[Any]) -> int:
    """Milliseconds since the attempt was taken up; by the wall clock where the machine was started anew."""
    if attempt.started_at is None:
        return 0
    now = tx.row("SELECT now_ms() AS ms, boot_id() AS boot")
    assert now is not None
    if now.boot == attempt.boot_id:
        return max(0, int(now.ms) - int(attempt.started_ms))
    return max(0, tx.utc_ms - round(datetime.fromisoformat(attempt.started_at).timestamp() * 1000))
