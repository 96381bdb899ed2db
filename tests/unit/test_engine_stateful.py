"""The queue's tables under any order of what leaders, workers and users do, with a clock that the test moves.

Whatever happens: a task that ended stays ended until it is retried, at most one attempt of a task is open, at most one
result is accepted, nobody who lost an attempt changes anything, and the events have no gap.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from baa.api.conductor import NodeState
from baa.api.errors import Rejected
from baa.api.tasks import ATTEMPT_ENDED, TASK_ENDED, Attempt, AttemptState, SubmitTask, TaskState
from baa.engine.decide import USAGE_LIMIT
from baa.engine.store import Engine, Fenced, Lost, open_engine
from tests.support.engines import HASH, TTL, TURN_LEASE, Machine, node

NODES = ("a", "b")
WAYS = sorted(ATTEMPT_ENDED)
some_node = st.sampled_from(NODES)
leaders = st.sampled_from(("x", "x", "x", "y"))
ways = st.sampled_from(WAYS)
parks = st.sampled_from((0, 0, 0, 1, 2))
seldom = st.integers(0, 7).map(lambda number: number == 7)
nth = st.integers(0, 7)


class Queue(RuleBasedStateMachine):
    """Two nodes, two leaders, a few tasks; `zombies` are incarnations that were followed by another or given up."""

    seen: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="baa-engine-"))
        self.machine = Machine()
        self.runner = asyncio.Runner()
        self.engine: Engine = self.do(
            open_engine(
                self.folder / "e",
                clock=self.machine,
                now_ms=lambda: self.machine.now,
                boot_id=lambda: self.machine.boot,
            )
        )
        self.terms = {"x": 0, "y": 0}
        self.lives = dict.fromkeys(NODES, 0)
        self.tasks: list[str] = []
        self.told = 0
        self.accepted: dict[str, str] = {}
        self.claimed: dict[str, tuple[str, int]] = {}

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.engine.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def owner(self, name: str, back: int = 0) -> str:
        return f"{name}-{self.lives[name] - back}"

    def attempt(self, n: int) -> Attempt | None:
        """One of the tasks' newest attempts, an open one if there is any."""
        newest = [task.attempts[-1] for task_id in self.tasks if (task := self.do(self.engine.task(task_id))).attempts]
        some = [each for each in newest if each.state not in ATTEMPT_ENDED] or newest
        return some[n % len(some)] if some else None

    @initialize()
    def begin(self) -> None:
        for name in NODES:
            self.join(name)
        self.lead("x")

    @rule(name=some_node)
    def join(self, name: str) -> None:
        self.lives[name] += 1
        joined = node(name, self.owner(name))
        self.do(self.engine.register(joined, ttl_ms=TTL, turn_lease_ms=TURN_LEASE))

    @rule(name=some_node, back=st.integers(0, 1))
    def beat(self, name: str, back: int) -> None:
        heard = self.do(self.engine.heartbeat(name, self.owner(name, back), NodeState.ACTIVE, ttl_ms=TTL))
        assert not (heard and back), "a life that was followed by another one is over"

    @rule(name=some_node, really=seldom)
    def drain(self, name: str, really: bool) -> None:
        if really:
            self.do(self.engine.drain(name))

    @rule(ms=st.sampled_from((TTL // 2, TTL, TURN_LEASE, TTL + TURN_LEASE)))
    def wait(self, ms: int) -> None:
        self.machine.now += ms

    @rule()
    def live(self) -> None:
        """Half a lease passes in which everybody tells that he is there, or starts again."""
        self.machine.now += TTL // 2
        for name in NODES:
            if not self.do(self.engine.heartbeat(name, self.owner(name), NodeState.ACTIVE, ttl_ms=TTL)):
                self.join(name)
        self.lead("x")

    @rule(really=seldom)
    def reboot(self, really: bool) -> None:
        if really:
            self.machine.boot += "'"
            self.machine.now = 1_000_000

    @rule(name=leaders)
    def lead(self, name: str) -> None:
        lease = self.do(self.engine.acquire("leader", holder=name, node_id=name, ttl_ms=TTL))
        assert lease.term >= max(self.terms.values()), "terms never go back"
        self.terms[lease.holder] = lease.term

    @precondition(lambda self: len(self.tasks) < 8)
    @rule(attempts=st.integers(1, 2), depends=st.booleans())
    def submit(self, attempts: int, depends: bool) -> None:
        needs = self.tasks[-1:] if depends else []
        request = SubmitTask(prompt="x", cwd="/w", max_attempts=attempts, depends_on=needs)
        self.tasks.append(self.do(self.engine.submit(request, key=None, body_hash=HASH))[0].task_id)

    @precondition(lambda self: self.tasks)
    @rule(name=leaders, where=some_node, n=nth, blindly=seldom)
    def assign(self, name: str, where: str, n: int, blindly: bool) -> None:
        waiting = self.do(self.engine.schedulable(10))
        task_id = self.tasks[n % len(self.tasks)]
        if waiting.tasks and waiting.nodes and not blindly:
            task_id = waiting.tasks[n % len(waiting.tasks)].task_id
            where = waiting.nodes[n % len(waiting.nodes)].node_id
        try:
            given = self.do(self.engine.assign(self.terms[name], task_id, where))
        except Fenced:
            return
        assert self.terms[name] == max(self.terms.values()), "only the newest term writes"
        if given is not None:
            assert where in [each.node_id for each in waiting.nodes]
            self.seen.add("assigned")

    @rule(n=nth, resumes=st.booleans())
    def crash(self, n: int, resumes: bool) -> None:
        """A worker dies and starts again, and goes on with what it had, or does not come to it."""
        attempt = self.attempt(n)
        if attempt is not None:
            self.join(attempt.node_id)
            if resumes:
                self.claim(n, back=False)

    @rule(ms=st.sampled_from((TTL, TTL + TURN_LEASE)))
    def vanish(self, ms: int) -> None:
        """Nobody is heard for so long, and then a leader looks."""
        self.machine.now += ms
        self.lead("x")
        self.reap("x")

    @rule(name=leaders)
    def reap(self, name: str) -> None:
        held = {each.node_id: each.seen_at for each in self.do(self.engine.nodes()) if each.state is not NodeState.GONE}
        try:
            ended = self.do(self.engine.reap(self.terms[name]))
        except Fenced:
            return
        assert self.terms[name] == max(self.terms.values()), "only the newest term writes"
        for each in ended:
            owned = each.owner == self.owner(each.node_id)
            assert not (owned and each.node_id in held), "a worker that lives keeps what it runs"
            if owned and self.machine.boot == self.claimed.get(each.attempt_id, ("", 0))[0]:
                assert self.machine.now >= self.claimed[each.attempt_id][1] + TURN_LEASE, "its turn may still run"
            self.seen.add("reaped" if each.owner else "taken back")

    @rule(n=nth, back=seldom)
    def claim(self, n: int, back: bool) -> None:
        attempt = self.attempt(n)
        if attempt is None:
            return
        owner = self.owner(attempt.node_id, int(back))
        claim = self.engine.claim(attempt.task_id, attempt.number, node_id=attempt.node_id, owner=owner)
        found = self.do(claim)
        assert not (found and back), "a life that was followed by another one takes nothing up"
        if found:
            self.claimed[attempt.attempt_id] = (self.machine.boot, self.machine.now)
            self.seen.add("resumed" if attempt.owner not in (None, owner) else "claimed")

    @rule(n=nth, by=st.sampled_from(("owner", "owner", "owner", "last life", "stranger")), way=ways, park=parks)
    def finish(self, n: int, by: str, way: AttemptState, park: int) -> None:
        attempt = self.attempt(n)
        if attempt is None:
            return
        attempt_id, task_id, name = attempt.attempt_id, attempt.task_id, attempt.node_id
        if by == "stranger":
            name = next(each for each in NODES if each != name)
        owner = self.owner(name, by == "last life")
        before = self.do(self.engine.task(task_id))
        alive = {each.node_id for each in self.do(self.engine.nodes()) if each.incarnation == owner}
        reason = USAGE_LIMIT if park == 2 else None
        until = self.machine.utc_ms() + 100 if park else None
        finish = self.engine.finish(owner, attempt_id, way, reason=reason, park_until_ms=until)
        try:
            task = self.do(finish)
        except Lost:
            assert self.do(self.engine.task(task_id)) == before, "who lost the attempt changed nothing"
            self.seen.add("lost")
            return
        assert by == "owner"
        assert alive
        assert owner == attempt.owner, "only its owner ends it"
        if before.attempts[-1].state in ATTEMPT_ENDED:
            assert task == before, "the same again is the same"
        elif way is AttemptState.SUCCEEDED:
            assert task_id not in self.accepted
            assert task.state is TaskState.SUCCEEDED
            self.accepted[task_id] = attempt_id
            self.seen.add("succeeded")

    @precondition(lambda self: self.tasks)
    @rule(n=nth, again=st.booleans())
    def ask(self, n: int, again: bool) -> None:
        task_id = self.tasks[n % len(self.tasks)]
        with suppress(Rejected):
            self.do(self.engine.retry(task_id) if again else self.engine.cancel(task_id))

    @invariant()
    def whole(self) -> None:
        slots = dict.fromkeys(NODES, 0)
        for task_id in self.tasks:
            task = self.do(self.engine.task(task_id))
            opened = [each for each in task.attempts if each.state not in ATTEMPT_ENDED]
            assert len(opened) == (task.state is TaskState.RUNNING), "it runs as long as one attempt is open"
            assert [each.number for each in task.attempts] == list(range(1, task.attempt_count + 1))
            assert (task.ended_at is not None) == (task.state in TASK_ENDED)
            results = [each.attempt_id for each in task.attempts if each.state is AttemptState.SUCCEEDED]
            assert results == ([self.accepted[task_id]] if task_id in self.accepted else [])
            assert (task.state is TaskState.SUCCEEDED) == bool(results), "what succeeded stays so"
            for each in opened:
                slots[each.node_id] += 1
        assert max(slots.values()) <= 2, "no node has more than its slots"

    @invariant()
    def gapless(self) -> None:
        events, head = self.do(self.engine.events(self.told, 10_000))
        assert [event.seq for event in events] == list(range(self.told + 1, head + 1))
        self.told = head


def test_the_queue_in_any_order_of_things() -> None:
    """Small worlds, and the smallest one that breaks."""
    run_state_machine_as_test(Queue, settings=settings(max_examples=15, stateful_step_count=30))


@pytest.mark.parametrize("seed", range(2))
def test_a_long_walk_comes_to_all_that_can_happen(seed: int) -> None:
    chance = random.Random(seed)
    queue = Queue()
    queue.seen.clear()

    def n() -> int:
        return chance.randrange(8)

    def seldom_so() -> bool:
        return chance.random() < 0.1

    def submit() -> None:
        if len(queue.tasks) < 12:
            queue.submit(chance.randint(1, 2), seldom_so())

    def go() -> None:
        queue.live()
        queue.assign("x", chance.choice(NODES), n(), False)
        queue.claim(n(), False)

    steps: list[Callable[[], object]] = [
        go,
        go,
        go,
        submit,
        lambda: queue.assign(chance.choice("xxy"), chance.choice(NODES), n(), seldom_so()),
        lambda: queue.claim(n(), seldom_so()),
        lambda: queue.claim(n(), False),
        lambda: queue.finish(n(), chance.choice(("last life", "stranger")), chance.choice(WAYS), 0),
        lambda: queue.finish(n(), "owner", chance.choice(WAYS), n() % 3),
        lambda: queue.finish(n(), "owner", AttemptState.SUCCEEDED, 0),
        lambda: queue.crash(n(), chance.random() < 0.7),
        lambda: queue.vanish(chance.choice((TTL, TTL + TURN_LEASE))),
        lambda: queue.ask(n(), chance.random() < 0.8),
        lambda: queue.join(chance.choice(NODES)),
        lambda: queue.drain(chance.choice(NODES), seldom_so()),
        lambda: queue.reboot(seldom_so()),
        lambda: queue.lead(chance.choice("xxy")),
    ]
    try:
        queue.begin()
        for _ in range(150):
            (chance.choice(steps) if queue.tasks else submit)()
            queue.whole()
            queue.gapless()
    finally:
        queue.teardown()
    assert queue.seen == {"assigned", "claimed", "resumed", "reaped", "taken back", "lost", "succeeded"}
