"""`baa task watch`: a task's events as they come, until its end, across restarts of the conductor."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from baa import config as configuration
from baa.api.errors import CannotStart
from baa.api.events import EventType
from baa.api.tasks import TASK_ENDED, QueueEvent, Task, TaskState
from baa.api.tasks import QueueEventType as Told
from baa.cli.items import show_item, show_output
from baa.cli.plain import json_line, plain
from baa.cli.remote import FAILURES, exit_code, failure
from baa.cli.task_show import STYLES, cost, why_failed
from baa.client.conductor import Conductor
from baa.client.events import EventStream, Gap

EXITS: Final = {TaskState.SUCCEEDED: 0, TaskState.FAILED: 1, TaskState.CANCELED: 130}
"""The exit code for each end of a task."""

ENDS: Final = frozenset({Told.TASK_SUCCEEDED, Told.TASK_FAILED, Told.TASK_CANCELED})


def watch(task_id: str, *, config: Path | None, json: bool) -> int:
    """Show what happens to a task until it ends; the exit code tells how."""
    try:
        return asyncio.run(_watch(task_id, config, json=json))
    except FAILURES as error:
        if not json:
            raise CannotStart(error.message, exit_code=exit_code(error)) from error
        print(json_line({"ok": False, "error": failure(error)}))
        return exit_code(error)


async def _watch(task_id: str, config: Path | None, *, json: bool) -> int:
    console = Console(highlight=False, soft_wrap=True)
    async with Conductor(configuration.load(config), scope="read") as conductor:
        await conductor.task(task_id)  # so that one that does not exist is told
        async with conductor.events("0", task_id=task_id) as events:
            while True:
                event = await _next(events)
                if json:
                    print(json_line(event), flush=True)
                else:
                    show_event(console, event)
                if event.type in ENDS:
                    task = await conductor.task(task_id)
                    if task.state in TASK_ENDED:  # else it was given another try since
                        break
    if json:
        print(json_line({"ok": task.state is TaskState.SUCCEEDED, "task": task}), flush=True)
    else:
        show_end(console, task)
    return EXITS[task.state]


async def _next(events: EventStream[QueueEvent]) -> QueueEvent:
    while True:
        try:
            return await anext(events)
        except Gap:
            continue


def show_end(console: Console, task: Task) -> None:
    """How it ended, and what to do with it."""
    why = f": {why_failed(task)}" if task.state is TaskState.FAILED else ""
    console.print(Text(plain(f"{task.state.value}{why}"), style=STYLES[task.state]))
    if task.turns:
        console.print(Text(plain(cost(task.tokens, task.turns, task.time_ms)), style="dim"))
    if task.final_message:
        console.print(Text(plain(task.final_message)))
    if task.state is TaskState.SUCCEEDED and task.branch:
        console.print(Text(plain(f"bring it home: baa task apply {task.task_id}"), style="green"))


def show_event(console: Console, event: QueueEvent) -> None:
    """What a person wants to know of it, which may be nothing."""
    told, at = event.payload, event.at[11:19]
    match event.type:
        case Told.TASK_PARKED | Told.TASK_REQUEUED:
            until = f" until {told['notBefore']}" if told.get("notBefore") else ""
            _line(console, at, f"waits again{until}: {told.get('reason')}", "cyan")
        case Told.TASK_QUEUED:
            _line(console, at, "queued", "cyan")
        case Told.TASK_CANCEL_ASKED:
            _line(console, at, "is asked to end", "yellow")
        case Told.ATTEMPT_STARTED | Told.ATTEMPT_RESUMED:
            word = "begins" if event.type == Told.ATTEMPT_STARTED else "goes on"
            _line(console, at, f"attempt {event.attempt} {word} on {event.node_id}", "bold")
        case Told.ATTEMPT_TURN if told.get("status"):
            reason = f", {told['reason']}" if told.get("reason") else ""
            _line(console, at, f"turn {told.get('number')} ended: {told['status']}{reason}", "bold")
        case Told.ATTEMPT_TURN:
            _line(console, at, f"turn {told.get('number')}: {told.get('why')}  {event.turn_id or ''}", "bold")
        case Told.ATTEMPT_CHECK:
            _check(console, at, told)
        case Told.ATTEMPT_ENDED:
            reason = f", {told['reason']}" if told.get("reason") else ""
            _line(console, at, f"attempt {event.attempt} ended: {told.get('state')}{reason}", "bold")
        case EventType.ITEM_COMPLETED:
            item = told["payload"]
            show_item(console, item["kind"], item["item"], ended=True)
        case EventType.ITEM_ABANDONED if told["payload"].get("text"):
            console.print(Text(plain(told["payload"]["text"]), style="dim"))
        case EventType.INTERACTION_REQUESTED:
            asked = told["payload"]
            _line(console, at, f"asks ({asked['kind']}): baa answer {asked['interactionId']}", "yellow")
        case EventType.TURN_FAILED | EventType.TURN_INTERRUPTED | EventType.TURN_EXPIRED | EventType.TURN_LOST:
            reason = told["payload"].get("reason") or (told["payload"].get("error") or {}).get("message") or ""
            _line(console, at, f"{event.type.replace('.', ' ')} {reason}".rstrip(), "red")


def _check(console: Console, at: str, told: dict[str, Any]) -> None:
    passed = bool(told.get("passed"))
    _line(
        console, at, f"check {told.get('command')!r} {'passed' if passed else 'failed'}", "green" if passed else "red"
    )
    if not passed and told.get("output"):
        show_output(console, told["output"], last=True)


def _line(console: Console, at: str, text: str, style: str) -> None:
    console.print(Text(plain(f"{at}  {text}"), style=style))
