"""codexd is killed at random, and its keeper and its child in turn, on the real Codex; an outsider keeps the account.

    python -m tests.proof.crashloop --kills 200 --seed 7 --json

A third of the kills fall into codexd's start, a third under load, a third within 5 ms after an acknowledgement. After
every third one the child or the keeper is killed too, while codexd serves or while there is none. At the end every
event that a reader was given must be in the log and the other way round, byte for byte, and every turn that was
answered 202 must have ended once. Exit code 1 if a figure is not what it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import msgspec
import psutil

from baa.scripted import Run, Say, ScriptedModel, when
from tests.proof.account import ENDS, Account, Event, Seen, digest, lost
from tests.proof.figures import Figure, percentile, told
from tests.proof.followers import follow_socket, follow_sse, read_log
from tests.support.keeper_client import alive, environment_of
from tests.support.node import MARKER, Node, moment, until, within
from tests.support.oracle import numbered, seq_of

SESSIONS = 4
STEADY, WORKING = 120, 60
SCENARIOS = (
    when("steady", Say.numbered(STEADY, pace_ms=6)),
    when("working", Run("echo one; echo two"), Say.numbered(WORKING, pace_ms=6)),
    when("leaving", Run("setsid sleep 86411 & (sleep 86412 &) & echo left"), Say.numbered(WORKING, pace_ms=6)),
)
KINDS = (("steady", STEADY), ("steady", STEADY), ("steady", STEADY), ("working", WORKING), ("leaving", WORKING))
PHASES = ("startup", "load", "ack")
STRIKES = ("child beside codexd", "keeper beside codexd", "child without codexd", "keeper without codexd")
SETTLE_S = 180.0
SAY_EVERY = 10


class Below(NamedTuple):
    """A keeper that lives, the number of its generation, and its child."""

    generation: int
    keeper: int
    child: int


class CrashLoop:
    """One node's life under kills. `figures` once it has run; `why` says what does not hold."""

    def __init__(self, node: Node, model: ScriptedModel, *, kills: int, seed: int) -> None:
        self.node = node
        self.figures: list[Figure] = []
        self.why: list[str] = []
        self._model = model
        self._kills = kills
        self._seed = seed
        self._rng = random.Random(seed)
        self._account = Account()
        self._readers = [Seen(f"{kind} {number}") for number in (1, 2) for kind in ("WebSocket", "SSE")]
        self._recoveries: list[float] = []
        self._done: Counter[str] = Counter()
        self._ended = asyncio.Event()
        self._acked = asyncio.Event()
        self._enough = asyncio.Event()

    async def run(self) -> None:
        """All of it. Raises AssertionError for what ends the loop before it can be judged."""
        async with asyncio.TaskGroup() as tasks:
            following = [
                tasks.create_task(follow(self.node, reader, taker), name=reader.name)
                for reader, follow, taker in zip(
                    self._readers, [follow_socket, follow_sse] * 2, [self._take, *[_ignore] * 3], strict=True
                )
            ]
            posters = [tasks.create_task(self._post(number), name=f"poster {number}") for number in range(SESSIONS)]
            await self._kill_all()
            self._enough.set()
            async with asyncio.timeout(SETTLE_S):
                await asyncio.wait(posters)
                await self._caught_up()
            for each in following:
                each.cancel()
        await self._judge()

    # --- the posters

    async def _post(self, number: int) -> None:
        """One session, one turn after the other, each asked for again with its key after it ended."""
        session_id = await self._answered(self._session)
        count = 0
        while not self._enough.is_set():
            kind, pieces = self._rng.choice(KINDS)
            key = f"{kind} {number}:{count}"
            self._account.expected[key] = numbered(pieces)
            ask = partial(self._turn, session_id, key)
            turn = self._account.turns[await self._answered(ask)]
            while not turn.ends:
                await self._ended.wait()
            await self._answered(ask)
            count += 1

    async def _session(self) -> str | None:
        body = {"cwd": str(self.node.work), "sandbox": "danger-full-access"}
        answer = await self.node.post("/v1/codexd/sessions", body)
        return answer.json()["data"]["session"]["sessionId"] if _given(answer, 201) else None

    async def _turn(self, session_id: str, key: str) -> str | None:
        answer = await self.node.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": key}, key=key)
        if not _given(answer, 202):
            return None
        turn_id: str = answer.json()["data"]["turn"]["turnId"]
        self._account.acks[key].add(turn_id)
        self._done["acks"] += 1
        self._acked.set()
        return turn_id

    async def _answered(self, ask: Callable[[], Awaitable[str | None]]) -> str:
        while True:
            await self.node.up()
            with suppress(httpx2.TransportError):
                answer = await ask()
                if answer is not None:
                    return answer
                await moment(0.1)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            self._account.see(event)
        if any(event.type in ENDS for event in events):
            ended, self._ended = self._ended, asyncio.Event()
            ended.set()

    # --- the kills

    async def _kill_all(self) -> None:
        """Each kill leaves no codexd, and the next phase says how far the next one comes."""
        phases = [PHASES[number % len(PHASES)] for number in range(1, self._kills + 1)]
        self._rng.shuffle(phases)
        began, died = time.monotonic(), None
        for number, phase in enumerate(phases, 1):
            strike = STRIKES[self._done["strikes"] % len(STRIKES)] if number // 3 > self._done["strikes"] else ""
            await self._reach(phase, died)
            if strike.endswith("beside codexd"):
                await self._strike(strike)
            died = time.monotonic()
            await self.node.kill()
            if strike.endswith("without codexd"):
                await self._strike(strike)
            self._done["kills"] += 1
            self._done[phase] += 1
            if number % SAY_EVERY == 0:
                self._say(began)
        await self._reach("load", died)
        self._say(began)

    async def _reach(self, phase: str, died: float | None) -> None:
        """Start codexd, and let it come so far."""
        await self.node.spawn()
        if phase == "startup":
            await moment(self._rng.uniform(0, percentile(self._recoveries, 0.5) or 0.5))
            return
        await self.node.serves()
        if died is not None:
            self._recoveries.append(time.monotonic() - died)
        if phase == "ack":
            self._acked.clear()
            await within(self._acked.wait())
            await moment(self._rng.uniform(0, 0.005))
        else:
            await moment(self._rng.uniform(0, 0.7))

    async def _strike(self, strike: str) -> None:
        """SIGKILL the keeper or its child, if they are there; what they were doing may end otherwise than well."""
        below = self._below()
        if below is None:
            return
        self._account.hit.add(below.generation)
        with suppress(ProcessLookupError):
            os.kill(below.keeper if strike.startswith("keeper") else below.child, signal.SIGKILL)
            self._done["strikes"] += 1
            self._done[strike.partition(" ")[0]] += 1
        if strike.endswith("beside codexd"):
            await moment(self._rng.uniform(0, 0.7))

    def _below(self) -> Below | None:
        for lock in self.node.state.glob("keepers/*/lock"):
            with suppress(OSError, IndexError, ValueError, psutil.Error):
                keeper = int(lock.read_text().split()[0])
                for child in psutil.Process(keeper).children() if alive(keeper) else []:
                    if "app-server" in child.cmdline():
                        return Below(int(lock.parent.name.partition("-")[0]), keeper, child.pid)
        return None

    def _say(self, began: float) -> None:
        done, spent = self._done, time.monotonic() - began
        given = sum(len(reader.digests) for reader in self._readers)
        print(
            f"kills {done['kills']}/{self._kills} (child {done['child']}, keeper {done['keeper']}) · "
            f"events {given:,} · turns {len(self._account.acks)} · "
            f"recovery p50 {percentile(self._recoveries, 0.5):.2f} s · {int(spent) // 60}:{int(spent) % 60:02}",
            file=sys.stderr,
            flush=True,
        )

    # --- the verdict

    async def _caught_up(self) -> None:
        head = (await self.node.status())["log"]["head"]
        while any(seq_of(reader.cursor) < head for reader in self._readers):
            await moment(0.05)

    async def _judge(self) -> None:
        node, account, done = self.node, self._account, self._done
        kept = {msgspec.json.decode(raw, type=Event).seq: digest(raw) for raw in await read_log(node)}
        below = self._below()
        assert below is not None, "there is no child in the end"
        strangers = {pid for pid in node.left() if _marker(pid) not in (_marker(below.child), None)}
        assert await node.stop() == 0, node.stderr
        with suppress(AssertionError):
            await until(lambda: not node.left())
        strangers |= set(node.left())
        asked = Counter(request.prompt for request in self._model.requests if not request.outputs)
        missing = lost(kept, self._readers)
        given, turns = sum(len(reader.digests) for reader in self._readers), len(account.turns)
        left_by = sum(key.startswith("leaving") for key in account.acks)
        flaws = [flaw for reader in self._readers for flaw in reader.flaws]
        self.why = [
            *flaws,
            *(f"lost: the 202 of {key}" for key in account.acks_lost()),
            *(f"two ends: {turn_id}" for turn_id in account.turns_with(2)),
            *(f"no end: {turn_id}" for turn_id in account.turns_with(0)),
            *(f"done twice: {key}" for key in account.done_twice(asked)),
            *(f"disturbed: {what}" for what in account.disturbed()),
            *(f"orphan: {pid}" for pid in strangers),
        ]
        figure = partial(Figure, seed=self._seed)
        self.figures = [
            figure("kills_of_codexd", done["kills"], "kills", done["kills"], must=self._kills),
            *(figure(f"kills_in_{phase}", done[phase], "kills", done["kills"]) for phase in PHASES),
            figure("kills_of_child", done["child"], "kills", done["strikes"]),
            figure("kills_of_keeper", done["keeper"], "kills", done["strikes"]),
            figure("events_lost", missing + len(flaws), "events", given, must=0),
            figure("acks_lost", len(account.acks_lost()), "answers", done["acks"], must=0),
            figure("deltas_lost", account.deltas_lost(), "deltas", account.deltas(), must=0),
            figure("deltas_twice", account.deltas_twice(), "deltas", account.deltas(), must=0),
            figure("turns_with_two_ends", len(account.turns_with(2)), "turns", turns, must=0),
            figure("turns_with_no_end", len(account.turns_with(0)), "turns", turns, must=0),
            figure("turns_done_twice", len(account.done_twice(asked)), "turns", turns, must=0),
            figure("turns_disturbed_by_codexd", len(account.disturbed()), "turns", turns, must=0),
            figure("turns_that_left_processes", left_by, "turns", turns),
            figure("orphans", len(strangers), "processes", done["kills"] + done["strikes"], must=0),
            figure("recovery_p50", percentile(self._recoveries, 0.5), "s", len(self._recoveries)),
            figure("recovery_p99", percentile(self._recoveries, 0.99), "s", len(self._recoveries)),
        ]


def _marker(pid: int) -> bytes | None:
    """By which all that one child started is known; None of a process that is gone."""
    marked = (entry for entry in environment_of(Path(f"/proc/{pid}/environ")) if entry.startswith(MARKER))
    return next(marked, None)


def _given(answer: httpx2.Response, wanted: int) -> bool:
    """Whether it is what was asked for; a 503 says to come again."""
    assert answer.status_code in {wanted, 503}, answer.text
    return answer.status_code == wanted


def _ignore(_: list[Event]) -> None:
    """Its reader keeps the digests; one account of the turns is enough."""


async def crashloop(folder: Path, *, kills: int, seed: int) -> CrashLoop:
    """Run it in this folder."""
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url) as node:
        loop = CrashLoop(node, model, kills=kills, seed=seed)
        await loop.run()
    return loop


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how often codexd is killed (200)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of all that chance decides")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    print(f"crashloop --kills {given.kills} --seed {given.seed}", file=sys.stderr, flush=True)
    folder = tempfile.mkdtemp(prefix="baa-crashloop-")
    loop = asyncio.run(crashloop(Path(folder) / "node", kills=given.kills, seed=given.seed))
    print(told(loop.figures, as_json=given.json))
    if all(figure.holds for figure in loop.figures):
        shutil.rmtree(folder)
        return 0
    print("\n".join(loop.why[:50]), f"\nAll of it is kept in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
