"""Times as people write them, a file of tasks, the morning's report: what is pure of `baa task` and `baa report`."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from baa.api.errors import CannotStart
from baa.api.tasks import (
    Attempt,
    AttemptState,
    Check,
    CheckResult,
    Evidence,
    QueueEvent,
    SubmitTask,
    Task,
    TaskState,
    Workspace,
)
from baa.cli import when
from baa.cli.report_facts import questions, summed
from baa.cli.task_file import parsed
from baa.cli.task_show import count, why_failed

NOW = datetime(2026, 11, 26, 7, 30, tzinfo=UTC)
FILE = Path("/home/me/night/tasks.toml")


@pytest.mark.parametrize(
    ("text", "length"), [("90s", 90_000), ("15m", 900_000), ("1.5h", 5_400_000), ("2d", 172_800_000), ("5 ms", 5)]
)
def test_a_length_is_read(text: str, length: int) -> None:
    assert when.milliseconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "0s", "-1h", "1h30m", "1w", "soon"])
def test_what_is_no_length_is_refused_with_examples(text: str) -> None:
    with pytest.raises(CannotStart, match="write 90s") as error:
        when.milliseconds(text)
    assert error.value.exit_code == 64


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("yesterday", "2026-11-25T00:00:00+00:00"),
        ("today", "2026-11-26T00:00:00+00:00"),
        ("8h", "2026-11-25T23:30:00+00:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T18:00", "2026-11-20T18:00:00+00:00"),
        ("2026-11-20T18:00+02:00", "2026-11-20T18:00:00+02:00"),
    ],
)
def test_since_when(text: str, at: str) -> None:
    assert when.since(text, NOW).isoformat() == at


def test_since_a_time_that_is_none() -> None:
    with pytest.raises(CannotStart, match="write yesterday"):
        when.since("monday", NOW)


@pytest.mark.parametrize(
    ("length", "told"),
    [(850, "850 ms"), (12_400, "12 s"), (60_000, "1 min"), (185_000, "3 min 5 s"), (7_800_000, "2 h 10 min")],
)
def test_a_length_is_told(length: int, told: str) -> None:
    assert when.told(length) == told


def test_numbers_in_groups() -> None:
    assert count(1_234_567) == "1 234 567"


def file(text: str) -> list[Any]:
    return parsed(tomllib.loads(text), FILE)


def test_a_file_of_tasks_with_what_they_share() -> None:
    first, second = file(
        """
        [defaults]
        checks = ["pytest -q"]
        max_turns = 5
        [[task]]
        name = "types"
        prompt = "One."
        cwd = "project"
        inplace = true
        budget = { tokens = 1000, time = "2h" }
        [[task]]
        prompt = "Two."
        repository = "/r"
        ref = "main"
        checks = [{ command = "make", timeout = "20m" }]
        after = ["types", "tsk_x"]
        """
    )
    assert (first.name, first.after, second.after) == ("types", [], ["types", "tsk_x"])
    request = first.request
    assert (request.cwd, request.workspace, request.max_turns) == ("/home/me/night/project", Workspace.INPLACE, 5)
    assert (request.checks, request.title) == ([Check(command="pytest -q")], "types")
    assert (request.budget.tokens, request.budget.time_ms) == (1000, 7_200_000)
    assert (second.request.repository, second.request.ref, second.request.cwd) == ("/r", "main", None)
    assert second.request.checks == [Check(command="make", timeout_ms=1_200_000)]
    assert file('[[task]]\nprompt = "x"')[0].request == SubmitTask(prompt="x", cwd="/home/me/night")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it holds no"),
        ('[tasks]\nprompt = "x"', "there is no table 'tasks'"),
        ("[[task]]\npriority = 1", "task 1: Object missing required field `prompt`"),
        ('[[task]]\nprompt = "x"\npromt = "y"', "unknown field `promt`"),
        ('[[task]]\nprompt = "x"\nafter = ["y"]', "no task before it has that name"),
        ('[[task]]\nprompt = "x"\nname = "a"\n[[task]]\nprompt = "y"\nname = "a"', "a task 'a' before it"),
        ('[[task]]\nprompt = "x"\ndeadline = "soon"', "'soon' is no time"),
    ],
)
def test_a_file_with_a_mistake_queues_nothing_and_says_where(text: str, told: str) -> None:
    with pytest.raises(CannotStart) as error:
        file(text)
    assert error.value.exit_code == 65
    assert told in error.value.message
    assert str(FILE) in error.value.message


def task(name: str, state: TaskState, ended_at: str | None = None, **more: Any) -> Task:
    given: dict[str, Any] = {
        "task_id": name,
        "state": state,
        "reason": None,
        "title": name,
        "request": SubmitTask(prompt="x"),
        "attempt_count": 1,
        "node_id": "here",
        "cancel_asked": False,
        "not_before": None,
        "tokens": 10,
        "turns": 2,
        "time_ms": 1000,
        "final_message": None,
        "output": None,
        "branch": None,
        "created_at": "2026-11-20T00:00:00.000Z",
        "started_at": None,
        "ended_at": ended_at,
    }
    return Task(**(given | more))


def attempt(state: AttemptState, **evidence: Any) -> Attempt:
    return Attempt(
        attempt_id="t:1",
        task_id="t",
        number=1,
        state=state,
        reason=None,
        node_id="here",
        owner=None,
        session_id=None,
        turn_id=None,
        tokens=0,
        evidence=Evidence(**evidence),
        created_at="",
        started_at=None,
        ended_at=None,
    )


def result(command: str, turn: int, *, passed: bool, output: str = "", exit_code: int | None = 1) -> CheckResult:
    return CheckResult(
        command=command,
        turn=turn,
        passed=passed,
        exit_code=0 if passed else exit_code,
        timed_out=exit_code is None,
        output=output,
        truncated=False,
        duration_ms=5,
    )


def test_why_a_task_failed_names_the_check_of_the_last_turn_and_what_it_said_last() -> None:
    checks = [
        result("first", 1, passed=False, output="old"),
        result("first", 2, passed=True),
        result("slow", 2, passed=False, exit_code=None, output="FAILED test_x\n\n"),
    ]
    attempts = [attempt(AttemptState.CHECKS_FAILED, checks=checks)]
    failed = task("t", TaskState.FAILED, reason="checks_failed", attempts=attempts)
    assert why_failed(failed) == "checks_failed: check 'slow' took too long (5 ms): FAILED test_x"
    assert why_failed(task("t", TaskState.FAILED, reason="dependency_failed")) == "dependency_failed"
    assert why_failed(task("t", TaskState.FAILED, attempts=[attempt(AttemptState.LOST)])) == "lost"


def test_the_report_holds_what_ended_since_then_and_what_is_open() -> None:
    since = "2026-11-25T00:00:00.000Z"
    tasks = [
        task("late", TaskState.SUCCEEDED, "2026-11-25T05:00:00.000Z"),
        task("early", TaskState.SUCCEEDED, "2026-11-25T01:00:00.000Z", attempts=[
            attempt(AttemptState.SUCCEEDED, diff_stat=" a | 2 +-\n 1 file changed, 1 insertion(+)\n")
        ]),
        task("before", TaskState.FAILED, "2026-11-24T23:59:59.999Z"),
        task("stopped", TaskState.CANCELED, "2026-11-25T02:00:00.000Z"),
        task("parked", TaskState.QUEUED, reason="usage_limit", not_before="2026-11-26T09:00:00.000Z"),
        task("works", TaskState.RUNNING),
    ]  # fmt: skip
    report = summed(tasks, [], since=since, paused=True)
    assert [each.task_id for each in report.succeeded] == ["early", "late"]
    assert report.succeeded[0].changed == "1 file changed, 1 insertion(+)"
    assert (report.failed, [each.task_id for each in report.canceled]) == ([], ["stopped"])
    assert [each.why for each in report.queued] == ["usage_limit until 2026-11-26T09:00:00.000Z"]
    assert [each.task_id for each in report.running] == ["works"]
    assert (report.spent.tokens, report.spent.turns, report.spent.time_ms, report.paused) == (50, 10, 5000, True)


def asked(seq: int, type_: str, interaction_id: str, at: str, node: str = "here") -> QueueEvent:
    payload = {"payload": {"interactionId": interaction_id, "kind": "command", "deadlineAt": "2026-11-26T09:00:00Z"}}
    return QueueEvent(seq=seq, at=at, type=type_, node_id=node, task_id="t", session_id="s", payload=payload)


def test_questions_that_are_open_and_those_that_nobody_answered_since_then() -> None:
    requested, expired = "interaction.requested", "interaction.expired"
    events = [
        asked(1, requested, "int_old", "2026-11-01"),
        asked(2, expired, "int_old", "2026-11-01"),
        asked(3, requested, "int_answered", "2026-11-25"),
        asked(4, "interaction.resolved", "int_answered", "2026-11-25"),
        asked(5, requested, "int_missed", "2026-11-25"),
        asked(6, requested, "int_open", "2026-11-26"),
        asked(7, expired, "int_missed", "2026-11-25"),
        asked(8, requested, "int_open", "2026-11-26", node="there"),
    ]
    found = questions(events, since="2026-11-25")
    assert [(each.interaction_id, each.node_id, each.open) for each in found] == [
        ("int_open", "here", True),
        ("int_missed", "here", False),
        ("int_open", "there", True),
    ]
