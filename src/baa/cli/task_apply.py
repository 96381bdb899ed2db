"""`baa task apply`: a task's branch brought into the branch that is checked out, and its worktree taken away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from baa import config as configuration
from baa.api.errors import EX_TEMPFAIL, CannotStart
from baa.api.tasks import Task, TaskState
from baa.cli.plain import plain
from baa.cli.remote import EX_DATAERR, EX_NOINPUT, guarded
from baa.client.conductor import Conductor
from baa.config import Config
from baa.worker import applying
from baa.worker.applying import Applied, How
from baa.worker.git import Trouble, WorkspaceFailed
from baa.worker.repository import branch_of


class Brought(NamedTuple):
    """What came of it: in which work tree, and why the task's own stays (None: it does not, or was not to go)."""

    applied: Applied
    home: Path
    stays: str | None


LATER = frozenset({Trouble.DIRTY, Trouble.IN_USE, Trouble.CONFLICT, Trouble.DETACHED, Trouble.UNMERGED})


def apply(
    task_id: str, *, to: Path | None, pick: bool, anyway: bool, keep: bool, config: Path | None, json: bool
) -> int:
    """Bring it home; the exit code. Raises CannotStart, unless failures are told as JSON."""
    found = configuration.load(config)

    async def do() -> Brought:
        async with Conductor(found, scope="read") as conductor:
            task = await conductor.task(task_id)
        home = _home(task, to, found, anyway=anyway)
        try:
            how = How.PICK if pick else How.MERGE
            applied = await applying.apply(home, task_id, how, f"{task.title}\n\nTask: {task_id}\n")
        except WorkspaceFailed as failed:
            code = EX_TEMPFAIL if failed.code in LATER else EX_DATAERR
            raise CannotStart(failed.message, exit_code=code) from failed
        return Brought(applied, home, None if keep else await _stays(home, task, to, found))

    def show(came: Brought) -> None:
        applied, home = came.applied, came.home
        if applied.already:
            print(plain(f"{applied.onto} in {home} had it before: {applied.commit[:12]}"))
        else:
            print(plain(f"{applied.onto} in {home} is at {applied.commit[:12]} now"))
        if came.stays is not None:
            print(plain(f"its worktree stays: {came.stays}"))

    return guarded(
        lambda: asyncio.run(do()),
        show,
        json=json,
        told=lambda came: {
            "commit": came.applied.commit,
            "onto": came.applied.onto,
            "already": came.applied.already,
            "repository": str(came.home),
            "worktreeStays": came.stays,
        },
    )


async def _stays(home: Path, task: Task, to: Path | None, config: Config) -> str | None:
    """Take away the worktree and the branch of a task that is done and home; if that cannot be, the reason."""
    if task.state is not TaskState.SUCCEEDED or to is not None:  # it may be tried again; or home is another clone
        return None
    try:
        await applying.remove(home, config.worktrees_dir, task.task_id, remember=True)
    except WorkspaceFailed as failed:
        return failed.message
    return None


def _home(task: Task, to: Path | None, config: Config, *, anyway: bool) -> Path:
    """The work tree to bring it into. Raises CannotStart."""
    if task.state is not TaskState.SUCCEEDED and not anyway:
        raise CannotStart(
            f"The task is {task.state.value}, so its checks did not pass. With --anyway its branch is brought home as"
            " it is.",
            exit_code=EX_TEMPFAIL,
        )
    evidence = next((each.evidence for each in reversed(task.attempts or []) if each.evidence.branch), None)
    if evidence is None or evidence.repository is None:
        raise CannotStart(
            "The task has no branch: it worked in the folder itself, or had nothing to commit.", exit_code=EX_NOINPUT
        )
    if to is not None:
        return to.expanduser().absolute()
    if task.node_id != config.node_id:
        branch = branch_of(task.task_id)
        raise CannotStart(
            f"The branch is on the node {task.node_id}, in {evidence.repository}. Fetch it into a clone here,"
            f" `git fetch {task.node_id}:{evidence.repository} {branch}:{branch}`, and merge it there.",
            exit_code=EX_NOINPUT,
        )
    return Path(evidence.repository)
