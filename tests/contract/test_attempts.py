"""Attempts from their claim to their end: the real engine, a real codexd, the real Codex on a script, real git."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from baa.api.interactions import AnswerInteraction
from baa.api.sessions import ApprovalPolicy, Sandbox
from baa.api.tasks import AttemptState, Budget, Check, TaskState
from baa.api.tasks import Workspace as Kind
from baa.client.codexd import Codexd
from baa.scripted import Hold, Limits, Refuse, Run, Say, ScriptedModel, when
from baa.worker import prompts
from tests.support.node import Node, moment, within
from tests.support.station import Station, a_station, settings_of

pytestmark = pytest.mark.timeout(180)

SCENARIOS = (
    when("these checks failed after", Run("echo two > result"), Say("Mended.")),
    when("the model could not be reached", Run("echo back > result"), Say("Reached.")),
    when("The usage limit had ended", Run("echo more >> result"), Say("Went on.")),
    when("through no fault of yours", Run("echo again >> result"), Say("Went on.")),
    when("make it", Run("echo one > result"), Say("Made.")),
    when("dear", Run("echo one > result"), (Hold("dear"), Say("Too late."))),
    when("limited", Run("echo one > result"), (Limits(100, 1_700_000_000), Refuse.usage_limit())),
    when("down", Refuse(500)),
    when("refused", Refuse(400)),
    when(
        "put a question",
        Run("echo one > result", sandbox_permissions="require_escalated", justification="May I?"),
        Say("Asked."),
    ),
    when("above", Run("echo up > ../above"), Say("Written.")),
    when("say json", Say('{"found": 3}')),
    *(
        when(f"wait {gate}.", (Say("Wait. "), Hold(gate), Say("Done.")))
        for gate in ("a", "a on postgres", "b", "c", "c on postgres", "d", "e")
    ),
)
HAS_TWO = Check(command="grep two result")


class House(NamedTuple):
    """A node that serves, and the model behind its Codex."""

    node: Node
    model: ScriptedModel


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path_factory.mktemp("attempts"), model.base_url) as node:
        await node.start()
        yield House(node, model)


@pytest.fixture
async def here(house: House, tmp_path: Path) -> AsyncIterator[Station]:
    async with a_station(tmp_path, house.model, house.node) as station:
        yield station


@pytest.fixture
async def either(house: House, tmp_path: Path, engine_url: str) -> AsyncIterator[Station]:
    """A station on each of the two databases, for what differs in what is written down and taken up again."""
    async with a_station(tmp_path, house.model, house.node, engine_url) as station:
        yield station


def gate_of(name: str, engine_url: str) -> str:
    """A gate of its own on each database: one that was met, or released, stays so."""
    return f"{name} on postgres" if engine_url.startswith("postgres") else name


async def test_a_failed_check_goes_back_and_the_next_turn_passes(either: Station) -> None:
    before = either.repo.head
    task, attempt = await either.done(prompt="make it", checks=[HAS_TWO, Check(command="echo fine")])
    assert (task.state, attempt.state, task.final_message) == (TaskState.SUCCEEDED, AttemptState.SUCCEEDED, "Mended.")
    done = attempt.evidence
    assert [(turn.number, turn.why, turn.status) for turn in done.turns] == [
        (1, "first", "completed"),
        (2, "checks_failed", "completed"),
    ]
    assert [(each.turn, each.passed, each.output) for each in done.checks] == [
        (1, False, ""),
        (1, True, "fine\n"),
        (2, True, "two\n"),
        (2, True, "fine\n"),
    ]
    assert (done.base_commit, done.repository, done.branch) == (before, str(either.repo.folder), f"baa/{task.task_id}")
    assert either.repo.shown(f"{done.branch}:result") == "two"
    assert done.commit == either.repo.of(f"baa/{task.task_id}")
    assert done.diff is not None
    assert "+two" in done.diff
    assert either.repo.head == before
    assert either.repo.git("status", "--porcelain") == ""
    assert attempt.tokens == sum(turn.tokens for turn in done.turns) > 0
    said = [request.prompt for request in either.model.requests if "grep two result" in request.prompt]
    assert "The task is done when these commands pass" in said[0]
    assert "$ grep two result\n\n[it ended with exit code 1]" in said[-1]
    told = await either.told(task.task_id)
    assert told[-2:] == ["attempt.ended", "task.succeeded"]
    assert (told.count("attempt.turn"), told.count("attempt.check")) == (4, 4)


async def test_checks_that_never_pass_fail_the_task_after_its_turns(here: Station) -> None:
    task, attempt = await here.done(prompt="make it", checks=[Check(command="exit 3")], max_turns=2)
    assert (task.state, task.reason) == (TaskState.FAILED, "checks_failed")
    assert (attempt.state, len(attempt.evidence.turns)) == (AttemptState.CHECKS_FAILED, 2)
    assert attempt.evidence.commit is not None


async def test_in_the_folder_itself_nothing_is_committed(here: Station) -> None:
    before = here.repo.refs()
    task, attempt = await here.done(prompt="make it", workspace=Kind.INPLACE)
    assert task.state is TaskState.SUCCEEDED
    assert (here.repo.folder / "result").read_text() == "one\n"
    assert (attempt.evidence.branch, attempt.evidence.commit) == (None, None)
    assert "+one" in str(attempt.evidence.diff)
    assert set(here.repo.refs()) - set(before) == {f"refs/baa/{task.task_id}/base"}
    dirty, attempt = await here.done(prompt="make it", workspace=Kind.INPLACE)
    assert (dirty.state, dirty.reason) == (TaskState.FAILED, "uncommitted_work")
    assert "Commit or stash" in attempt.evidence.notes[-1]


async def test_what_cannot_be_is_told_by_a_code_and_not_tried_again(here: Station, tmp_path: Path) -> None:
    gone, _ = await here.done(cwd=str(tmp_path / "gone"))
    assert (gone.state, gone.reason) == (TaskState.FAILED, "folder_missing")
    (tmp_path / "outside").mkdir()
    outside, attempt = await here.done(cwd=str(tmp_path / "outside"))
    assert (outside.state, outside.reason) == (TaskState.FAILED, "policy_ceiling")
    assert "ceiling.roots" in attempt.evidence.notes[-1]
    refused, attempt = await here.done(prompt="refused")
    assert (refused.state, refused.reason, len(attempt.evidence.turns)) == (TaskState.FAILED, "other", 1)


async def test_in_a_folder_of_the_repository_it_may_write_all_of_its_worktree(here: Station) -> None:
    asked = {"prompt": "above", "cwd": str(here.repo.folder / "sub"), "sandbox": Sandbox.WORKSPACE_WRITE}
    task, attempt = await here.done(**asked)
    assert task.state is TaskState.SUCCEEDED
    assert here.repo.shown(f"baa/{task.task_id}:above") == "up"
    assert attempt.session_id is not None
    session = await here.node.session_of(attempt.session_id)
    assert session["writableRoots"] == [attempt.evidence.workspace]
    assert session["cwd"] == f"{attempt.evidence.workspace}/sub"


async def test_an_output_that_fits_its_schema_is_the_tasks(either: Station) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"found": {"type": "integer"}}, "required": ["found"]}
    schema |= {"additionalProperties": False}
    task, _ = await either.done(prompt="say json", output_schema=schema)
    assert (task.state, task.output) == (TaskState.SUCCEEDED, {"found": 3})
    never, attempt = await either.done(prompt="wait nothing", output_schema=schema, max_turns=2)
    assert (never.state, never.reason) == (TaskState.FAILED, "output_invalid")
    assert [turn.why for turn in attempt.evidence.turns] == ["first", "output_invalid"]


async def test_a_cancel_ends_the_turn(either: Station, engine_url: str) -> None:
    gate = gate_of("a", engine_url)
    attempt = await either.assigned(prompt=f"wait {gate}.")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(either.run(attempt), name="attempt")
        await within(either.model.held(gate))
        await either.engine.cancel(attempt.task_id)
        task = await within(running)
    assert task.state is TaskState.CANCELED
    assert task.attempts is not None
    (turn,) = task.attempts[-1].evidence.turns
    assert (turn.status, turn.reason) == ("interrupted", "requested")


async def test_a_cancel_ends_a_check(here: Station) -> None:
    attempt = await here.assigned(prompt="make it", checks=[Check(command="touch began; sleep 1000")])
    worktree = settings_of(here.node).worktrees_dir / attempt.task_id
    async with asyncio.TaskGroup() as group:
        running = group.create_task(here.run(attempt), name="attempt")
        await within(_there(worktree / "began"))
        await here.engine.cancel(attempt.task_id)
        task = await within(running)
    assert task.state is TaskState.CANCELED


async def _there(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110  (a check tells nobody)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("limits", "state", "reason"),
    [
        ({"deadline_ms": 1500}, AttemptState.TIMED_OUT, "deadline"),
        ({"budget": Budget(time_ms=1500)}, AttemptState.BUDGET_EXCEEDED, "budget_time"),
    ],
    ids=["deadline", "budget"],
)
async def test_its_time_ends_the_turn_when_it_is_up(
    here: Station, limits: dict[str, object], state: AttemptState, reason: str
) -> None:
    task, attempt = await here.done(prompt="wait b.", **limits)
    assert (task.state, attempt.state, attempt.reason) == (TaskState.FAILED, state, reason)
    (turn,) = attempt.evidence.turns
    assert (turn.status, turn.reason) == ("expired", "deadline")


async def test_a_check_has_no_more_time_than_the_attempt(here: Station) -> None:
    check = Check(command="sleep 1000")
    task, attempt = await here.done(prompt="make it", checks=[check], budget=Budget(time_ms=3000))
    assert (task.state, attempt.state, attempt.reason) == (
        TaskState.FAILED,
        AttemptState.BUDGET_EXCEEDED,
        "budget_time",
    )


async def test_silence_ends_the_turn_and_another_attempt_begins(either: Station, engine_url: str) -> None:
    gate = gate_of("c", engine_url)
    task, attempt = await either.done(prompt=f"wait {gate}.", stall_ms=2500)
    assert (task.state, attempt.state, attempt.reason) == (TaskState.QUEUED, AttemptState.STALLED, "stalled")
    either.model.release(gate)
    again = await either.run(await either.next_of(task.task_id))
    assert again.state is TaskState.SUCCEEDED
    assert "ended as stalled (stalled)" in either.model.requests[-1].prompt


async def test_tokens_that_are_used_up_end_the_turn_while_it_runs(either: Station) -> None:
    task, attempt = await either.done(prompt="dear", budget=Budget(tokens=1))
    assert (task.state, attempt.state, attempt.reason) == (
        TaskState.FAILED,
        AttemptState.BUDGET_EXCEEDED,
        "budget_tokens",
    )
    (turn,) = attempt.evidence.turns
    assert (turn.status, turn.reason) == ("interrupted", "requested")
    assert attempt.tokens >= 1
    assert "+one" in str(attempt.evidence.diff)  # what it did until then is kept


async def test_turns_of_the_budget_count_over_all(here: Station) -> None:
    _, attempt = await here.done(prompt="make it", checks=[Check(command="false")], budget=Budget(turns=1))
    assert (attempt.state, attempt.reason) == (AttemptState.BUDGET_EXCEEDED, "budget_turns")
    assert len(attempt.evidence.turns) == 1


async def test_a_usage_limit_parks_the_task_and_it_goes_on_where_it_was(either: Station) -> None:
    task, attempt = await either.done(prompt="limited", max_attempts=1)
    assert (task.state, task.reason) == (TaskState.QUEUED, "usage_limit")
    assert task.not_before is not None
    assert (attempt.state, attempt.reason) == (AttemptState.FAILED, "usage_limit")
    assert attempt.evidence.resets_at == "2023-11-14T22:13:20.000Z"
    again = await either.run(await either.next_of(task.task_id))
    assert (again.state, again.final_message) == (TaskState.SUCCEEDED, "Went on.")
    assert again.attempts is not None
    first, second = again.attempts
    assert (second.session_id, second.evidence.workspace) == (first.session_id, first.evidence.workspace)
    assert either.repo.shown(f"baa/{task.task_id}:result") == "one\nmore"
    assert prompts.LIMIT in either.model.requests[-1].prompt


async def test_a_model_that_cannot_be_reached_is_asked_again_in_the_same_attempt(here: Station) -> None:
    task, attempt = await here.done(prompt="down")
    assert task.state is TaskState.SUCCEEDED
    assert [(turn.why, turn.status, turn.reason) for turn in attempt.evidence.turns] == [
        ("first", "failed", "internalServerError"),
        ("transient", "completed", None),
    ]


async def test_a_turn_whose_lease_ended_is_followed_by_another(here: Station) -> None:
    here.may_renew, here.lease_ms, after = False, 2000, await here.node.head()
    attempt = await here.assigned(prompt="wait d.", checks=[Check(command="grep again result")])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(here.run(attempt), name="attempt")
        async with asyncio.timeout(60):
            while not await here.node.events(after, types="turn.interrupted"):
                await moment(0.02)
        here.may_renew = True
        task = await within(running)
    assert task.state is TaskState.SUCCEEDED
    assert task.attempts is not None
    assert [(turn.why, turn.status, turn.reason) for turn in task.attempts[-1].evidence.turns] == [
        ("first", "interrupted", "lease_expired"),
        ("cut_off", "completed", None),
    ]


async def test_a_lease_that_is_renewed_does_not_end(here: Station) -> None:
    here.lease_ms = 3000
    attempt = await here.assigned(prompt="wait e.")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(here.run(attempt), name="attempt")
        await within(here.model.held("e"))
        (session,) = (await here.node.get("/v1/codexd/sessions", purpose=attempt.attempt_id)).json()["data"]["sessions"]
        renewed = await here.node.ledger(session["currentTurnId"], wait_ms=4000)  # longer than its lease
        assert renewed["status"] == "in_progress"
        here.model.release("e")
        assert (await within(running)).state is TaskState.SUCCEEDED


async def test_a_question_waits_for_its_answer(here: Station) -> None:
    attempt = await here.assigned(
        prompt="put a question", sandbox=Sandbox.WORKSPACE_WRITE, approval_policy=ApprovalPolicy.ON_REQUEST
    )
    async with asyncio.TaskGroup() as group, Codexd(settings_of(here.node)) as codexd:
        running = group.create_task(here.run(attempt), name="attempt")
        async with asyncio.timeout(60):
            while not (page := await codexd.sessions(purpose=attempt.attempt_id, needs_answer=True)).sessions:
                pass
        questions = (await codexd.session(page.sessions[0].session_id)).interactions
        assert isinstance(questions, list)
        (question,) = questions
        assert question.turn_id is not None
        await codexd.answer_in_turn(question.turn_id, question.interaction_id, AnswerInteraction(decision="accept"))
        assert (await within(running)).state is TaskState.SUCCEEDED
    assert here.repo.shown(f"baa/{attempt.task_id}:result") == "one"
