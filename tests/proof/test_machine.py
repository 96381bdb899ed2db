"""What clients, killers, operators and a full disk may do, in any order, on a real codexd and the real Codex.

Beside it runs a model of a few lines: which turn each key has, which turns were interrupted or lost their child, and
the events as they were read first. BAA_TEST_SEED has a run again; BAA_MACHINE_EXAMPLES and BAA_MACHINE_STEPS make more.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from baa.scripted import Run, Say, when
from tests.proof.life import Life
from tests.support.asking import TURN, act, refusal_of
from tests.support.disk import needs_disk
from tests.support.node import PATIENCE_SECONDS, Json
from tests.support.oracle import deltas, flaws_of, numbered, seq_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the machine looks at /proc"),
    needs_disk,
    pytest.mark.timeout(1200),
]

EXAMPLES = int(os.environ.get("BAA_MACHINE_EXAMPLES", "4"))
STEPS = int(os.environ.get("BAA_MACHINE_STEPS", "14"))
PIECES = 25
SCENARIOS = (
    when("spoken", Say.numbered(PIECES, pace_ms=4)),
    when("worked", Run("echo one; sleep 0.1; echo two"), Say.numbered(PIECES, pace_ms=4)),
)
SESSIONS = 2
FULL = [(507, "storage_full")]
ANY = st.integers(min_value=0, max_value=2**16)
DONE: Counter[str] = Counter()


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to the node and to the model, and holds the answers against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(SCENARIOS)
        self.node = self.life.node
        self.sessions: list[str] = []
        self.bodies: dict[str, Json] = {}
        self.turns: dict[str, str] = {}
        self.interrupted: set[str] = set()
        self.endangered: set[str] = set()
        self.read: list[Json] = []
        self.cursors = ["0"]
        self.draining = False
        self.full = False

    @initialize()
    def begin(self) -> None:
        self.sessions = [self.life.do(self.node.session()) for _ in range(SESSIONS)]
        self.post(0, "spoken")  # a run may leave out any rule, and one without a turn shows nothing

    # --- clients

    @rule(pick=ANY, word=st.sampled_from(["spoken", "worked"]))
    def post(self, pick: int, word: str) -> None:
        key = f"key {len(self.bodies)}"
        body = {"sessionId": self.sessions[pick % SESSIONS], "prompt": word, "onBusy": "enqueue"}
        self.bodies[key] = body
        self._post(key)

    def _post(self, key: str) -> None:
        answer = self.life.do(self.node.post(TURN, self.bodies[key], key=key))
        if self.draining and key not in self.turns:
            assert refusal_of(answer) in [(503, "draining"), *FULL[: self.full]]
            return
        if self.full and answer.status_code == 507:
            assert refusal_of(answer) in FULL
            DONE["answered 507"] += 1
            return
        assert answer.status_code == 202, answer.text
        turn_id = answer.json()["data"]["turn"]["turnId"]
        assert self.turns.setdefault(key, turn_id) == turn_id, "a key has one turn"
        DONE["answered 202"] += 1

    @precondition(lambda self: self.bodies)
    @rule(pick=ANY)
    def retry(self, pick: int) -> None:
        self._post(sorted(self.bodies)[pick % len(self.bodies)])

    @precondition(lambda self: self.turns)
    @rule(pick=ANY)
    def retry_with_another_body(self, pick: int) -> None:
        key = sorted(self.turns)[pick % len(self.turns)]
        answer = self.life.do(self.node.post(TURN, self.bodies[key] | {"prompt": "another"}, key=key))
        assert refusal_of(answer) == (422, "idempotency_mismatch")

    @precondition(lambda self: self.turns)
    @rule(pick=ANY)
    def interrupt(self, pick: int) -> None:
        turn_id = sorted(self.turns.values())[pick % len(self.turns)]
        answer = self.life.do(act(self.node, turn_id, "interrupt"))
        if answer.status_code == 202:
            self.interrupted.add(turn_id)
        else:
            assert refusal_of(answer) in [(409, "turn_ended"), *FULL[: self.full]]

    @rule(pick=ANY)
    def subscribe(self, pick: int) -> None:
        """From any place that was ever told, the events are those that were read first, and more."""
        cursor = self.cursors[pick % len(self.cursors)]
        came = self.life.do(self.node.events(cursor))
        at = 0 if cursor == "0" else seq_of(cursor)
        known = self.read[at:]
        assert came[: len(known)] == known
        self.read += came[len(known) :]
        assert [event["seq"] for event in self.read] == list(range(1, len(self.read) + 1))
        epoch = self.life.do(self.node.head()).partition(":")[0]
        self.cursors.append(f"{epoch}:{len(self.read)}")
        assert len({told.partition(":")[0] for told in self.cursors[1:]}) == 1, "it is one log"

    # --- killers and operators

    @rule()
    def kill_codexd(self) -> None:
        self.life.do(self.node.kill())
        self.life.do(self.node.start())
        self.draining = False
        DONE["kill of codexd"] += 1

    @precondition(lambda self: not self.full)  # the next child would wait for space, and its turns with it
    @rule(keeper=st.booleans())
    def kill_below(self, keeper: bool) -> None:
        """The turns that have not ended may suffer from this one."""
        self._endanger()
        keepers = self.node.keepers()
        for pid in keepers if keeper else set(self.node.running("app-server")) - set(keepers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                DONE["kill of keeper or child"] += 1

    def _endanger(self) -> None:
        for turn_id in self.turns.values():
            if not self.life.do(self.node.ledger(turn_id))["endedAt"]:
                self.endangered.add(turn_id)

    @precondition(lambda self: not self.draining)
    @rule()
    def drain(self) -> None:
        answer = self.life.do(self.node.post("/v1/codexd/status/drain", {}))
        self.draining = answer.status_code == 202
        assert self.draining or refusal_of(answer) in FULL[: self.full]
        DONE["drain"] += 1

    # --- the disk

    @precondition(lambda self: not self.full)
    @rule()
    def fill_the_disk(self) -> None:
        self.life.disk.fill()
        self.full = True
        DONE["full disk"] += 1

    @precondition(lambda self: self.full)
    @rule()
    def free_the_disk(self) -> None:
        """It is noticed by codexd itself, soon."""
        self.life.disk.clear()
        self.full = False
        self.life.do(self._notices())

    async def _notices(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.node.status())["log"]["state"] != "ok":
                await self.node.get("/v1/codexd/events", after=await self.node.head(), waitMs=100)

    # --- in the end

    def teardown(self) -> None:
        try:
            if self.sessions:
                self._judge()
        finally:
            self.life.end()

    def _judge(self) -> None:
        if self.full:
            self.free_the_disk()
        self.kill_codexd()
        for key in list(self.bodies):
            self._post(key)
        ends = {turn_id: self.life.do(self.node.end_of_turn(turn_id)) for turn_id in self.turns.values()}
        self.subscribe(0)
        assert flaws_of(self.read) == []
        queued = [
            event for event in self.read if event["type"] == "turn.queued" and not event["payload"].get("requeued")
        ]
        assert {event["payload"]["idempotencyKey"]: event["turnId"] for event in queued} == self.turns
        assert len(queued) == len(self.turns) == len(set(self.turns.values()))
        for turn_id, turn in ends.items():
            said = [delta for delta in deltas(self.read, turn_id) if delta.startswith("w")]
            whole = numbered(PIECES)
            assert said == whole[: len(said)], "nothing twice, nothing out of order"
            if turn["status"] == "completed" and turn_id not in self.endangered:
                assert said == whole
            if turn_id not in self.interrupted | self.endangered:
                assert turn["status"] == "completed", turn
        DONE["events"] += len(self.read)
        DONE["turns"] += len(ends)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_in_any_order_it_is_as_the_model_says() -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    machine: Any = hypothesis.seed(seed)(Machine)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            phases=[Phase.generate],  # a run in real time is not had again step by step, so it is not shrunk
            deadline=None,
            database=None,
            suppress_health_check=checks,
        ),
    )
    print(dict(DONE))
    assert DONE["turns"]
