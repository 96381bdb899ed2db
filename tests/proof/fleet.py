"""Three nodes and two conductors on one PostgreSQL, killed, stopped and restarted at random while they work off tasks.

    python -m tests.proof.fleet --tasks 60 --seconds 60 --seed 7 --json

Every worker, codexd and conductor may be hit: SIGKILL, SIGSTOP for a while (longer than a turn's lease, too) or
SIGTERM. What ended is started again after a moment, as its service would. Then all of it is let run until every task
has ended. Exit code 1 if a figure is not what it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from baa.api.tasks import AttemptState, Task, TaskState
from baa.scripted import Run, Say, ScriptedModel, when
from tests.proof.figures import Figure, percentile, told
from tests.support.fleet import TTL_MS, Fleet, a_fleet
from tests.support.node import Node, moment
from tests.support.postgres import PostgreSQL, database_of, missing
from tests.support.programs import Program

NODES = ("one", "two", "three")
CONDUCTORS = ("lead", "standby")
BLOWS = ("kill", "stop", "restart")
ENDS = frozenset({"task.succeeded", "task.failed", "task.canceled"})
SCENARIOS = (
    when("Your last turn was cut off", Run("echo again >> result"), Say.numbered(20, pace_ms=50)),
    when("job", Run("echo work >> result"), Say.numbered(20, pace_ms=50)),
)
LEFT_BECAUSE_IT_LOST = 75
SETTLE_S = 300.0
AWAY_S = 2.0
STOPPED_S = 3 * TTL_MS / 1000
MANY = 100  # attempts and turns: no task shall fail for want of them


class FleetProof:
    """One fleet's life under blows. `figures` once it has run; `why` says what does not hold."""

    def __init__(self, fleet: Fleet, *, tasks: int, seconds: float, seed: int) -> None:
        self.figures: list[Figure] = []
        self.why: list[str] = []
        self._fleet = fleet
        self._tasks = tasks
        self._seconds = seconds
        self._seed = seed
        self._rng = random.Random(seed)
        self._done: Counter[str] = Counter()
        self._busy: set[str] = set()
        self._enough = asyncio.Event()
        self._programs = {f"worker {name}": member.worker for name, member in fleet.members.items()}
        self._programs |= {f"conductor {name}": program for name, program in fleet.conductors.items()}
        self._nodes = {f"codexd {name}": member.node for name, member in fleet.members.items()}

    async def run(self) -> None:
        """All of it. Raises TimeoutError where tasks have not ended long after the last blow."""
        async with asyncio.TaskGroup() as group:
            keeping = [group.create_task(self._keep(name), name=name) for name in self._programs]
            submitting = group.create_task(self._submit(), name="submitting")
            await self._strike()
            task_ids = await submitting
            last = time.monotonic()
            ended = [await self._fleet.ended(task_id, SETTLE_S) for task_id in task_ids]
            settled = time.monotonic() - last
            self._enough.set()
            await asyncio.wait(keeping)
        await self._judge(ended, settled)

    async def _submit(self) -> list[str]:
        """The tasks, over most of the time in which blows fall."""
        found = []
        for number in range(self._tasks):
            found.append(
                await self._fleet.submitted(
                    f"job-{number}", f"job {number}", "test -s result", attempts=MANY, turns=MANY
                )
            )
            await moment(self._seconds * 0.8 / self._tasks)
        return found

    async def _keep(self, name: str) -> None:
        """Start a program again whenever it has ended, by a blow or because it had lost its node."""
        program = self._programs[name]
        while not self._enough.is_set():
            if program.returncode is None:
                await moment(0.1)
                continue
            if (code := (await program.ended())[0]) == LEFT_BECAUSE_IT_LOST:
                self._done["left"] += 1
            elif code not in {0, -signal.SIGKILL, -signal.SIGTERM}:  # the last one: hit before it could listen
                self.why.append(f"{name} ended with {code}")
            await moment(self._rng.uniform(0, AWAY_S))
            with suppress(AssertionError):  # it was hit before it served
                await program.start()

    # --- the blows

    async def _strike(self) -> None:
        """Blow after blow, on whatever is not being hit already."""
        until = time.monotonic() + self._seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                await moment(self._rng.uniform(0.2, 1.5))
                victim = self._rng.choice([*self._programs, *self._nodes])
                blow = self._rng.choice(BLOWS)
                if victim not in self._busy:
                    self._busy.add(victim)
                    group.create_task(self._hit(victim, blow), name=f"{blow} {victim}")

    async def _hit(self, victim: str, blow: str) -> None:
        if victim in self._nodes:
            await self._hit_codexd(self._nodes[victim], blow)
        else:
            program = self._programs[victim]
            if program.returncode is not None:  # it is away
                self._busy.discard(victim)
                return
            await self._hit_program(program, blow)
        self._done[blow] += 1
        self._done[victim.partition(" ")[0]] += 1
        self._busy.discard(victim)

    async def _hit_program(self, program: Program, blow: str) -> None:
        if blow == "stop":
            program.signal(signal.SIGSTOP)
            await moment(self._rng.uniform(0.2, STOPPED_S))
            program.signal(signal.SIGCONT)
        else:
            program.signal(signal.SIGKILL if blow == "kill" else signal.SIGTERM)

    async def _hit_codexd(self, node: Node, blow: str) -> None:
        if blow == "stop":
            node.signal(signal.SIGSTOP)
            await moment(self._rng.uniform(0.2, STOPPED_S))
            node.signal(signal.SIGCONT)
            return
        if blow == "kill":
            await node.kill()
        else:
            await node.stop()
        await moment(self._rng.uniform(0, AWAY_S))
        await node.start()

    # --- the verdict

    async def _judge(self, ended: list[Task], settled: float) -> None:
        tries, winners, not_once, written_twice = 0, 0, 0, 0
        for task in ended:
            attempts = await self._fleet.attempts(task.task_id)
            events = Counter(await self._fleet.told(task.task_id))
            results = sum(attempt.state is AttemptState.SUCCEEDED for attempt in attempts)
            tries += len(attempts)
            winners += results > 1
            not_once += sum(events[end] for end in ENDS) != 1
            written_twice += events["attempt.ended"] != len(attempts)
            if results > 1 or sum(events[end] for end in ENDS) != 1 or events["attempt.ended"] != len(attempts):
                self.why.append(f"{task.task_id}: {[attempt.state for attempt in attempts]} {dict(events)}")
        done = self._done
        blows = sum(done[blow] for blow in BLOWS)
        good = sum(task.state is TaskState.SUCCEEDED for task in ended)
        self.why += [f"{task.task_id} {task.state}: {task.reason}" for task in ended if not _succeeded(task)]
        waits = [float(task.time_ms) / 1000 for task in ended]
        figure = partial(Figure, seed=self._seed)
        self.figures = [
            *(figure(f"blows_{blow}", done[blow], "blows", blows) for blow in BLOWS),
            *(figure(f"blows_on_{what}", done[what], "blows", blows) for what in ("worker", "codexd", "conductor")),
            figure("workers_that_left_by_themselves", done["left"], "workers", blows),
            figure("tasks_lost", self._tasks - len(ended), "tasks", self._tasks, must=0),
            figure("tasks_not_ended_once", not_once, "tasks", len(ended), must=0),
            figure("tasks_with_two_results", winners, "tasks", len(ended), must=0),
            figure("tasks_with_an_attempt_not_ended_once", written_twice, "tasks", len(ended), must=0),
            figure("tasks_that_did_not_succeed", len(ended) - good, "tasks", len(ended), must=0),
            figure("attempts", tries, "attempts", len(ended)),
            figure("working_time_p50", percentile(waits, 0.5), "s", len(waits)),
            figure("all_ended_after_the_last_blow", round(settled, 1), "s", len(ended)),
        ]


def _succeeded(task: Task) -> bool:
    return task.state is TaskState.SUCCEEDED


async def fleet_proof(folder: Path, url: str, *, tasks: int, seconds: float, seed: int) -> FleetProof:
    """Run it in this folder, on this database."""
    async with (
        ScriptedModel(SCENARIOS) as model,
        a_fleet(folder, url, model, nodes=NODES, conductors=CONDUCTORS) as fleet,
    ):
        proof = FleetProof(fleet, tasks=tasks, seconds=seconds, seed=seed)
        await proof.run()
    return proof


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60, help="how many tasks (60)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long blows fall (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of all that chance decides")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 2
    print(f"fleet --tasks {given.tasks} --seconds {given.seconds:g} --seed {given.seed}", file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="baa-fleet-"))
    with PostgreSQL() as server, database_of(server) as url:
        proof = asyncio.run(fleet_proof(folder, url, tasks=given.tasks, seconds=given.seconds, seed=given.seed))
    print(told(proof.figures, as_json=given.json))
    if all(figure.holds for figure in proof.figures) and not proof.why:
        shutil.rmtree(folder)
        return 0
    print("\n".join(proof.why[:50]), f"\nAll of it is kept in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
