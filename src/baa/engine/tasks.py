"""The tasks: submitted once a key, told, cancelled, given another try; and the pause of the whole queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from baa.api import ids
from baa.api.errors import Code, Rejected
from baa.api.tasks import ATTEMPT_ENDED, TASK_ENDED, Attempt, AttemptState, Evidence, SubmitTask, Task, TaskState
from baa.api.tasks import QueueEventType as Told
from baa.clock import rfc3339
from baa.engine import decide
from baa.engine.database import Transaction
from baa.engine.ending import OPEN, end, lasted, locked_attempt, locked_task, move
from baa.engine.events import tell

TITLE_MAX: Final = 80

_TASKS: Final = """SELECT task.*,
  (SELECT coalesce(sum(tokens), 0) FROM attempt WHERE attempt.task_id = task.task_id) AS tokens,
  (SELECT coalesce(sum(turns), 0) FROM attempt WHERE attempt.task_id = task.task_id) AS turns,
  (SELECT coalesce(sum(time_ms), 0) FROM attempt WHERE attempt.task_id = task.task_id) AS time_ms
  FROM task"""


def submit(tx: Transaction, request: SubmitTask, *, key: str | None, body_hash: bytes) -> tuple[Task, bool]:
    """The task of this key, and whether it is new. Raises Rejected: `idempotency_mismatch`, `invalid_request`."""
    earlier = _of_key(tx, key, body_hash)
    if earlier is not None:
        return earlier, False
    depends_on = sorted(set(request.depends_on))
    known = (
        {row.task_id for row in tx.rows("SELECT task_id FROM task WHERE task_id IN :ids", ids=depends_on)}
        if depends_on
        else set()
    )
    unknown = [task_id for task_id in depends_on if task_id not in known]
    if unknown:
        message = f"dependsOn names tasks that do not exist: {', '.join(unknown)}. Submit those first."
        raise Rejected(Code.INVALID_REQUEST, message)
    task_id = ids.new_id(ids.TASK, tx.utc_ms)
    lines = request.prompt.split("\n")
    title = request.title or next((line.strip() for line in lines if line.strip()), "")[:TITLE_MAX]
    row: dict[str, Any] = {
        "task_id": task_id,
        "title": title.replace("\0", "\ufffd"),
        "request": msgspec.json.encode(request).decode(),
        "priority": request.priority,
        "only_node": request.node,
        "idempotency_key": key,
        "body_hash": body_hash.hex(),
        "now": tx.now,
    }
    made = tx.run(
        """INSERT INTO task (task_id, state, title, request, priority, only_node, idempotency_key, body_hash, attempts,
          tries, parks, cancel_asked, result, created_at)
        VALUES (:task_id, 'queued', :title, :request, :priority, :only_node, :idempotency_key, :body_hash, 0,
          0, 0, 0, '{}', :now)
        ON CONFLICT (idempotency_key) DO NOTHING""",
        **row,
    )
    if not made:  # another conductor was quicker
        earlier = _of_key(tx, key, body_hash)
        assert earlier is not None
        return earlier, False
    tx.many(
        "INSERT INTO dependency (task_id, depends_on) VALUES (:task_id, :depends_on)",
        [{"task_id": task_id, "depends_on": each} for each in depends_on],
    )
    tell(tx, Told.TASK_QUEUED, task_id=task_id, payload={"title": title, "priority": request.priority})
    return get(tx, task_id, attempts=False), True


def get(tx: Transaction, task_id: str, *, attempts: bool = True) -> Task:
    """The task, with its attempts if asked for. Raises Rejected: `task_not_found`."""
    row = tx.row(f"{_TASKS} WHERE task_id = :task_id", task_id=task_id)
    if row is None:
        raise _not_found(task_id)
    if not attempts:
        return _task(row, None)
    rows = tx.rows("SELECT * FROM attempt WHERE task_id = :task_id ORDER BY number", task_id=task_id)
    return _task(row, [_by_now(tx, each) for each in rows])


def listed(
    tx: Transaction, *, states: Sequence[TaskState] | None, limit: int, after: str | None, since: str | None
) -> tuple[list[Task], str | None]:
    """A page of tasks without their attempts, newest first; the `after` of the next one, None if there is none.

    `since`, as `rfc3339` writes it, leaves out those that ended before.
    """
    where, values = "TRUE", dict[str, Any](limit=limit + 1)
    if states is not None:
        where, values = f"{where} AND state IN :states", {**values, "states": [str(state) for state in states]}
    if after is not None:
        where, values = f"{where} AND task_id < :after", {**values, "after": after}
    if since is not None:
        where, values = f"{where} AND (ended_at IS NULL OR ended_at >= :since)", {**values, "since": since}
    rows = tx.rows(f"{_TASKS} WHERE {where} ORDER BY task_id DESC LIMIT :limit", **values)
    page = [_task(row, None) for row in rows[:limit]]
    return page, page[-1].task_id if len(rows) > limit and page else None


def cancel(tx: Transaction, task_id: str) -> Task:
    """End what waits; ask the worker of what runs to end it. Raises Rejected: `task_not_found`, `task_ended`."""
    row = locked_task(tx, task_id)
    if row is None:
        raise _not_found(task_id)
    if row.state in TASK_ENDED:
        raise _ended(row)
    if row.state == TaskState.QUEUED:
        following = decide.after(
            AttemptState.CANCELED, reason=None, cancel_asked=True, tries=row.tries, parks=row.parks, max_attempts=1
        )
        move(tx, row, following)
        tell(tx, Told.TASK_CANCELED, task_id=task_id, payload={"reason": following.reason})
        return get(tx, task_id)
    attempt = locked_attempt(tx, task_id, row.attempts)
    assert attempt is not None
    if attempt.state == AttemptState.ASSIGNED:
        end(tx, row, attempt, AttemptState.CANCELED, reason=None)
    elif not row.cancel_asked:
        tx.run("UPDATE task SET cancel_asked = 1 WHERE task_id = :task_id", task_id=task_id)
        tell(tx, Told.TASK_CANCEL_ASKED, task_id=task_id, attempt=attempt.number, node_id=attempt.node_id)
    return get(tx, task_id)


def retry(tx: Transaction, task_id: str) -> Task:
    """Queue a task that failed or was cancelled again, with all its attempts before it; their numbers count on.

    Raises Rejected: `task_not_found`, `task_not_ended`, `task_ended` (it succeeded).
    """
    row = locked_task(tx, task_id)
    if row is None:
        raise _not_found(task_id)
    if row.state not in TASK_ENDED:
        message = f"The task is {row.state}. Cancel it first, or wait for its end."
        raise Rejected(Code.TASK_NOT_ENDED, message, details={"state": row.state})
    if row.state == TaskState.SUCCEEDED:
        raise _ended(row)
    tx.run(
        """UPDATE task SET state = 'queued', reason = NULL, tries = 0, parks = 0, cancel_asked = 0,
          not_before_utc = NULL, ended_at = NULL WHERE task_id = :task_id""",
        task_id=task_id,
    )
    tell(tx, Told.TASK_QUEUED, task_id=task_id, payload={"title": row.title, "priority": row.priority, "retry": True})
    return get(tx, task_id)


def pause(tx: Transaction, *, on: bool) -> bool:
    """Stop or go on giving tasks to nodes; what runs, runs on. Whether the queue is paused now."""
    value = "1" if on else "0"
    if tx.run("UPDATE setting SET value = :value WHERE name = 'paused' AND value <> :value", value=value):
        tell(tx, Told.SYSTEM_PAUSED if on else Told.SYSTEM_RESUMED)
    return on


def paused(tx: Transaction, *, lock: str = "") -> bool:
    """Whether the queue is paused."""
    row = tx.row("SELECT value FROM setting WHERE name = 'paused'", lock=lock)
    assert row is not None
    return bool(row.value == "1")


def attempt_of(row: sa.Row[Any]) -> Attempt:
    """An attempt's row as it is told."""
    return Attempt(
        attempt_id=row.attempt_id,
        task_id=row.task_id,
        number=row.number,
        state=AttemptState(row.state),
        reason=row.reason,
        node_id=row.node_id,
        owner=row.owner,
        session_id=row.session_id,
        turn_id=row.turn_id,
        tokens=row.tokens,
        time_ms=row.time_ms,
        evidence=msgspec.json.decode(row.evidence, type=Evidence),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _by_now(tx: Transaction, row: sa.Row[Any]) -> Attempt:
    """An attempt with the time that it took by now, on the database's clock."""
    told = attempt_of(row)
    return told if row.state in ATTEMPT_ENDED else msgspec.structs.replace(told, time_ms=lasted(tx, row))


def open_attempts(tx: Transaction, where: str, **values: Any) -> list[Attempt]:
    """The attempts that have not ended and of which `where` holds, oldest first."""
    sql = f"SELECT * FROM attempt WHERE state IN {OPEN} AND {where} ORDER BY attempt_id"
    return [attempt_of(row) for row in tx.rows(sql, **values)]


def _of_key(tx: Transaction, key: str | None, body_hash: bytes) -> Task | None:
    if key is None:
        return None
    row = tx.row("SELECT task_id, body_hash FROM task WHERE idempotency_key = :key", key=key)
    if row is None:
        return None
    if row.body_hash != body_hash.hex():
        message = "This Idempotency-Key was used for another task. Use a new key for a new task."
        raise Rejected(Code.IDEMPOTENCY_MISMATCH, message, details={"taskId": row.task_id})
    return get(tx, row.task_id, attempts=False)


def _task(row: sa.Row[Any], attempts: list[Attempt] | None) -> Task:
    result = msgspec.json.decode(row.result)
    return Task(
        task_id=row.task_id,
        state=TaskState(row.state),
        reason=row.reason,
        title=row.title,
        request=msgspec.json.decode(row.request, type=SubmitTask),
        attempt_count=row.attempts,
        node_id=row.node_id,
        cancel_asked=bool(row.cancel_asked),
        not_before=None if row.not_before_utc is None else rfc3339(row.not_before_utc),
        tokens=int(row.tokens),
        turns=int(row.turns),
        time_ms=int(row.time_ms),
        final_message=result.get("finalMessage"),
        output=result.get("output"),
        branch=result.get("branch"),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        attempts=attempts,
    )


def _not_found(task_id: str) -> Rejected:
    return Rejected(Code.TASK_NOT_FOUND, f"There is no task {task_id}. `baa task list` names those there are.")


def _ended(row: sa.Row[Any]) -> Rejected:
    return Rejected(Code.TASK_ENDED, f"The task has ended: {row.state}.", details={"state": row.state})
