"""Tasks out of a file: `baa task add --file tasks.toml`. Pure, but for reading it.

    [defaults]
    repository = "~/project"
    checks = ["pytest -q"]

    [[task]]
    name = "types"
    prompt = "Make mypy strict pass in src/core."
    checks = ["mypy --strict src/core", { command = "pytest -q", timeout = "20m" }]

    [[task]]
    prompt = "Then do the same in src/api."
    after = ["types"]

What is relative is so to the file. `after` names tasks that stand before it, or ids.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from baa.api.errors import CannotStart
from baa.api.sessions import Sandbox
from baa.api.tasks import Budget, Check, SubmitTask, Workspace
from baa.cli.when import milliseconds

EX_DATAERR: Final = 65
EX_NOINPUT: Final = 66


class FileCheck(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A check with a time limit of its own."""

    command: str
    timeout: str = "10m"


class FileBudget(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """As in the API, with the time as people write it."""

    tokens: int | None = None
    turns: int | None = None
    time: str | None = None


class FileTask(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A task as it stands in a file; the names are those of the options of `baa task add`."""

    prompt: str
    name: str | None = None
    title: str | None = None
    cwd: str | None = None
    repository: str | None = None
    ref: str | None = None
    inplace: bool = False
    checks: list[str | FileCheck] = []
    after: list[str] = []
    priority: int = 0
    max_turns: int | None = None
    max_attempts: int | None = None
    deadline: str | None = None
    stall: str | None = None
    budget: FileBudget = FileBudget()
    node: str | None = None
    model: str | None = None
    effort: str | None = None
    sandbox: Sandbox | None = None
    metadata: dict[str, str] = {}


class Named(Struct, frozen=True):
    """A task to submit: its name in the file, and which earlier ones (or ids) it waits for."""

    name: str | None
    after: list[str]
    request: SubmitTask


def read(path: Path) -> list[Named]:
    """The tasks of a file, in its order, all of them well-formed. Raises CannotStart (65, 66)."""
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CannotStart(f"{path} cannot be read: {error.strerror}.", exit_code=EX_NOINPUT) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from None
    return parsed(told, path)


def parsed(told: dict[str, Any], path: Path) -> list[Named]:
    """The tasks of a file that holds this."""
    unknown = sorted(told.keys() - {"defaults", "task"})
    if unknown:
        raise _wrong(path, f"there is no table {unknown[0]!r}; there are [defaults] and [[task]]")
    defaults, tasks = told.get("defaults", {}), told.get("task", [])
    if not isinstance(defaults, dict) or not isinstance(tasks, list) or not tasks:
        raise _wrong(path, "it holds no [[task]]")
    found: list[Named] = []
    for number, each in enumerate(tasks, 1):
        try:
            task = msgspec.convert({**defaults, **each}, FileTask)
            named = Named(task.name, task.after, _request(task, path.absolute().parent))
        except (msgspec.ValidationError, TypeError) as error:
            raise _wrong(path, f"task {number}: {error}") from None
        except CannotStart as error:
            raise _wrong(path, f"task {number}: {error.message}") from None
        before = {earlier.name for earlier in found}
        if task.name is not None and task.name in before:
            raise _wrong(path, f"task {number}: there is a task {task.name!r} before it")
        for name in task.after:
            if name not in before and not name.startswith("tsk_"):
                raise _wrong(path, f"task {number}: it is after {name!r}, and no task before it has that name")
        found.append(named)
    return found


def _request(task: FileTask, folder: Path) -> SubmitTask:
    given: dict[str, Any] = {
        "prompt": task.prompt,
        "title": task.title or task.name,
        "cwd": None if task.cwd is None else place(task.cwd, folder),
        "repository": None if task.repository is None else place(task.repository, folder),
        "ref": task.ref,
        "workspace": Workspace.INPLACE if task.inplace else None,
        "checks": [_check(each) for each in task.checks],
        "priority": task.priority,
        "budget": Budget(
            tokens=task.budget.tokens,
            turns=task.budget.turns,
            time_ms=None if task.budget.time is None else milliseconds(task.budget.time),
        ),
        "node": task.node,
        "model": task.model,
        "effort": task.effort,
        "sandbox": task.sandbox,
        "metadata": task.metadata,
        "max_turns": task.max_turns,
        "max_attempts": task.max_attempts,
        "deadline_ms": None if task.deadline is None else milliseconds(task.deadline),
        "stall_ms": None if task.stall is None else milliseconds(task.stall),
    }
    if task.cwd is None and task.repository is None:
        given["cwd"] = str(folder)
    return SubmitTask(**{name: value for name, value in given.items() if value is not None})


def _check(given: str | FileCheck) -> Check:
    if isinstance(given, str):
        return Check(command=given)
    return Check(command=given.command, timeout_ms=milliseconds(given.timeout))


def place(given: str, folder: Path) -> str:
    """A path as the node has it: `~` is this user's, what is relative begins in `folder`."""
    return str((folder / Path(given).expanduser()).resolve())


def _wrong(path: Path, what: str) -> CannotStart:
    return CannotStart(f"{path}: {what}.", exit_code=EX_DATAERR)
