"""codexd killed at the very call that matters: within a commit, at its sync, and before an answer or a frame leaves.

strace kills it on the way into its N-th such call, so that no point has to be built into codexd. What was not answered
may have happened or not; asked again with its key it has happened once.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from baa.scripted import Say, ScriptedModel, when
from tests.support.asking import retried
from tests.support.faults import saw
from tests.support.node import Node, within
from tests.support.oracle import Oracle, flaws_of, numbered

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not here: apt-get install strace"
    ),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

SCENARIOS = (when("short", Say.numbered(20)),)
SESSIONS = 2
LIVES = 3


async def work(node: Node, oracle: Oracle, number: int, enough: asyncio.Event) -> dict[str, str]:
    """One session, one turn after the other: the turns by the key they were asked with."""
    session_id = await retried(node, node.session)
    turns: dict[str, str] = {}
    while not enough.is_set():
        key = f"session {number} turn {len(turns)}"
        ask = partial(node.turn, session_id, "short", key=key)
        turns[key] = await retried(node, ask)
        await oracle.end_of(turns[key])
    return turns


@pytest.mark.parametrize(
    ("point", "call", "first", "last"),
    [
        ("within a commit", "pwrite64", 5, 250),
        ("at the sync of a commit", "fdatasync", 3, 50),
        ("before an answer or a frame", "sendto", 5, 70),
    ],
)
async def test_killed_at_this_point_it_comes_back_with_all_that_it_answered(
    tmp_path: Path, point: str, call: str, first: int, last: int
) -> None:
    seed = int(os.environ.get("BAA_TEST_SEED") or random.randrange(2**32))
    print(f"BAA_TEST_SEED={seed}")
    rng = random.Random(seed)
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.stop()  # its log is made, and its folders
        usual, enough, died = node.command, asyncio.Event(), 0
        async with Oracle(node) as oracle, asyncio.TaskGroup() as group:
            working = [group.create_task(work(node, oracle, n, enough), name=f"work {n}") for n in range(SESSIONS)]
            for _ in range(LIVES):
                kill = f"inject={call}:signal=SIGKILL:when={rng.randint(first, last)}"
                only = ("-P", f"{node.database}-wal") if call != "sendto" else ()
                traced = ("strace", "-D", "-f", "-b", "execve", "-qqq", "-o", os.devnull, *only)
                node.command = (*traced, "-e", f"trace={call}", "-e", kill, "--", *usual)
                node.doomed = True
                await node.spawn()
                with suppress(AssertionError):  # it may not come so far
                    await node.serves()
                died += await node.ended() == -signal.SIGKILL
            saw("F02", died == LIVES, f"codexd was killed {died} times {point} (seed {seed})")
            node.command, node.doomed = usual, False
            await node.start()
            enough.set()
            turns = [await within(working_) for working_ in working]
        answered = {key: turn_id for each in turns for key, turn_id in each.items()}
        events = await node.events()
        queued = [event for event in events if event["type"] == "turn.queued"]
        assert {event["payload"]["idempotencyKey"]: event["turnId"] for event in queued} == answered
        assert Counter(event["type"] for event in events)["turn.completed"] == len(queued) == len(answered)
        for turn_id in answered.values():
            assert oracle.deltas(turn_id) == numbered(20)
        assert flaws_of(events) == []
