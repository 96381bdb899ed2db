"""PURE: what becomes of a task when an attempt at it has ended. Looks at no clock and at no database."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from baa.api.tasks import AttemptState, QueueEventType, TaskState

USAGE_LIMIT: Final = "usage_limit"
"""The reason of an attempt that ended because Codex's limits were used up: waiting for their reset is no try."""

PARKS_MAX: Final = 50
"""How often a task may wait for a reset: a limit that never lifts is told as a failure in the end."""

AGAIN: Final = frozenset({AttemptState.LOST, AttemptState.STALLED})
"""Ends that say nothing about the task: another attempt may do better."""


class Next(Struct, frozen=True, kw_only=True):
    """How a task goes on, and what is told of it. `tries` and `parks` are its new counts."""

    state: TaskState
    told: QueueEventType
    reason: str | None
    tries: int
    parks: int
    not_before_utc: int | None = None


def after(
    end: AttemptState,
    *,
    reason: str | None,
    cancel_asked: bool,
    tries: int,
    parks: int,
    max_attempts: int,
    park_until_utc: int | None = None,
) -> Next:
    """What becomes of a running task whose attempt ended as `end`.

    `tries` counts the attempts that a worker took up, this one included; `parks` the waits for a reset so far.
    `park_until_utc` (milliseconds, UTC): the worker asks for another attempt, but not before then.
    """
    why = reason or str(end)
    if end is AttemptState.SUCCEEDED:
        return Next(
            state=TaskState.SUCCEEDED, told=QueueEventType.TASK_SUCCEEDED, reason=reason, tries=tries, parks=parks
        )
    if cancel_asked or end is AttemptState.CANCELED:
        return Next(state=TaskState.CANCELED, told=QueueEventType.TASK_CANCELED, reason=why, tries=tries, parks=parks)
    if park_until_utc is not None:
        waits = reason == USAGE_LIMIT
        if parks < PARKS_MAX if waits else tries < max_attempts:
            return Next(
                state=TaskState.QUEUED,
                told=QueueEventType.TASK_PARKED,
                reason=why,
                tries=tries - 1 if waits else tries,
                parks=parks + 1 if waits else parks,
                not_before_utc=park_until_utc,
            )
    elif end in AGAIN and tries < max_attempts:
        return Next(state=TaskState.QUEUED, told=QueueEventType.TASK_REQUEUED, reason=why, tries=tries, parks=parks)
    return Next(state=TaskState.FAILED, told=QueueEventType.TASK_FAILED, reason=why, tries=tries, parks=parks)
