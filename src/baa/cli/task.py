"""`baa task`: work that finishes by itself: queued, checked, watched, brought home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from cyclopts import App, Parameter

from baa.api.errors import CannotStart
from baa.api.tasks import Task, TaskState
from baa.cli import task_show
from baa.cli.items import print_diff
from baa.cli.options import File, Json
from baa.cli.plain import plain
from baa.cli.remote import EX_NOINPUT, ask_conductor
from baa.cli.task_file import Named, read
from baa.cli.task_wish import Place, Text, Wish, request
from baa.cli.when import EX_USAGE
from baa.client.conductor import Conductor

app = App(name="task", help_format="markdown")

TaskId: TypeAlias = Annotated[str, Parameter(help="The id of a task, tsk_…")]
State = Literal["queued", "running", "succeeded", "failed", "canceled"]

EXAMPLE: Final = "tsk_01hzy3v9q8f2k4m6n7p0r5t1wx"


@app.command
def add(
    prompt: Text = None,
    /,
    *,
    wish: Wish | None = None,
    where: Place | None = None,
    file: Annotated[Path | None, Parameter(show_default=False)] = None,
    key: Text = None,
    wait: Annotated[bool, Parameter(negative=())] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Queue a task: it is done when its checks pass, and a failed check goes back to the agent as its next turn.

    In a git repository the agent works in a worktree of its own, on the branch `baa/TASK`; `baa task apply` brings it
    home. Without a check a task is done when the agent says so.

    Example: `baa task add "Make the parser accept tabs." --check "pytest -q tests/parser"`

    Parameters
    ----------
    prompt:
        What to do.
    file:
        Queue the tasks of a TOML file instead; docs/tasks.md tells its form.
    key:
        An idempotency key: the same command with the same key again queues nothing new.
    wait:
        Watch it until its end, as `baa task watch` does.
    """
    if prompt is not None and file is None:
        asked = request(prompt, wish or Wish(), where or Place(), Path.cwd())
        return _submit([Named(None, [], asked)], key, wait=wait, config=config, json=json)
    if file is None or prompt is not None:
        raise CannotStart('Say what to do: baa task add "…", or --file tasks.toml.', exit_code=EX_USAGE)
    return _add_file(read(file), key, wait=wait, config=config, json=json)


def _add_file(tasks: list[Named], key: str | None, *, wait: bool, config: Path | None, json: bool) -> int:
    if wait:
        raise CannotStart("--wait is for one task; watch those of a file one by one.", exit_code=EX_USAGE)
    return _submit(tasks, key, wait=False, config=config, json=json)


def _submit(tasks: list[Named], key: str | None, *, wait: bool, config: Path | None, json: bool) -> int:
    made: list[Task] = []

    async def do(conductor: Conductor) -> list[Task]:
        from msgspec.structs import replace

        ids: dict[str, str] = {}
        for number, each in enumerate(tasks, 1):
            depends_on = [*each.request.depends_on, *(ids.get(name, name) for name in each.after)]
            own = key if key is None or len(tasks) == 1 else f"{key}-{number}"
            task = await conductor.submit(replace(each.request, depends_on=depends_on), idempotency_key=own)
            made.append(task)
            if each.name is not None:
                ids[each.name] = task.task_id
        return made

    def show(tasks: list[Task]) -> None:
        for task in tasks:
            print(plain(f"{task.task_id}  {task.title}" if len(tasks) > 1 else task.task_id), flush=True)

    if json and wait:
        code = ask_conductor(do, lambda _: None, config=config, json=False, told=lambda _: {})
    else:
        code = ask_conductor(
            do,
            show,
            config=config,
            json=json,
            told=lambda tasks: {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks},
        )
    if code == 0 and wait:
        return watch(made[0].task_id, config=config, json=json)
    return code


@app.command(name="list")
def list_tasks(
    *,
    state: Annotated[tuple[State, ...], Parameter(negative=(), show_default=False, help="Only these; once each.")] = (),
    limit: Annotated[int, Parameter(help="How many at most.")] = 50,
    config: File = None,
    json: Json = False,
) -> int:
    """List tasks, newest first.

    Example: `baa task list --state running --state queued`
    """

    async def do(conductor: Conductor) -> list[Task]:
        found: list[Task] = []
        async for task in conductor.tasks(states=[TaskState(each) for each in state] or None):
            if len(found) == limit:
                break
            found.append(task)
        return found

    return ask_conductor(do, task_show.show_rows, config=config, json=json, told=lambda tasks: {"tasks": tasks})


@app.command
def show(
    task_id: TaskId,
    /,
    *,
    diff: Annotated[bool, Parameter(negative=(), help="Print only what it changed, as a diff.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Show a task: its attempts, their turns and checks, what was changed and what it cost.

    Example: `baa task show tsk_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """

    async def do(conductor: Conductor) -> Task:
        task = await conductor.task(task_id)
        if diff and not _diff(task):
            raise CannotStart(f"The task {task_id} changed nothing that is known yet.", exit_code=EX_NOINPUT)
        return task

    def shown(task: Task) -> None:
        if diff:
            print_diff(_diff(task))
        else:
            task_show.show(task)

    return ask_conductor(
        do, shown, config=config, json=json, told=lambda task: {"diff": _diff(task)} if diff else {"task": task}
    )


def _diff(task: Task) -> str:
    return next((each.evidence.diff for each in reversed(task.attempts or []) if each.evidence.diff), "")


@app.command
def watch(task_id: TaskId, /, *, config: File = None, json: Json = False) -> int:
    """Show what happens to a task, from its beginning on, until it ends.

    The exit code: 0 succeeded, 1 failed, 130 canceled. Ctrl-C leaves the task alone.

    Example: `baa task watch tsk_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    from baa.cli import task_watch

    return task_watch.watch(task_id, config=config, json=json)


@app.command
def cancel(task_id: TaskId, /, *, config: File = None, json: Json = False) -> int:
    """End a task: one that waits at once, one that runs as soon as its turn is ended. Its worktree stays.

    Example: `baa task cancel tsk_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return ask_conductor(
        lambda conductor: conductor.cancel(task_id), _line, config=config, json=json, told=lambda task: {"task": task}
    )


@app.command
def retry(task_id: TaskId, /, *, config: File = None, json: Json = False) -> int:
    """Queue a task that failed or was canceled again. It goes on from its worktree as it is.

    Example: `baa task retry tsk_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return ask_conductor(
        lambda conductor: conductor.retry(task_id), _line, config=config, json=json, told=lambda task: {"task": task}
    )


def _line(task: Task) -> None:
    print(plain(f"{task.task_id} {task.state.value}{' (ending)' if task.cancel_asked else ''}"))


@app.command
def apply(
    task_id: TaskId,
    /,
    *,
    pick: Annotated[bool, Parameter(negative=(), help="As one commit, not as a merge.")] = False,
    to: Annotated[Path | None, Parameter(show_default=False, help="The work tree; else where the task began.")] = None,
    anyway: Annotated[bool, Parameter(negative=(), help="Also if the task did not succeed.")] = False,
    keep: Annotated[bool, Parameter(negative=(), help="Leave its worktree and its branch.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Bring a task's branch home, into the branch that is checked out. Never over work that is not committed.

    What would conflict changes nothing. Done twice, it is done once. Then the worktree and the branch of a task that
    succeeded are taken away, unless something in the worktree is not committed, or a process is in it.

    Example: `baa task apply tsk_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    from baa.cli import task_apply

    return task_apply.apply(task_id, to=to, pick=pick, anyway=anyway, keep=keep, config=config, json=json)


@app.command
def clean(
    repository: Annotated[Path, Parameter(help="A git repository on this node.")] = Path("."),
    /,
    *,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only say what would be done.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Take away what ended tasks left in a repository: worktrees and branches whose work is held elsewhere.

    Nothing is taken that holds something uncommitted, commits that no other branch has and that were not applied, or
    that a process is in. What stays is told, with the reason.

    Example: `baa task clean ~/project`
    """
    from baa.cli import task_clean

    return task_clean.clean(repository, dry_run=dry_run, config=config, json=json)


@app.command
def pause(*, config: File = None, json: Json = False) -> int:
    """Start no further task, on any node; what runs, runs on.

    Example: `baa task pause`
    """
    return _pause(paused=True, config=config, json=json)


@app.command
def resume(*, config: File = None, json: Json = False) -> int:
    """Start tasks again after `baa task pause`.

    Example: `baa task resume`
    """
    return _pause(paused=False, config=config, json=json)


def _pause(*, paused: bool, config: Path | None, json: bool) -> int:
    async def do(conductor: Conductor) -> bool:
        await (conductor.pause() if paused else conductor.resume())
        return paused

    said = "paused: what runs, runs on; `baa task resume` goes on" if paused else "resumed"
    return ask_conductor(do, lambda _: print(said), config=config, json=json, told=lambda _: {"paused": paused})
