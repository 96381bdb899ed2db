"""Two nodes reach their PostgreSQL by a cable each; that of the working one is pulled, and put in again.

A real network of the kernel's: PostgreSQL is in a namespace of its own, and there is no other way to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baa.api.tasks import AttemptState, TaskState
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.fleet import a_fleet
from tests.support.network import Network, missing
from tests.support.node import within
from tests.support.postgres import PostgreSQL, database_of
from tests.support.postgres import missing as no_postgres

pytestmark = pytest.mark.timeout(240)

NODES = ("one", "two")
LEFT_BECAUSE_IT_LOST = 75
SCENARIOS = (
    when("An earlier attempt at this task ended as lost", Run("echo two >> result"), (Hold("second"), Say("Went on."))),
    when("toil", Run("echo one >> result"), (Hold("gate"), Say("Done."))),
    when("quick", Run("echo one >> result"), Say("Quick.")),
)


@pytest.fixture
def network() -> Iterator[Network]:
    if (reason := missing() or no_postgres()) is not None:
        pytest.skip(reason)
    with Network(*NODES, "others") as found:
        yield found


@pytest.fixture
def url(network: Network) -> Iterator[str]:
    """The database as the conductor and the test reach it."""
    with (
        PostgreSQL(listen="*", address=network.address("others"), inside=network.pid) as server,
        database_of(server) as found,
    ):
        yield found


async def test_a_worker_cut_off_has_no_turn_when_the_other_begins_and_writes_nothing_when_it_is_healed(
    network: Network, url: str, tmp_path: Path
) -> None:
    urls = {name: url.replace(f"@{network.address('others')}:", f"@{network.address(name)}:") for name in NODES}
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(tmp_path, url, model, nodes=NODES, conductors=("lead",), urls=urls) as fleet,
    ):
        task_id = await fleet.submitted("work", "toil", "grep -c . result")
        await within(model.held("gate"))
        away = await fleet.worker_of(task_id)
        (queued,) = await away.node.events(types="turn.queued")
        network.cut(away.name)
        await within(model.held("second"))
        other = await fleet.worker_of(task_id)
        assert other is not away
        ended = await away.node.ledger(queued["turnId"])
        assert (ended["status"], ended["reason"]) == ("interrupted", "lease_expired")
        (begun,) = await other.node.events(types="turn.queued")
        assert ended["endedAt"] < begun["at"], "never two at once"
        before = (await fleet.attempts(task_id))[0]
        assert before.state is AttemptState.LOST
        network.heal(away.name)
        assert (await away.worker.ended())[0] == LEFT_BECAUSE_IT_LOST
        model.release("second")
        task = await fleet.ended(task_id)
        first, second = await fleet.attempts(task_id)
        assert (task.state, first) == (TaskState.SUCCEEDED, before), "it wrote nothing"
        assert (second.state, second.node_id) == (AttemptState.SUCCEEDED, other.name)
        told = await fleet.told(task_id)
        assert (told.count("attempt.ended"), told.count("task.succeeded")) == (2, 1)
        assert len(await away.node.events(types="turn.queued")) == 1
        await away.worker.start()
        again = await fleet.asked(prompt="quick", cwd=str(fleet.folder / "work"), node=away.name)
        assert (await fleet.ended(again)).state is TaskState.SUCCEEDED, "healed, and started anew, it works again"
