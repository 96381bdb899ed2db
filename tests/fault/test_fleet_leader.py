"""A leader frozen in the middle of a write, and machines whose wall clocks are set: nothing is done twice.

Real processes, the real Codex. Each test waits out a leader's lease or a turn's, seconds that nothing can shorten.
"""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from baa.api.tasks import TaskState
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.fleet import TTL_MS, Fleet, a_fleet
from tests.support.node import Json, moment, until, within

pytestmark = pytest.mark.timeout(240)

DAY_S = 86_400
SCENARIOS = (
    *(
        when(f"toil {gate}", Run("echo one >> result"), (Hold(gate), Say("Done.")))
        for gate in ("first", "forward", "back")
    ),
    when("quick", Run("echo one >> result"), Say("Quick.")),
)
ASSIGNING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%setting%'"


async def ended_once(fleet: Fleet, task_id: str) -> None:
    """It succeeded, in one attempt that was given and ended once."""
    task = await fleet.ended(task_id)
    assert (task.state, task.attempt_count) == (TaskState.SUCCEEDED, 1)
    told = await fleet.told(task_id)
    assert [told.count(each) for each in ("attempt.assigned", "attempt.ended", "task.succeeded")] == [1, 1, 1]


async def test_a_leader_frozen_in_the_middle_of_a_write_is_followed_and_writes_nothing_when_it_wakes(
    postgres_url: str, tmp_path: Path
) -> None:
    """The row that it reads last before it writes is held until it stands still: so it stands in its transaction."""
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, postgres_url, model, nodes=("one",), conductors=("lead", "standby"), slots=3) as fleet,
    ):
        frozen, other = fleet.conductors["lead"], fleet.conductors["standby"]
        running = await fleet.submitted("work", "toil first", "grep -c . result")
        await within(model.held("first"))
        with psycopg.connect(postgres_url) as holding, psycopg.connect(postgres_url, autocommit=True) as looking:
            holding.execute("SELECT * FROM baa.setting WHERE name = 'paused' FOR UPDATE")
            later = await fleet.submitted("later", "quick", "grep -c one result")
            await until(lambda: looking.execute(ASSIGNING).fetchone() == (1,))
            frozen.signal(signal.SIGSTOP)
            holding.rollback()
        try:
            role = await other.becomes("/rolez", lambda data: data["role"] == "leader")
            assert (role["leaderId"], role["term"]) == ("standby", 2)
            await ended_once(fleet, later)
            after = await fleet.submitted("after", "quick", "grep -c one result")
            await ended_once(fleet, after)
            written = frozen.log
        finally:
            frozen.signal(signal.SIGCONT)
        seen: list[str] = []

        def settled(data: Json) -> bool:
            seen.append(data["role"])
            return bool(data["leaderId"] == "standby")

        assert (await frozen.becomes("/rolez", settled))["term"] == 2
        assert "leader" not in seen, "not for a moment"
        model.release("first")
        await ended_once(fleet, running)
        assert '"event":"attempt.assigned"' not in frozen.log.removeprefix(written)
        saw("F78", seen, "a leader was frozen in the middle of a write, and woke when another led")
        assert len(await fleet.members["one"].node.events(types="turn.queued")) == 3


async def test_machines_whose_wall_clocks_are_set_a_day_forward_and_back_end_nothing_and_do_nothing_twice(
    engine_url: str, tmp_path: Path
) -> None:
    """Of the leader, of the worker and of its codexd, in the middle of a turn; heartbeats and leases go on."""
    moved = tmp_path / "moved"
    moved.write_text("0")
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, engine_url, model, nodes=("one",), conductors=("lead",), moved=moved) as fleet,
    ):
        node = fleet.members["one"].node
        for gate, seconds in (("forward", DAY_S), ("back", -DAY_S)):
            task_id = await fleet.submitted(gate, f"toil {gate}", "grep -c one result")
            await within(model.held(gate))
            before = await fleet.engine.nodes()
            moved.write_text(str(seconds))
            jumped = await within(_seen_after_jump(fleet, before[0].seen_at, seconds))
            (attempt,) = await fleet.attempts(task_id)
            assert attempt.turn_id is not None
            running = await node.ledger(attempt.turn_id, wait_ms=2 * TTL_MS + 500)  # longer than its lease
            assert running["status"] == "in_progress"
            assert jumped == before[0].incarnation
            model.release(gate)
            await ended_once(fleet, task_id)
        role = await fleet.conductors["lead"].get("/rolez")
        assert (role["role"], role["term"]) == ("leader", 1)
        assert len(await node.events(types="turn.queued")) == 2


async def _seen_after_jump(fleet: Fleet, before: str, seconds: int) -> str:
    """Who the node is, once it gave a sign of life by the clock that was set."""
    while True:
        (node,) = await fleet.engine.nodes()
        moved = datetime.fromisoformat(node.seen_at) - datetime.fromisoformat(before)
        if abs(moved.total_seconds()) > abs(seconds) / 2:
            return node.incarnation
        await moment(0.05)
