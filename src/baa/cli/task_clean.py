"""`baa task clean`: what ended tasks left in a repository is taken away, and nobody's work with it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from baa import config as configuration
from baa.api import ids
from baa.api.errors import CannotStart, Code, Rejected
from baa.api.tasks import TASK_ENDED, TaskState
from baa.cli.plain import plain
from baa.cli.remote import EX_DATAERR, guarded
from baa.client.conductor import Conductor
from baa.config import Config
from baa.worker import applying
from baa.worker.git import WorkspaceFailed

YOUNG_MS: Final = 86_400_000
"""A task that this conductor does not know may be another one's, and run; after a day it is taken for forgotten."""


class Left(Struct, rename="camel", frozen=True):
    """What became of what a task had left; `why` it stays, null where it was taken away."""

    task_id: str
    why: str | None


def clean(repository: Path, *, dry_run: bool, config: Path | None, json: bool) -> int:
    """Take away what may go; the exit code. Raises CannotStart, unless failures are told as JSON."""
    found = configuration.load(config)
    home = repository.expanduser().absolute()

    def show(all_: list[Left]) -> None:
        for each in all_:
            done = "would be taken away" if dry_run else "taken away"
            print(plain(f"{each.task_id}  {done if each.why is None else f'stays: {each.why}'}"))
        if not all_:
            print(plain(f"No task left anything in {home}."))

    return guarded(
        lambda: asyncio.run(_clean(home, found, dry_run=dry_run)), show, json=json, told=lambda all_: {"tasks": all_}
    )


async def _clean(home: Path, config: Config, *, dry_run: bool) -> list[Left]:
    try:
        named = await applying.tasks_of(home)
    except WorkspaceFailed as failed:
        raise CannotStart(failed.message, exit_code=EX_DATAERR) from failed
    found = []
    async with Conductor(config, scope="read") as conductor:
        for task_id in named:
            why = await _not_over(conductor, task_id)
            if why is None:
                try:
                    await applying.remove(home, config.worktrees_dir, task_id, look=dry_run)
                except WorkspaceFailed as failed:
                    why = failed.message
            found.append(Left(task_id, why))
    return found


async def _not_over(conductor: Conductor, task_id: str) -> str | None:
    """Why nothing of the task may be touched; None: it has ended, or was forgotten since."""
    try:
        task = await conductor.task(task_id)
    except Rejected as refused:
        if refused.code is not Code.TASK_NOT_FOUND:
            raise
        young = task_id >= ids.new_id(ids.TASK, round(time.time() * 1000) - YOUNG_MS)
        return "This node's conductor does not know it, and it is less than a day old." if young else None
    if task.state not in TASK_ENDED:
        return f"It is {task.state.value}."
    if task.branch is None and task.state is not TaskState.SUCCEEDED:  # what it changed there counts from its ref
        return "It worked in the folder itself, and may be tried again: `baa task retry`."
    return None
