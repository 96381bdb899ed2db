"""The conductor as a Python object: tasks in, what became of them out. codexd: `Codexd(through="conductor")`.

async with Conductor() as conductor:
    task = await conductor.submit(SubmitTask(prompt="Make it quicker.", cwd="/home/me/project"))
    async with conductor.events("0", task_id=task.task_id) as events:
        async for event in events: ...
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from baa import config as configuration
from baa.api.answers import Healthy
from baa.api.conductor import Node, Readiness, Role
from baa.api.errors import Unavailable
from baa.api.queue import NodeAnswer, NodePage, QueueEventPage, SystemAnswer, TaskAnswer, TaskPage
from baa.api.tasks import QueueEvent, SubmitTask, Task, TaskState
from baa.client.discovery import locate
from baa.client.events import CONDUCTOR, EventStream
from baa.client.pauses import pauses
from baa.client.peer import PATIENCE_S, Peer
from baa.config import Config
from baa.http.tokens import Name

TASKS: Final = "/v1/tasks"
EVENTS: Final = "/v1/events"
PAGE: Final = 100


class Conductor(Peer):
    """This node's conductor. An async context manager; every method raises BaaError, Unreachable or CannotStart."""

    def __init__(self, config: Config | None = None, *, scope: Name = "drive", patience_s: float = PATIENCE_S) -> None:
        """Without `config`: the configuration that `baa` itself has here."""
        found = configuration.load() if config is None else config
        super().__init__(lambda: locate(found, scope=scope, name="conductor"), patience_s=patience_s)

    async def health(self) -> str:
        """`ok` while the conductor makes progress."""
        return str((await self._get("/healthz", Healthy)).status)

    async def ready(self) -> Readiness:
        """Whether a task could run now. Raises Unavailable (`not_ready`), whose message says what is missing."""
        return await self._get("/readyz", Readiness)

    async def role(self) -> Role:
        """Whether it leads, and who does."""
        return await self._get("/rolez", Role)

    # --- tasks

    async def submit(self, asked: SubmitTask, *, idempotency_key: str | None = None) -> Task:
        """A task that is durable. It is asked for again when the answer is lost or the engine is away, and made once.

        Without a key it gets one of its own. A script that may itself be run again gives the same key again.
        """
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        until = asyncio.get_running_loop().time() + self._patience_s
        for pause in pauses():
            try:
                return await self._posted(TASKS, body=asked, headers={"Idempotency-Key": key})
            except Unavailable as away:
                wait = max(pause, (away.retry_after_ms or 0) / 1000)
                if asyncio.get_running_loop().time() + wait > until:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("pauses do not end")

    async def task(self, task_id: str) -> Task:
        """A task with its attempts."""
        return (await self._get(f"{TASKS}/{task_id}", TaskAnswer)).task

    async def task_page(
        self,
        *,
        states: Iterable[TaskState] | None = None,
        since: str | None = None,
        limit: int = PAGE,
        page_token: str | None = None,
    ) -> TaskPage:
        """A page of tasks without their attempts, newest first; none that ended before `since` (RFC 3339)."""
        state = None if states is None else ",".join(states)
        query = {"state": state, "since": since, "limit": limit, "pageToken": page_token}
        return await self._get(TASKS, TaskPage, query=query)

    async def tasks(
        self, *, states: Iterable[TaskState] | None = None, since: str | None = None
    ) -> AsyncIterator[Task]:
        """All tasks, or those in these states and none that ended before `since`, newest first, without their attempts.

        Read as far as they are taken.
        """
        wanted = None if states is None else list(states)
        token: str | None = None
        while True:
            page = await self.task_page(states=wanted, since=since, page_token=token)
            for task in page.tasks:
                yield task
            token = page.next_page_token
            if token is None:
                return

    async def cancel(self, task_id: str) -> Task:
        """End a task: at once if it waits, else its running turn is ended first. Asked again when the answer is lost.

        Raises Rejected: `task_ended`, also when an earlier asking ended it.
        """
        return await self._posted(f"{TASKS}/{task_id}/cancel")

    async def retry(self, task_id: str) -> Task:
        """Queue a task that failed or was cancelled again. Not asked again when the answer is lost: it may have run."""
        return (await self._ask("POST", f"{TASKS}/{task_id}/retry", TaskAnswer)).task

    async def _posted(self, path: str, **more: Any) -> Task:
        return (await self._ask("POST", path, TaskAnswer, repeatable=True, **more)).task

    # --- the fleet

    async def nodes(self) -> list[Node]:
        """The nodes that were heard of."""
        return (await self._get("/v1/nodes", NodePage)).nodes

    async def drain(self, node_id: str) -> Node:
        """Give the node no further task, until its worker is started again; what runs there is finished."""
        return (await self._ask("POST", f"/v1/nodes/{node_id}/drain", NodeAnswer, repeatable=True)).node

    async def paused(self) -> bool:
        """Whether the queue is paused."""
        return (await self._get("/v1/system", SystemAnswer)).system.paused

    async def pause(self) -> None:
        """Give no task to any node; what runs, runs on."""
        await self._ask("POST", "/v1/system/pause", SystemAnswer, repeatable=True)

    async def resume(self) -> None:
        """End a pause."""
        await self._ask("POST", "/v1/system/resume", SystemAnswer, repeatable=True)

    # --- events

    async def event_page(
        self,
        after: str = "0",
        *,
        task_id: str | None = None,
        types: Iterable[str] | None = None,
        limit: int = PAGE,
        wait_ms: int = 0,
    ) -> QueueEventPage:
        """The events that follow a cursor, and the cursor to go on with; with `wait_ms` it waits for the first one."""
        query = _wanted(task_id, types) | {"after": after, "limit": limit, "waitMs": wait_ms or None}
        return await self._get(EVENTS, QueueEventPage, query=query, wait_s=wait_ms / 1000)

    def events(
        self, after: str | None = "0", *, task_id: str | None = None, types: Iterable[str] | None = None
    ) -> EventStream[QueueEvent]:
        """The events that follow a cursor, and those to come: `0` = from the oldest, None = from now."""
        query = {name: value for name, value in _wanted(task_id, types).items() if value is not None}
        return EventStream(
            self._locate, EVENTS, query, after=after, patience_s=self._patience_s, met=self._met, decode=CONDUCTOR
        )


def _wanted(task_id: str | None, types: Iterable[str] | None) -> dict[str, str | None]:
    return {"taskId": task_id, "types": None if types is None else ",".join(types)}
