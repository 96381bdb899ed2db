"""What the answers of the conductor about tasks, nodes and events hold as `data`, each keyed by its noun."""

from __future__ import annotations

from msgspec import Struct, field

from baa.api.conductor import Node
from baa.api.events import Heartbeat, Hello
from baa.api.tasks import QueueEvent, Task


class TaskAnswer(Struct, frozen=True):
    """A task. Where one is asked for, with its attempts."""

    task: Task


class TaskPage(Struct, rename="camel", frozen=True):
    """Tasks without their attempts, newest first. Without a `next_page_token` this is the last page."""

    tasks: list[Task]
    next_page_token: str | None


class NodeAnswer(Struct, frozen=True):
    """A node."""

    node: Node


class NodePage(Struct, rename="camel", frozen=True):
    """All nodes that ever registered, by id."""

    nodes: list[Node]
    next_page_token: str | None


class System(Struct, frozen=True):
    """The queue as a whole. `paused`: no task is given to a node; what runs, runs on."""

    paused: bool


class SystemAnswer(Struct, frozen=True):
    """How the queue stands."""

    system: System


class QueueEventPage(Struct, frozen=True):
    """Events of the fleet, oldest first. `next` is where to go on, also past what was filtered out."""

    events: list[QueueEvent]
    next: str


class QueueEvents(Struct, tag="events", tag_field="type", rename="camel", frozen=True):
    """One or more events. A reader is whole as long as each `from` equals its last `next`."""

    from_: str = field(name="from")
    next: str
    events: list[QueueEvent]


QueueFrame = Hello | QueueEvents | Heartbeat
