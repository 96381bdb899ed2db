"""Tasks and their attempts as the conductor tells them, and what a client may ask for.

A task is work that finishes by itself: it is done when its checks pass, not when the agent says so. An attempt is one
try at it on one node. At most one attempt's result is ever accepted.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from baa.api.sessions import PROMPT_MAX, ApprovalPolicy, Ms, Sandbox


class TaskState(StrEnum):
    """Where a task stands; the last three are ends. A task that waits for a reset of limits is `queued`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TASK_ENDED: Final = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELED})


class AttemptState(StrEnum):
    """Where an attempt stands: given to a node, taken by its worker, or ended in one of the last eight ways.

    `lost`: we cannot know how its turn ended, or its node died with it.
    """

    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CHECKS_FAILED = "checks_failed"
    TIMED_OUT = "timed_out"
    STALLED = "stalled"
    LOST = "lost"
    CANCELED = "canceled"
    BUDGET_EXCEEDED = "budget_exceeded"


ATTEMPT_ENDED: Final = frozenset(AttemptState) - {AttemptState.ASSIGNED, AttemptState.RUNNING}


class Workspace(StrEnum):
    """Where the agent works: in a git worktree of its own on the branch `baa/<task>`, or in the folder itself."""

    WORKTREE = "worktree"
    INPLACE = "inplace"


class Check(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A command that must pass: run by `/bin/sh -c` in the workspace, as the user, outside of Codex's sandbox."""

    command: Annotated[str, Meta(min_length=1, max_length=65_536)]
    timeout_ms: Ms = 600_000


class Budget(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The most that all attempts of a task together may spend; what is reached ends the running turn at once."""

    tokens: Annotated[int, Meta(ge=1)] | None = None
    turns: Annotated[int, Meta(ge=1)] | None = None
    time_ms: Ms | None = None


class SubmitTask(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/tasks`: `cwd`, or `repository` with `ref`, says where.

    `cwd` is an absolute path on the node. `repository` is one too (a git repository; a worktree of `ref` is made, HEAD
    without it). `workspace`: without it `worktree` in a git repository, else `inplace`. `max_turns` bounds the turns of
    an attempt, the first included; `deadline_ms` an attempt; `stall_ms` the silence of a turn. A higher `priority` runs
    earlier. `node` is the only node that may run it; without it any node may.
    """

    prompt: Annotated[str, Meta(min_length=1, max_length=PROMPT_MAX)]
    title: Annotated[str, Meta(max_length=200)] | None = None
    cwd: str | None = None
    repository: str | None = None
    ref: str | None = None
    workspace: Workspace | None = None
    checks: Annotated[list[Check], Meta(max_length=32)] = []
    max_turns: Annotated[int, Meta(ge=1, le=100)] = 3
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    deadline_ms: Ms | None = None
    stall_ms: Ms = 900_000
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    depends_on: Annotated[list[str], Meta(max_length=100)] = []
    budget: Budget = Budget()
    node: str | None = None
    model: str | None = None
    effort: str | None = None
    sandbox: Sandbox | None = None
    approval_policy: ApprovalPolicy = ApprovalPolicy.NEVER
    output_schema: dict[str, Any] | None = None
    metadata: dict[str, str] = {}


class CheckResult(Struct, rename="camel", kw_only=True, frozen=True):
    """How a check ended after a turn. `exit_code` is null where it was ended at its time limit or could not start.

    `output` is what it wrote on both streams, its middle left out where it is long (`truncated`).
    """

    command: str
    turn: int
    passed: bool
    exit_code: int | None
    timed_out: bool
    output: str
    truncated: bool
    duration_ms: int


class AttemptTurn(Struct, rename="camel", kw_only=True, frozen=True):
    """A turn of an attempt: its number, and how codexd told its end (null while it runs)."""

    number: int
    turn_id: str
    why: str
    status: str | None = None
    reason: str | None = None
    tokens: int = 0
    final_message: str | None = None


class Evidence(Struct, rename="camel", kw_only=True, frozen=True):
    """What an attempt did, as its worker committed it step by step; also what the next worker goes on from.

    `commit` is the last one that we made on `branch`; `diff` is against `base_commit`, its middle left out where it is
    long; `notes` are facts for whoever reads it in the morning.
    """

    workspace: str | None = None
    repository: str | None = None
    branch: str | None = None
    base_commit: str | None = None
    commit: str | None = None
    diff: str | None = None
    diff_stat: str | None = None
    turns: list[AttemptTurn] = []
    checks: list[CheckResult] = []
    output: Any = None
    final_message: str | None = None
    resets_at: str | None = None
    notes: list[str] = []


class Attempt(Struct, rename="camel", kw_only=True, frozen=True):
    """One try at a task. `attempt_id` is `TASK:NUMBER`; `owner` the incarnation of the worker that runs it.

    `time_ms`: how long it took since a worker took it up; of one that runs, by now.
    """

    attempt_id: str
    task_id: str
    number: int
    state: AttemptState
    reason: str | None
    node_id: str
    owner: str | None
    session_id: str | None
    turn_id: str | None
    tokens: int
    time_ms: int = 0
    evidence: Evidence
    created_at: str
    started_at: str | None
    ended_at: str | None


class Task(Struct, rename="camel", kw_only=True, frozen=True):
    """A task. `reason` tells why it stands or ended so; `not_before`: it waits until then.

    `attempts` are told where one task is asked for, oldest first. `tokens`, `turns` and `time_ms` were spent by all.
    """

    task_id: str
    state: TaskState
    reason: str | None
    title: str
    request: SubmitTask
    attempt_count: int
    node_id: str | None
    cancel_asked: bool
    not_before: str | None
    tokens: int
    turns: int
    time_ms: int
    final_message: str | None
    output: Any
    branch: str | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    attempts: list[Attempt] | None = None


class QueueEvent(Struct, rename="camel", kw_only=True, frozen=True):
    """An event of the fleet. `seq` counts all of them; `source` is `engine`, or the node's codexd with its cursor.

    `payload` is the event's own; of codexd's events it is codexd's whole event.
    """

    seq: int
    at: str
    type: str
    node_id: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    session_id: str | None = None
    turn_id: str | None = None
    source: str = "engine"
    payload: dict[str, Any] = {}


class QueueEventType(StrEnum):
    """What the engine itself tells; beside these are codexd's own, without deltas."""

    TASK_QUEUED = "task.queued"
    TASK_STARTED = "task.started"
    TASK_PARKED = "task.parked"
    TASK_REQUEUED = "task.requeued"
    TASK_CANCEL_ASKED = "task.cancel_asked"
    TASK_SUCCEEDED = "task.succeeded"
    TASK_FAILED = "task.failed"
    TASK_CANCELED = "task.canceled"
    ATTEMPT_ASSIGNED = "attempt.assigned"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_RESUMED = "attempt.resumed"
    ATTEMPT_TURN = "attempt.turn"
    ATTEMPT_CHECK = "attempt.check"
    ATTEMPT_ENDED = "attempt.ended"
    NODE_REGISTERED = "node.registered"
    NODE_DRAINING = "node.draining"
    NODE_GONE = "node.gone"
    NODE_EVENTS_MISSED = "node.events_missed"
    SYSTEM_PAUSED = "system.paused"
    SYSTEM_RESUMED = "system.resumed"
