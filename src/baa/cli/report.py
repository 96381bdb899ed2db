"""`baa report`: what a person wants to read in the morning."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from baa.api.tasks import Task
from baa.cli.items import short
from baa.cli.plain import plain
from baa.cli.remote import ask_conductor
from baa.cli.report_facts import ASKING, Done, Report, summed
from baa.cli.task_show import cost, minute
from baa.cli.when import since as since_of
from baa.client.conductor import Conductor
from baa.clock import rfc3339

MESSAGE_SHOWN = 200


def report(since: str, *, config: Path | None, json: bool) -> int:
    """Gather and show it; the exit code."""
    begun = since_of(since, datetime.now().astimezone())
    from_ = rfc3339(round(begun.timestamp() * 1000))

    async def do(conductor: Conductor) -> Report:
        # Attempts tell why something failed; a task that ended before is of no concern.
        tasks: list[Task] = [await conductor.task(task.task_id) async for task in conductor.tasks(since=from_)]
        events, cursor = [], "0"
        while True:
            page = await conductor.event_page(cursor, types=ASKING, limit=1000)
            events += page.events
            if page.next == cursor:
                break
            cursor = page.next
        return summed(tasks, events, since=from_, paused=await conductor.paused())

    return ask_conductor(do, show, config=config, json=json, told=lambda found: {"report": found})


def show(found: Report) -> None:
    """The page, for people."""
    console = Console(highlight=False, soft_wrap=True)
    since = datetime.fromisoformat(found.since).astimezone()
    console.print(Text(f"since {since:%a %Y-%m-%d %H:%M}", style="dim"))
    if found.paused:
        console.print(Text("The queue is paused: `baa task resume` goes on.", style="yellow"))
    _done(console, "done", found.succeeded, "green", "bring it home: baa task apply")
    _done(console, "failed", found.failed, "bold red", "look: baa task show")
    _done(console, "canceled", found.canceled, "dim", None)
    if found.asked:
        console.print(Text(f"\nasked ({len(found.asked)})", style="yellow"))
        for each in found.asked:
            where = f" on {each.node_id}" if each.node_id else ""
            how = (
                f"open until {minute(each.deadline_at or '')}: baa answer {each.interaction_id}"
                if each.open
                else "nobody answered in time: declined"
            )
            about = f" ({each.task_id})" if each.task_id else ""
            console.print(Text(plain(f"  {minute(each.at)}  {each.kind}{where}{about}: {how}")))
    _open(console, "running", found.running)
    _open(console, "waiting", found.queued)
    spent = found.spent
    console.print(Text(f"\nspent  {cost(spent.tokens, spent.turns, spent.time_ms)}", style="bold"))


def _done(console: Console, name: str, tasks: list[Done], style: str, then: str | None) -> None:
    if not tasks:
        return
    console.print(Text(f"\n{name} ({len(tasks)})", style=style))
    for task in tasks:
        console.print(Text(plain(f"  {task.task_id}  {short(task.title, 80)}"), style="bold"))
        if task.why:
            console.print(Text(plain(f"    {task.why}")))
        if task.changed:
            console.print(Text(plain(f"    {task.changed}" + (f"  on {task.branch}" if task.branch else ""))))
        if task.final_message:
            console.print(Text(plain(f"    {short(task.final_message, MESSAGE_SHOWN)}"), style="italic"))
        if task.turns:
            console.print(Text(f"    {cost(task.tokens, task.turns, task.time_ms)}", style="dim"))
        if then is not None and (task.branch or name == "failed"):
            console.print(Text(plain(f"    {then} {task.task_id}"), style="dim"))


def _open(console: Console, name: str, tasks: list[Done]) -> None:
    if not tasks:
        return
    console.print(Text(f"\n{name} ({len(tasks)})", style="cyan"))
    for task in tasks:
        where = f" on {task.node_id}" if task.node_id and name == "running" else ""
        why = f"  [{task.why}]" if task.why else ""
        console.print(Text(plain(f"  {task.task_id}  {short(task.title, 80)}{where}{why}")))
