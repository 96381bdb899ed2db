"""PURE: which waiting task goes to which node next, and which can never run. It looks at no clock and at no database.

Tasks are taken in one order: higher priority first, then older (an id begins with its birth). Each takes a slot if one
is free that it may have; one that may not is passed by, so that a task that waits for its own node holds up no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

from msgspec import Struct

from baa.api.tasks import TaskState
from baa.engine.waiting import Waiting, WaitingTask

DEPENDENCY_FAILED: Final = "dependency_failed"
"""The reason of a task that depends on one which failed or was cancelled."""

BROKEN: Final = frozenset({TaskState.FAILED, TaskState.CANCELED})


class Assign(Struct, frozen=True):
    """Give the task to the node."""

    task_id: str
    node_id: str


class Fail(Struct, frozen=True):
    """End the task: it can never run."""

    task_id: str
    reason: str


Decision: TypeAlias = Assign | Fail


def decide(waiting: Waiting) -> list[Decision]:
    """What the leader should do now, in this order. The same is decided in whatever order the lists come.

    A pause holds back what would start; what can never run is told all the same.
    """
    tasks = sorted(waiting.tasks, key=lambda task: (-task.priority, task.task_id))
    broken = [task for task in tasks if BROKEN & set(task.dependencies.values())]
    decisions: list[Decision] = [Fail(task.task_id, DEPENDENCY_FAILED) for task in broken]
    if not waiting.paused:
        ready = [task for task in tasks if all(_met(state) for state in task.dependencies.values())]
        decisions += _assigned(ready, {node.node_id: node.free for node in waiting.nodes})
    return decisions


def _met(state: TaskState) -> bool:
    return state is TaskState.SUCCEEDED


def _assigned(ready: list[WaitingTask], free: dict[str, int]) -> Iterator[Assign]:
    wanted = Counter(node_id for task in ready if (node_id := _home(task)) is not None)
    for task in ready:
        home = _home(task)
        if home is not None:
            wanted[home] -= 1
        node_id = _node(task, free, wanted)
        if node_id is not None:
            free[node_id] -= 1
            yield Assign(task.task_id, node_id)


def _home(task: WaitingTask) -> str | None:
    return task.node or task.last_node


def _node(task: WaitingTask, free: dict[str, int], wanted: Counter[str]) -> str | None:
    """The node for a task: its only one, the one that has its worktree, or the one with the most room.

    Room is what is left once the tasks that want that very node have theirs.
    """
    if task.node is not None:
        return task.node if free.get(task.node, 0) > 0 else None
    if task.last_node is not None and free.get(task.last_node, 0) > 0:
        return task.last_node
    open_ = [node_id for node_id, slots in free.items() if slots > 0]
    return min(open_, key=lambda node_id: (wanted[node_id] - free[node_id], -free[node_id], node_id), default=None)
