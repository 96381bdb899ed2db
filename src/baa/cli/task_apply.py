"""`baa task apply`: a task's branch brought into the branch that is checked out, and its worktree taken away."""

from __future__ import annotations

import asyncio
from pathlib import Path

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

LATER = frozenset({Trouble.DIRTY, Trouble.IN_USE, Trouble.CONFLICT, Trouble.DETACHED, Trouble.UNMERGED})


def apply(
    task_id: str, *, to: Path | None, pick: bool, anyway: bool, remove: bool, config: Path | None, json: bool
) -> int:
    """Bring it home; the exit code. Raises CannotStart, unless failures are told as JSON."""
    found = configuration.load(config)

    async def do() -> tuple[Applied, Path]:
        async with Conductor(found, scope="read") as conductor:
            task = await conductor.task(task_id)
        home = _home(task, to, found, anyway=anyway)
        try:
            how = How.PICK if pick else How.MERGE
            applied = await applying.apply(home, task_id, how, f"{task.title}\n\nTask: {task_id}\n")
            if remove:
                await applying.remove(home, found.worktrees_dir, task_id)
        except WorkspaceFailed as failed:
            code = EX_TEMPFAIL if failed.code in LATER else EX_DATAERR
            raise CannotStart(failed.message, exit_code=code) from failed
        return applied, home

    def show(came: tuple[Applied, Path]) -> None:
        applied, home = came
        if applied.already:
            print(plain(f"{applied.onto} in {home} had it before: {applied.commit[:12]}"))
        else:
            print(plain(f"{applied.onto} in {home} is at {applied.commit[:12]} now"))

    return guarded(
        lambda: asyncio.run(do()),
        show,
        json=json,
        told=lambda came: {
            "commit": came[0].commit,
            "onto": came[0].onto,
            "already": came[0].already,
            "repository": str(came[1]),
        },
    )


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
