"""Two nodes and their conductors on one PostgreSQL, while what works is killed and stopped in mid-turn.

Real processes, the real Codex. Each test waits out a node's time and a turn's lease, seconds that nothing can shorten.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from baa.api.tasks import AttemptState, TaskState
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.fleet import Fleet, a_fleet
from tests.support.node import within
from tests.support.postgres import PostgreSQL

pytestmark = pytest.mark.timeout(240)

NODES = ("one", "two")
LEFT_BECAUSE_IT_LOST = 75
SCENARIOS = (
    when("An earlier attempt at this task ended as lost", Run("echo two >> result"), (Hold("second"), Say("Went on."))),
    when("Your last turn was cut off", Say("Went on.")),
    when("toil", Run("echo one >> result"), (Hold("gate"), Say("Done."))),
    when("quick", Run("echo one >> result"), Say("Quick.")),
)


async def holding(fleet: Fleet) -> str:
    """A task in mid-turn: its command has run, its model is silent."""
    task_id = await fleet.submitted("work", "toil", "grep -c . result")
    await within(fleet.model.held("gate"))
    return task_id


async def test_a_node_killed_in_mid_turn_is_followed_by_the_other(postgres_url: str, tmp_path: Path) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, postgres_url, model, nodes=NODES, conductors=("lead",)) as fleet,
    ):
        task_id = await holding(fleet)
        dead = await fleet.worker_of(task_id)
        await dead.worker.kill()
        await dead.node.kill()
        model.release("second")
        task = await fleet.ended(task_id)
        assert (task.state, task.final_message) == (TaskState.SUCCEEDED, "Went on.")
        first, second = await fleet.attempts(task_id)
        assert (first.state, first.node_id) == (AttemptState.LOST, dead.name)
        assert (second.state, second.node_id) == (AttemptState.SUCCEEDED, *(set(NODES) - {dead.name}))
        assert first.ended_at is not None
        assert first.ended_at <= second.created_at
        told = await fleet.told(task_id)
        assert (told.count("task.succeeded"), told.count("attempt.ended")) == (1, 2)
        assert (fleet.folder / "work" / "result").read_text() == "one\ntwo\n"


async def test_a_frozen_worker_has_no_turn_when_the_other_begins_and_writes_nothing_when_it_wakes(
    postgres_url: str, tmp_path: Path
) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, postgres_url, model, nodes=NODES, conductors=("lead",)) as fleet,
    ):
        task_id = await holding(fleet)
        away = await fleet.worker_of(task_id)
        (queued,) = await away.node.events(types="turn.queued")
        away.worker.signal(signal.SIGSTOP)
        await within(model.held("second"))
        other = await fleet.worker_of(task_id)
        assert other is not away
        ended = await away.node.ledger(queued["turnId"])
        assert (ended["status"], ended["reason"]) == ("interrupted", "lease_expired")
        (begun,) = await other.node.events(types="turn.queued")
        assert ended["endedAt"] < begun["at"]
        before = (await fleet.attempts(task_id))[0]
        assert before.state is AttemptState.LOST
        away.worker.signal(signal.SIGCONT)
        assert (await away.worker.ended())[0] == LEFT_BECAUSE_IT_LOST
        model.release("second")
        task = await fleet.ended(task_id)
        first, second = await fleet.attempts(task_id)
        assert (task.state, first) == (TaskState.SUCCEEDED, before), "it wrote nothing"
        assert (second.state, second.node_id) == (AttemptState.SUCCEEDED, other.name)
        assert (await fleet.told(task_id)).count("attempt.ended") == 2
        assert len(await away.node.events(types="turn.queued")) == 1


async def test_a_task_runs_on_while_the_leader_is_killed_and_the_standby_leads(
    postgres_url: str, tmp_path: Path
) -> None:
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, postgres_url, model, nodes=("one",), conductors=("lead", "standby")) as fleet,
    ):
        task_id = await holding(fleet)
        await fleet.conductors["lead"].kill()
        role = await fleet.conductors["standby"].becomes("/rolez", lambda data: data["role"] == "leader")
        assert (role["leaderId"], role["term"]) == ("standby", 2)
        later = await fleet.submitted("later", "quick", "grep -c one result")
        assert (await fleet.ended(later)).state is TaskState.SUCCEEDED, "the new leader assigns"
        model.release("gate")
        task = await fleet.ended(task_id)
        assert (task.state, task.attempt_count) == (TaskState.SUCCEEDED, 1)
        assert (await fleet.told(task_id)).count("task.succeeded") == 1
        assert len(await fleet.members["one"].node.events(types="turn.queued")) == 2


async def test_a_task_ends_once_although_its_database_was_killed(
    postgres: PostgreSQL, postgres_url: str, tmp_path: Path
) -> None:
    """It ends in the one attempt, or in a further one, where the outage was longer than a turn's lease."""
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, postgres_url, model, nodes=NODES, conductors=("lead",)) as fleet,
    ):
        task_id = await holding(fleet)
        postgres.kill()
        model.release("gate")
        model.release("second")
        postgres.start()
        task = await fleet.ended(task_id)
        assert task.state is TaskState.SUCCEEDED
        states = [attempt.state for attempt in await fleet.attempts(task_id)]
        assert states.count(AttemptState.SUCCEEDED) == 1
        told = await fleet.told(task_id)
        assert (told.count("task.succeeded"), told.count("attempt.ended")) == (1, len(states))
