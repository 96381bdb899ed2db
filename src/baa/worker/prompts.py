"""PURE: what the agent of a task is told, turn by turn. docs/tasks.md shows it."""

from __future__ import annotations

from typing import Final

from baa.api.sessions import PROMPT_MAX
from baa.api.tasks import Attempt, CheckResult, SubmitTask
from baa.api.tasks import Workspace as Kind
from baa.worker.decisions import Why
from baa.worker.workspace import Workspace

OUTPUTS_MAX: Final = 120_000
"""Characters of the output of all failed checks together."""

CUT_OFF: Final = "Your last turn was cut off before it ended, through no fault of yours."
TRANSIENT: Final = "Your last turn failed because the model could not be reached."
GO_ON: Final = "Look at the files, and go on where you were."
LIMIT: Final = "The usage limit had ended your last turn; it has been reset."
CHECKS: Final = "The task is not done: these checks failed after your last turn. Find out why, and mend it."
OUTPUT: Final = (
    "Your last message does not have the form that was asked for. Answer again: the final message is one JSON document"
    " that fits the schema, and nothing else."
)


def first(request: SubmitTask, workspace: Workspace, previous: Attempt | None) -> str:
    """The first prompt of an attempt in a session of its own; `previous` is the attempt before it."""
    told = [request.prompt, "---", *_place(workspace), *_checks_to_pass(request), *_of_previous(workspace, previous)]
    return _fitting(request.prompt, told)


def after_limit(request: SubmitTask) -> str:
    """The first prompt of an attempt that goes on in the session of the one before."""
    return _fitting(request.prompt, [LIMIT, GO_ON, "The task is still:", request.prompt])


def further(
    why: Why,
    request: SubmitTask,
    workspace: Workspace,
    previous: Attempt | None,
    failed: list[CheckResult],
    *,
    new: bool,
) -> str:
    """The prompt of a turn after the first; `new`: no turn of this attempt has been answered yet."""
    match why:
        case Why.CHECKS_FAILED:
            return checks_failed(failed)
        case Why.OUTPUT_INVALID:
            return OUTPUT
        case _:
            happened = f"{TRANSIENT if why is Why.TRANSIENT else CUT_OFF} {GO_ON}"
            # Codex may not have seen the first prompt.
            return _fitting(request.prompt, [happened, first(request, workspace, previous)]) if new else happened


def checks_failed(failed: list[CheckResult]) -> str:
    """What goes back to the agent: each command, how it ended, and what it said."""
    each = OUTPUTS_MAX // max(1, len(failed))
    return "\n\n".join([CHECKS, *(_told(result, each) for result in failed)])


def _told(result: CheckResult, limit: int) -> str:
    if result.timed_out:
        ended = f"did not end in {result.duration_ms / 1000:.0f} s, and was ended"
    elif result.exit_code is None:
        ended = "could not be run"
    else:
        ended = f"ended with exit code {result.exit_code}"
    output = result.output
    if len(output) > limit:
        output = f"{output[: limit // 3]}\n[...]\n{output[-(limit - limit // 3) :]}"
    return f"$ {result.command}\n{output.rstrip()}\n[it {ended}]"


def _place(workspace: Workspace) -> list[str]:
    if workspace.kind is Kind.WORKTREE:
        return [
            f"You work on this by yourself, in {workspace.cwd}: a git worktree of your own. What you leave in its files"
            " is committed for you after each turn; do not commit, push or switch branches."
        ]
    return [f"You work on this by yourself, in {workspace.cwd}: the folder itself, not a copy."]


def _checks_to_pass(request: SubmitTask) -> list[str]:
    if not request.checks:
        return []
    commands = "\n".join(f"    {check.command}" for check in request.checks)
    return [f"The task is done when these commands pass, which are run in that folder after your turn:\n{commands}"]


def _of_previous(workspace: Workspace, previous: Attempt | None) -> list[str]:
    if previous is None:
        return []
    ended = f"An earlier attempt at this task ended as {previous.state} ({previous.reason or 'no reason was told'})."
    if workspace.found or workspace.kind is Kind.INPLACE:
        since = (
            "" if workspace.base is None else f" (`git diff {workspace.base[:12]}` shows what the task changed so far)"
        )
        ended += (
            f" The folder is as it was left, perhaps in the middle of something. Look at it first{since}, and go on"
        )
        told = [f"{ended} from there."]
    else:
        told = [f"{ended} What it changed is not in this folder: you begin anew."]
    last = max((result.turn for result in previous.evidence.checks), default=0)
    failed = [result for result in previous.evidence.checks if result.turn == last and not result.passed]
    return [*told, checks_failed(failed)] if failed else told


def _fitting(prompt: str, parts: list[str]) -> str:
    """All of it, if Codex takes so much; the task's own words otherwise."""
    text = "\n\n".join(parts)
    return text if len(text) <= PROMPT_MAX else prompt
