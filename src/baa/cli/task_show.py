"""Tasks on a terminal: one line each, or one whole with its attempts, turns, checks, diff and cost."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

from baa.api.tasks import TASK_ENDED, Attempt, AttemptState, CheckResult, Task, TaskState
from baa.cli import lines
from baa.cli.items import short, show_output
from baa.cli.plain import plain
from baa.cli.when import told

STYLES: Final = {
    TaskState.QUEUED: "cyan",
    TaskState.RUNNING: "yellow",
    TaskState.SUCCEEDED: "green",
    TaskState.FAILED: "bold red",
    TaskState.CANCELED: "dim",
}
HEADS: Final = ("task", "state", "prio", "tries", "tokens", "created", "title")


def show_rows(tasks: list[Task]) -> None:
    """A table of tasks."""
    rows = [
        (
            task.task_id,
            task.state.value + (" (ending)" if task.cancel_asked and task.state not in TASK_ENDED else ""),
            str(task.request.priority or ""),
            str(task.attempt_count or ""),
            count(task.tokens) if task.tokens else "",
            minute(task.created_at),
            short(task.title) + (f"  [{task.reason}]" if task.reason else ""),
        )
        for task in tasks
    ]
    lines.as_rows([HEADS, *rows] if rows else [('No tasks. Queue one: baa task add "…" --check "…"',)])


def show(task: Task) -> None:
    """One task, whole."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(plain(f"{task.task_id}  {task.state.value}"), style=STYLES[task.state]))
    console.print(Text(plain(task.title), style="bold"))
    request = task.request
    where = request.repository or request.cwd or ""
    _fact(console, "where", where + (f" at {request.ref}" if request.ref else ""))
    _fact(console, "reason", task.reason)
    _fact(console, "waits", f"until {minute(task.not_before)}" if task.not_before else None)
    _fact(console, "after", ", ".join(request.depends_on))
    _fact(console, "node", task.node_id or request.node)
    _fact(console, "branch", task.branch)
    _fact(console, "cost", cost(task.tokens, task.turns, task.time_ms) if task.turns else None)
    for line in request.prompt.splitlines():
        console.print(Text(plain(f"> {line}"), style="italic"))
    for attempt in task.attempts or []:
        show_attempt(console, attempt)
    if task.final_message:
        console.print(Text(plain(f"\n{task.final_message}")))
    if task.state is TaskState.SUCCEEDED and task.branch:
        console.print(Text(plain(f"\nbring it home: baa task apply {task.task_id}"), style="green"))
    elif task.state in (TaskState.FAILED, TaskState.CANCELED):
        console.print(Text(plain(f"\nanother try: baa task retry {task.task_id}"), style="yellow"))


def show_attempt(console: Console, attempt: Attempt) -> None:
    """An attempt: its turns with the checks after each, and what it changed."""
    evidence = attempt.evidence
    reason = f", {attempt.reason}" if attempt.reason else ""
    where = f" on {attempt.node_id}" + (f" in {evidence.workspace}" if evidence.workspace else "")
    console.print(Text(plain(f"\nattempt {attempt.number}: {attempt.state.value}{reason}{where}"), style="bold"))
    for turn in evidence.turns:
        ended = turn.status or "runs"
        why = f", {turn.reason}" if turn.reason else ""
        console.print(
            Text(plain(f"  turn {turn.number} ({turn.why}): {ended}{why}, {count(turn.tokens)} tokens  {turn.turn_id}"))
        )
        for check in evidence.checks:
            if check.turn == turn.number:
                show_check(console, check)
    if evidence.diff_stat:
        for line in evidence.diff_stat.splitlines():
            console.print(Text(plain(f"  {line}")))
    for note in evidence.notes:
        console.print(Text(plain(f"  note: {note}"), style="dim"))


def show_check(console: Console, check: CheckResult, *, indent: str = "    ") -> None:
    """A check and, where it failed, the end of what it said."""
    style = "green" if check.passed else "red"
    console.print(Text(plain(f"{indent}{check_line(check)}"), style=style))
    if not check.passed:
        show_output(console, check.output, last=True, indent=indent + "  ")


def check_line(check: CheckResult) -> str:
    """How a check ended, in a line."""
    if check.passed:
        ended = "passed"
    elif check.timed_out:
        ended = "took too long"
    elif check.exit_code is None:
        ended = "did not run"
    else:
        ended = f"failed with {check.exit_code}"
    return f"check {check.command!r} {ended} ({told(check.duration_ms)})"


def why_failed(task: Task) -> str:
    """Why a task failed, as far as its last attempt tells it, in a line."""
    last = task.attempts[-1] if task.attempts else None
    if last is None:
        return task.reason or "failed"
    words = [task.reason or last.state.value]
    if last.state is AttemptState.CHECKS_FAILED and last.evidence.checks:
        turn = max(check.turn for check in last.evidence.checks)
        failed = [check for check in last.evidence.checks if check.turn == turn and not check.passed]
        words += [check_line(check) for check in failed]
        words += [said for check in failed if (said := _last_line(check.output))]
    return ": ".join(words)


def _last_line(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def cost(tokens: int, turns: int, time_ms: int) -> str:
    """What was spent."""
    return f"{count(tokens)} tokens, {turns} turn{'' if turns == 1 else 's'}, {told(time_ms)}"


def count(number: int) -> str:
    """A number in groups of three."""
    return f"{number:,}".replace(",", " ")


def minute(at: str) -> str:
    """A time of the API's to the minute (UTC)."""
    return at[:16].replace("T", " ")


def _fact(console: Console, name: str, value: str | None) -> None:
    if value:
        console.print(Text(plain(f"  {name:<7}{value}")))
