"""What the scheduler decides by: the tasks that wait and the nodes that could take them, seen in one transaction."""

from __future__ import annotations

from msgspec import Struct

from baa.api.tasks import TaskState


class WaitingTask(Struct, frozen=True, kw_only=True):
    """A queued task that nothing but a slot keeps waiting, or whose dependency can never be met.

    `dependencies`: the state of each task that it depends on. `node` is the only one that may run it; `last_node` had
    its last attempt, and has its worktree.
    """

    task_id: str
    priority: int
    dependencies: dict[str, TaskState]
    node: str | None
    last_node: str | None


class FreeNode(Struct, frozen=True, kw_only=True):
    """A node that takes work, with its free slots (1 or more)."""

    node_id: str
    free: int


class Waiting(Struct, frozen=True, kw_only=True):
    """The tasks, the nodes (neither gone nor draining), and whether the whole queue is paused."""

    tasks: list[WaitingTask]
    nodes: list[FreeNode]
    paused: bool
