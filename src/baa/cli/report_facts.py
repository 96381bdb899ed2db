"""PURE: what became of the tasks in a time, out of the tasks and the questions that the fleet's events tell of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from baa.api.events import EventType
from baa.api.tasks import TASK_ENDED, QueueEvent, Task, TaskState
from baa.cli.task_show import why_failed

ASKING: Final = (
    EventType.INTERACTION_REQUESTED,
    EventType.INTERACTION_RESOLVED,
    EventType.INTERACTION_EXPIRED,
)
"""The types of the events that `questions` needs."""


class Done(Struct, rename="camel", frozen=True, kw_only=True):
    """A task that ended, or stands open; `why` it failed, was canceled or waits."""

    task_id: str
    title: str
    why: str | None
    node_id: str | None
    branch: str | None
    attempts: int
    turns: int
    tokens: int
    time_ms: int
    ended_at: str | None
    changed: str | None = None
    final_message: str | None = None


class Question(Struct, rename="camel", frozen=True, kw_only=True):
    """What Codex asked: still open, or ended without anybody's answer."""

    interaction_id: str
    kind: str
    open: bool
    at: str
    deadline_at: str | None
    node_id: str | None
    task_id: str | None
    session_id: str | None


class Spent(Struct, rename="camel", frozen=True, kw_only=True):
    """What the tasks of the report took, all their attempts together."""

    tokens: int
    turns: int
    time_ms: int


class Report(Struct, rename="camel", frozen=True, kw_only=True):
    """The morning's page."""

    since: str
    succeeded: list[Done]
    failed: list[Done]
    canceled: list[Done]
    running: list[Done]
    queued: list[Done]
    asked: list[Question]
    spent: Spent
    paused: bool


def counts(task: Task, since: str) -> bool:
    """Whether a task belongs into a report since then: it is open, or ended after it. Times as the API writes them."""
    return task.ended_at is None or task.ended_at >= since


def summed(tasks: Iterable[Task], events: Iterable[QueueEvent], *, since: str, paused: bool) -> Report:
    """The report; tasks in the order in which they ended, open ones oldest first."""
    kept = sorted((task for task in tasks if counts(task, since)), key=lambda task: (task.ended_at or "", task.task_id))
    of = {state: [_done(task) for task in kept if task.state is state] for state in TaskState}
    return Report(
        since=since,
        succeeded=of[TaskState.SUCCEEDED],
        failed=of[TaskState.FAILED],
        canceled=of[TaskState.CANCELED],
        running=of[TaskState.RUNNING],
        queued=of[TaskState.QUEUED],
        asked=questions(events, since=since),
        spent=Spent(
            tokens=sum(task.tokens for task in kept),
            turns=sum(task.turns for task in kept),
            time_ms=sum(task.time_ms for task in kept),
        ),
        paused=paused,
    )


def questions(events: Iterable[QueueEvent], *, since: str) -> list[Question]:
    """The questions that are open, and those since then which nobody answered, oldest first."""
    found: dict[tuple[str | None, str], Question] = {}
    for event in events:
        told: dict[str, Any] = event.payload.get("payload", {})
        interaction_id = told.get("interactionId")
        if not isinstance(interaction_id, str):
            continue
        key = (event.node_id, interaction_id)
        if event.type == EventType.INTERACTION_REQUESTED:
            found[key] = Question(
                interaction_id=interaction_id,
                kind=str(told.get("kind")),
                open=True,
                at=event.at,
                deadline_at=told.get("deadlineAt"),
                node_id=event.node_id,
                task_id=event.task_id,
                session_id=event.session_id,
            )
            continue
        asked = found.pop(key, None)
        if asked is not None and event.type == EventType.INTERACTION_EXPIRED and event.at >= since:
            found[key] = replace(asked, open=False)
    return list(found.values())


def _done(task: Task) -> Done:
    last = task.attempts[-1].evidence if task.attempts else None
    stat = (last.diff_stat or "").strip().splitlines() if last is not None else []
    why = why_failed(task) if task.state is TaskState.FAILED else task.reason
    if task.state not in TASK_ENDED and task.not_before is not None:
        why = f"{why or 'waits'} until {task.not_before}"
    return Done(
        task_id=task.task_id,
        title=task.title,
        why=why,
        node_id=task.node_id,
        branch=task.branch,
        attempts=task.attempt_count,
        turns=task.turns,
        tokens=task.tokens,
        time_ms=task.time_ms,
        ended_at=task.ended_at,
        changed=stat[-1].strip() if stat else None,
        final_message=task.final_message,
    )
