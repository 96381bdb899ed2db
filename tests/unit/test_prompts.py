"""What the agent of a task is told, turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baa.api.sessions import PROMPT_MAX
from baa.api.tasks import Attempt, AttemptState, Check, CheckResult, Evidence, SubmitTask
from baa.api.tasks import Workspace as Kind
from baa.worker import prompts
from baa.worker.decisions import Why
from baa.worker.workspace import Workspace

ASKED = SubmitTask(prompt="Mend the parser.", cwd="/work", checks=[Check(command="pytest -q"), Check(command="mypy")])


def workspace(kind: Kind = Kind.WORKTREE, *, found: bool = False) -> Workspace:
    return Workspace(
        "tsk_1", kind, Path("/trees/tsk_1"), Path("/trees/tsk_1/sub"), base="abcdef0123456789", found=found
    )


def failed(output: str = "E  assert 1 == 2\n", **more: Any) -> CheckResult:
    told = {"exit_code": 1, "timed_out": False, "turn": 1, "passed": False} | more
    return CheckResult(command="pytest -q", output=output, truncated=False, duration_ms=1500, **told)


def before(state: AttemptState, reason: str, *checks: CheckResult) -> Attempt:
    return Attempt(
        attempt_id="tsk_1:1",
        task_id="tsk_1",
        number=1,
        state=state,
        reason=reason,
        node_id="here",
        owner="o",
        session_id="ses_1",
        turn_id="trn_1",
        tokens=0,
        evidence=Evidence(checks=list(checks)),
        created_at="",
        started_at=None,
        ended_at=None,
    )


def test_the_first_prompt_says_where_and_what_must_pass() -> None:
    told = prompts.first(ASKED, workspace(), None)
    assert told.startswith("Mend the parser.\n")
    assert "in /trees/tsk_1/sub: a git worktree of your own" in told
    assert "\n    pytest -q\n    mypy" in told
    assert "earlier attempt" not in told
    inplace = prompts.first(SubmitTask(prompt="p", cwd="/work"), workspace(Kind.INPLACE), None)
    assert "the folder itself" in inplace
    assert "pass" not in inplace
    assert "commit" not in inplace


def test_the_next_attempt_is_told_of_the_one_before() -> None:
    lost = before(AttemptState.LOST, "keeper_died")
    told = prompts.first(ASKED, workspace(found=True), lost)
    assert "ended as lost (keeper_died)" in told
    assert "`git diff abcdef012345`" in told
    elsewhere = prompts.first(ASKED, workspace(), lost)
    assert "you begin anew" in elsewhere
    assert "as it was left" not in elsewhere
    again = prompts.first(ASKED, workspace(found=True), before(AttemptState.CHECKS_FAILED, "checks_failed", failed()))
    assert "assert 1 == 2" in again


def test_after_a_usage_limit_it_goes_on() -> None:
    told = prompts.after_limit(ASKED)
    assert prompts.LIMIT in told
    assert told.endswith("Mend the parser.")


def test_a_failed_check_goes_back_with_what_it_said() -> None:
    told = prompts.further(
        Why.CHECKS_FAILED, ASKED, workspace(), None, [failed(), failed("", exit_code=127)], new=False
    )
    assert "$ pytest -q\nE  assert 1 == 2\n[it ended with exit code 1]" in told
    assert "[it ended with exit code 127]" in told
    late = prompts.checks_failed([failed(exit_code=None, timed_out=True)])
    assert "[it did not end in 2 s, and was ended]" in late
    assert "[it could not be run]" in prompts.checks_failed([failed(exit_code=None)])


@pytest.mark.parametrize("count", [1, 3, 32])
def test_long_outputs_are_cut_so_that_codex_takes_the_prompt(count: int) -> None:
    long = "first line\n" + "x" * 500_000 + "\nlast line"
    told = prompts.checks_failed([failed(long)] * count)
    assert len(told) < 2 * prompts.OUTPUTS_MAX
    assert told.count("first line") == told.count("last line") == count


def test_a_turn_that_was_cut_off_is_gone_on_with() -> None:
    told = prompts.further(Why.CUT_OFF, ASKED, workspace(), None, [], new=False)
    assert told == f"{prompts.CUT_OFF} {prompts.GO_ON}"
    unheard = prompts.further(Why.TRANSIENT, ASKED, workspace(), None, [], new=True)
    assert unheard.startswith(prompts.TRANSIENT)
    assert "Mend the parser." in unheard
    assert prompts.further(Why.OUTPUT_INVALID, ASKED, workspace(), None, [], new=False) == prompts.OUTPUT


def test_a_prompt_that_fills_codexs_limit_stands_alone() -> None:
    whole = SubmitTask(prompt="p" * PROMPT_MAX, cwd="/work")
    assert prompts.first(whole, workspace(), None) == whole.prompt
