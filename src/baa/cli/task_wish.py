"""What `baa task add` can be told beside the prompt: where to work, when, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from baa.api.sessions import Sandbox
from baa.api.tasks import Budget, Check, SubmitTask, Workspace
from baa.cli.task_file import place
from baa.cli.when import milliseconds

Text: TypeAlias = Annotated[str | None, Parameter(show_default=False)]
Number: TypeAlias = Annotated[int | None, Parameter(show_default=False)]
Several: TypeAlias = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the agent works.

    Parameters
    ----------
    inplace:
        Work in the folder itself, not in a worktree.
    cwd:
        The folder to work in; without it, and without --repository, the one you are in.
    repository:
        A git repository, to work in a worktree of --ref.
    ref:
        The branch, tag or commit to begin from; without it HEAD.
    node:
        The only node that may run it.
    """

    inplace: Annotated[bool, Parameter(negative=())] = False
    cwd: Text = None
    repository: Text = None
    ref: Text = None
    node: Text = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wish:
    """When a task is done, when it runs, and what it may take.

    Parameters
    ----------
    check:
        A command that must pass, run by sh in the workspace; once for each.
    check_timeout:
        How long a check may take, such as 20m; without it 10m.
    after:
        A task that must have succeeded before; once for each.
    priority:
        -1000 to 1000: the higher goes first, then the older.
    title:
        What lists call it; without it the first line of the prompt.
    model:
        The model; without it Codex's own choice.
    sandbox:
        What commands of the agent may touch; no more than the ceiling of the node.
    max_turns:
        How many turns an attempt may take, the first included; without it 3.
    max_attempts:
        How many attempts are made where a node dies or a turn is lost; without it 3.
    max_tokens:
        The most tokens that all attempts together may take.
    deadline:
        How long an attempt may take, such as 2h.
    """

    check: Several = ()
    check_timeout: Text = None
    after: Several = ()
    priority: int = 0
    title: Text = None
    model: Text = None
    sandbox: Literal["read-only", "workspace-write", "danger-full-access"] | None = None
    max_turns: Number = None
    max_attempts: Number = None
    max_tokens: Number = None
    deadline: Text = None


def request(prompt: str, wish: Wish, where: Place, here: Path) -> SubmitTask:
    """The request for it; relative paths are below `here`. Raises CannotStart for a time that is none."""
    timeout_ms = milliseconds(wish.check_timeout or "10m")
    elsewhere = where.repository is not None and where.cwd is None
    given: dict[str, object] = {
        "prompt": prompt,
        "title": wish.title,
        "cwd": None if elsewhere else place(where.cwd or ".", here),
        "repository": None if where.repository is None else place(where.repository, here),
        "ref": where.ref,
        "workspace": Workspace.INPLACE if where.inplace else None,
        "checks": [Check(command=each, timeout_ms=timeout_ms) for each in wish.check],
        "depends_on": list(wish.after),
        "priority": wish.priority,
        "budget": None if wish.max_tokens is None else Budget(tokens=wish.max_tokens),
        "node": where.node,
        "model": wish.model,
        "sandbox": None if wish.sandbox is None else Sandbox(wish.sandbox),
        "max_turns": wish.max_turns,
        "max_attempts": wish.max_attempts,
        "deadline_ms": None if wish.deadline is None else milliseconds(wish.deadline),
    }
    return SubmitTask(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
