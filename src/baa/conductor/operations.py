"""What the conductor can be asked, as data: its own routes, not those of codexd that it passes on.

Handlers stand in http*.py; tests hold this table to the routes, to the errors that the code can raise, and to what a
real conductor answers.
"""

from __future__ import annotations

from typing import Final

from baa.api import ids
from baa.api.answers import Healthy
from baa.api.conductor import Readiness, Role
from baa.api.errors import Code
from baa.api.queue import NodeAnswer, NodePage, QueueEventPage, SystemAnswer, TaskAnswer, TaskPage
from baa.api.sessions import NoFields
from baa.api.tasks import SubmitTask, TaskState
from baa.conductor import http_events
from baa.http.described import (
    AFTER,
    LIMIT,
    NONCE,
    READS_BODY,
    WAIT,
    Operation,
    Parameter,
    get,
    id_of,
    key,
    of_the_door,
    post,
    types_of,
    word,
)

ID: Final = "^tsk_[0-9a-hjkmnp-tv-z]{26}$"
TASK: Final = id_of("taskId", ids.TASK)
NODE: Final = Parameter(
    "path", "nodeId", {"type": "string", "examples": ["studio"]}, "The node's BAA_NODE_ID.", required=True
)
OF_STATES: Final = Parameter(
    "query",
    "state",
    {"type": "array", "items": {"enum": [state.value for state in TaskState]}, "minItems": 1},
    "Only tasks in these states, with commas between them.",
)
SINCE: Final = word(
    "since",
    "Only tasks that have not ended, or ended then or later; a time with its offset.",
    pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{3})?)?(Z|[+-][0-9]{2}:[0-9]{2})$",
    examples=["2026-11-26T18:00:00Z"],
)
PAGED: Final = (LIMIT, word("pageToken", "The `nextPageToken` of the page before.", pattern=ID))
OF_TASK: Final = word("taskId", "Only events of this task, codexd's among them.", pattern=ID)
KEY: Final = key("The same key and body again give the same task, for as long as there is that task.")

AWAY: Final = (Code.NOT_READY,)
"""What needs the database."""

LOOKS: Final = (*AWAY, Code.INVALID_REQUEST)

ABOUT: Final[dict[Code, str]] = {
    **of_the_door("the conductor"),
    Code.TASK_NOT_FOUND: "there is no such task",
    Code.NODE_NOT_FOUND: "no node of this id ever registered",
    Code.TASK_ENDED: "the task has ended: `details.state`",
    Code.TASK_NOT_ENDED: "the task has not ended yet: `details.state`",
    Code.CURSOR_AHEAD: "the cursor is ahead of the events: `details.head`",
    Code.CURSOR_EXPIRED: "what follows the cursor is gone: `details.oldest`",
    Code.IDEMPOTENCY_MISMATCH: "the key was used with another body: `details.taskId`",
    Code.NOT_READY: "the database, or codexd, cannot be used now: the message says which. What was asked for may have"
    " been done",
}


def operations() -> tuple[Operation, ...]:
    """Every operation of the conductor's own."""
    return (*_about_itself(), *_tasks(), *_fleet(), _events())


def _about_itself() -> tuple[Operation, ...]:
    return (
        get(
            "health",
            "/healthz",
            "Whether the conductor makes progress.",
            access="open",
            data=Healthy,
            parameters=(NONCE,),
            codes=LOOKS,
        ),
        get("ready", "/readyz", "Whether a task could run now.", access="open", data=Readiness, codes=AWAY),
        get("role", "/rolez", "Whether this conductor leads, and which node's does.", access="open", data=Role),
        get("openapi", "/openapi.json", "This document.", plain=(("application/json", "An OpenAPI 3.1 document."),)),
        get(
            "metrics",
            "/metrics",
            "Figures for Prometheus.",
            plain=(("text/plain", "Prometheus' text format, 0.0.4."),),
        ),
    )


def _tasks() -> tuple[Operation, ...]:
    tasks = "/v1/tasks"
    one = f"{tasks}/{{taskId}}"
    return (
        post(
            "submitTask",
            tasks,
            "Queue a task: durable when it is answered, and ended exactly once.",
            status=201,
            data=TaskAnswer,
            parameters=(KEY,),
            body=SubmitTask,
            codes=(*READS_BODY, *AWAY, Code.IDEMPOTENCY_MISMATCH),
        ),
        get(
            "listTasks",
            tasks,
            "Tasks without their attempts, newest first.",
            data=TaskPage,
            parameters=(OF_STATES, SINCE, *PAGED),
            codes=LOOKS,
        ),
        get(
            "readTask",
            one,
            "A task with its attempts: turns, checks, branch, diff, cost.",
            data=TaskAnswer,
            parameters=(TASK,),
            codes=(*LOOKS, Code.TASK_NOT_FOUND),
        ),
        post(
            "cancelTask",
            f"{one}/cancel",
            "End a task: at once if it waits; of one that runs, the turn or check is ended first.",
            data=TaskAnswer,
            parameters=(TASK,),
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *AWAY, Code.TASK_NOT_FOUND, Code.TASK_ENDED),
        ),
        post(
            "retryTask",
            f"{one}/retry",
            "Queue a task that failed or was canceled again.",
            data=TaskAnswer,
            parameters=(TASK,),
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *AWAY, Code.TASK_NOT_FOUND, Code.TASK_ENDED, Code.TASK_NOT_ENDED),
        ),
    )


def _fleet() -> tuple[Operation, ...]:
    return (
        get(
            "listNodes",
            "/v1/nodes",
            "The nodes that ever registered.",
            data=NodePage,
            codes=LOOKS,
        ),
        post(
            "drainNode",
            "/v1/nodes/{nodeId}/drain",
            "Give a node no further task, until its worker is started again; what runs there is finished.",
            data=NodeAnswer,
            parameters=(NODE,),
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *AWAY, Code.NODE_NOT_FOUND),
        ),
        get(
            "readSystem",
            "/v1/system",
            "Whether the queue is paused.",
            data=SystemAnswer,
            codes=LOOKS,
        ),
        *(
            post(
                name,
                f"/v1/system/{name}",
                about,
                status=200,
                data=SystemAnswer,
                body=NoFields,
                body_optional=True,
                codes=(*READS_BODY, *AWAY),
            )
            for name, about in (
                ("pause", "Give no task to any node; what runs, runs on."),
                ("resume", "Give tasks to nodes again."),
            )
        ),
    )


def _events() -> Operation:
    return get(
        "events",
        http_events.PATH,
        "A page of the fleet's events; as a WebSocket, the events as they come.",
        data=QueueEventPage,
        parameters=(AFTER, OF_TASK, types_of(sorted(http_events.TYPES)), LIMIT, WAIT),
        codes=(*LOOKS, Code.CURSOR_AHEAD, Code.CURSOR_EXPIRED),
    )
