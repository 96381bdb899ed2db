"""The queue's tables under any order of what leaders, workers and users do, with a clock that the test moves.

Whatever happens: a task that ended stays ended until it is retried, at most one attempt of a task is open, at most one
result is accepted, nobody who lost an attempt changes anything, and the events have no gap.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baa.api.conductor import NodeState
from baa.api.errors import Rejected
from baa.api.tasks import ATTEMPT_ENDED, TASK_ENDED, AttemptState, SubmitTask, TaskState
from baa.engine.decide import USAGE_LIMIT
from baa.engine.store import Engine, Fenced, Lost, open_engine
from tests.support.engines import HASH, TTL, TURN_LEASE, Machine, node

NODES = ("a", "b")
WAYS = sorted(ATTEMPT_ENDED)
some_node = st.sampled_from(NODES)
nth = st.integers(0, 7)


class Queue(RuleBasedStateMachine):
    """Two nodes, two leaders, a few tasks; `zombies` are incarnations that were followed by another or given up."""

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
        self.accepted: dict[str, str] = {}

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.engine.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def owner(self, name: str, back: int = 0) -> str:
        return f"{name}-{self.lives[name] - back}"

    def attempt(self, n: int) -> str | None:
        """The newest attempt of a task."""
        if not self.tasks:
            return None
        task_id = self.tasks[n % len(self.tasks)]
        count = self.do(self.engine.task(task_id)).attempt_count
        return f"{task_id}:{count}" if count else None

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

    @rule(name=some_node)
    def drain(self, name: str) -> None:
        self.do(self.engine.drain(name))

    @rule(ms=st.sampled_from((100, TTL // 2, TTL, TURN_LEASE)))
    def wait(self, ms: int) -> None:
        self.machine.now += ms

    @rule()
    def reboot(self) -> None:
        self.machine.boot += "'"
        self.machine.now = 1_000_000

    @rule(name=st.sampled_from(("x", "y")))
    def lead(self, name: str) -> None:
        lease = self.do(self.engine.acquire("leader", holder=name, node_id=name, ttl_ms=TTL))
        assert lease.term >= max(self.terms.values()), "terms never go back"
        self.terms[lease.holder] = lease.term

    @precondition(lambda self: len(self.tasks) < 4)
    @rule(attempts=st.integers(1, 2), depends=st.booleans())
    def submit(self, attempts: int, depends: bool) -> None:
        needs = self.tasks[-1:] if depends else []
        request = SubmitTask(prompt="x", cwd="/w", max_attempts=attempts, depends_on=needs)
        self.tasks.append(self.do(self.engine.submit(request, key=None, body_hash=HASH))[0].task_id)

    @rule(name=st.sampled_from(("x", "y")), where=some_node, n=nth)
    def assign(self, name: str, where: str, n: int) -> None:
        waiting = self.do(self.engine.schedulable(10))
        if self.tasks:
            task_id = (
                waiting.tasks[n % len(waiting.tasks)].task_id if waiting.tasks else self.tasks[n % len(self.tasks)]
            )
            try:
                given = self.do(self.engine.assign(self.terms[name], task_id, where))
            except Fenced:
                return
            assert self.terms[name] == max(self.terms.values()), "only the newest term writes"
            if given is not None:
                assert where in [each.node_id for each in waiting.nodes]

    @rule(name=st.sampled_from(("x", "y")))
    def reap(self, name: str) -> None:
        try:
            self.do(self.engine.reap(self.terms[name]))
        except Fenced:
            return
        assert self.terms[name] == max(self.terms.values()), "only the newest term writes"

    @rule(name=some_node, back=st.integers(0, 1), n=nth)
    def claim(self, name: str, back: int, n: int) -> None:
        attempt_id = self.attempt(n)
        if attempt_id is not None:
            task_id, _, number = attempt_id.rpartition(":")
            owner = self.owner(name, back)
            found = self.do(self.engine.claim(task_id, int(number), node_id=name, owner=owner))
            assert not (found and back), "a life that was followed by another one takes nothing up"

    @rule(name=some_node, back=st.integers(0, 1), n=nth, way=st.sampled_from(WAYS), park=st.sampled_from((0, 0, 1, 2)))
    def finish(self, name: str, back: int, n: int, way: AttemptState, park: int) -> None:
        attempt_id = self.attempt(n)
        if attempt_id is None:
            return
        task_id = attempt_id.rpartition(":")[0]
        before = self.do(self.engine.task(task_id))
        reason = USAGE_LIMIT if park == 2 else None
        until = self.machine.utc_ms() + 100 if park else None
        finish = self.engine.finish(self.owner(name, back), attempt_id, way, reason=reason, park_until_ms=until)
        try:
            task = self.do(finish)
        except Lost:
            assert self.do(self.engine.task(task_id)) == before, "who lost the attempt changed nothing"
            return
        assert not back
        if before.attempts[-1].state in ATTEMPT_ENDED:
            assert task == before, "the same again is the same"
        elif way is AttemptState.SUCCEEDED:
            assert task_id not in self.accepted
            assert task.state is TaskState.SUCCEEDED
            self.accepted[task_id] = attempt_id

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
        events, head = self.do(self.engine.events(0, 10_000))
        assert [event.seq for event in events] == list(range(1, head + 1))


Queue.TestCase.settings = settings(max_examples=25, stateful_step_count=30)
TestQueue = Queue.TestCase
