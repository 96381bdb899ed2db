"""Bad input, by the thousand, to a real codexd and conductor: how much was tried, and that no server failed of it.

    python -m tests.proof.inputs --examples 1000 --seed 7 --json

Schemathesis tries every operation that `/openapi.json` describes: codexd's, on a node with sessions that are idle,
busy, asking and closed, whose Codex is the real one and must not die of it; and the conductor's, with tasks that wait,
failed and were canceled. Exit code 1 if a figure does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from baa.api.tasks import SubmitTask, TaskState
from baa.client.conductor import Conductor
from baa.config import load
from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.proof.figures import Figure, told
from tests.support import corpora
from tests.support.fuzz import Fuzzed, fuzz, operations
from tests.support.node import Json, Node, within
from tests.support.programs import Program

SCENARIOS: Final = (
    when("wait here", (Say("I am "), Hold("here"), Say("done."))),
    when("ask me", Run("touch x", sandbox_permissions="require_escalated", justification="May I?"), Say("So.")),
    when("", Say("Done.")),
)
BUSY, ASKING = 6, 4
SHOWN: Final = 20
LINES: Final = 20_000

LAST: Final = (
    # What ends sessions and children comes after the rest, which would meet nothing else.
    {"closeSession", "createSession", "startTurn", "readTurn", "interruptTurn"},
    {"restartChild"},
    {"drain"},
)
SLOW: Final = {"makeBackup", "restartChild", "drain"}
"""Operations that take a process each, or after which nothing goes: not in a short run."""


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Node, dict[str, list[str]]]]:
    """A node on which there is something to get wrong, and what exists there, by where requests name it."""
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url, ceiling="workspace-write") as node:
        await node.start()
        await node.child()
        sessions = [await node.session(sandbox="workspace-write") for _ in range(1 + BUSY)]
        asking = [await node.session(sandbox="workspace-write", approvalPolicy="on-request") for _ in range(ASKING)]
        turns = [(await node.play(sessions[0], "Begin."))["turnId"]]
        turns += [await node.turn(session_id, "wait here") for session_id in sessions[1:]]
        turns += [await node.turn(session_id, "ask me") for session_id in asking]
        await within(model.held("here", BUSY))
        questions = [await _question(node, session_id) for session_id in asking]
        known = {"sessionId": [*sessions, *asking], "turnId": turns, "interactionId": questions}
        yield (
            node,
            {
                **{f"path.{name}": values for name, values in known.items()},
                "query.sessionId": known["sessionId"],
                "body.sessionId": known["sessionId"],
                "body.cwd": [str(node.work)],
            },
        )


async def _question(node: Node, session_id: str) -> str:
    while not (found := (await node.session_of(session_id))["interactions"]):
        await node.get("/v1/codexd/events", after=await node.head(), waitMs=50)
    question: str = found[0]["interactionId"]
    return question


@dataclass
class Outcome:
    """What was tried at the door, and what became of those behind it."""

    fuzzed: Fuzzed = field(default_factory=Fuzzed)
    crashes: list[str] = field(default_factory=list)

    def figures(self, seed: int) -> list[Figure]:
        """What was tried, and what must not have come of it."""
        tried = self.fuzzed.tried
        return [
            Figure("bad_inputs_tried", tried, "requests", tried, seed),
            Figure("bad_inputs_5xx", self.fuzzed.failed, "answers", tried, seed, must=0),
            Figure("bad_inputs_crashes", len(self.crashes), "crashes", tried, seed, must=0),
            Figure("bad_inputs_leaks", len(self.fuzzed.leaks), "leaks", tried, seed, must=0),
            Figure("bad_inputs_flaws", len(self.fuzzed.flaws), "flaws", tried, seed, must=0),
        ]


async def outcome(folder: Path, *, seed: int, examples: int, short: bool = False) -> Outcome:
    """Every operation tried; codexd answers to the end, goes down in good order, and comes up again."""
    found = Outcome()
    async with stage(folder) as (node, known):
        document: Json = (await node.get("/openapi.json")).json()
        tokens = (node.token("drive"), node.token("read"))
        daemon_id = (await node.status())["daemon"]["daemonId"]
        restarted = False
        await corpora.try_all(found.fuzzed, node)
        found.crashes += _crashes(await node.status(), daemon_id, asked=False)
        found.crashes += await asyncio.to_thread(corpora.try_lines, found.fuzzed, seed, LINES)
        for names in (operations(document) - set().union(*LAST), *LAST):
            if not (names := names - SLOW if short else names):
                continue
            await asyncio.to_thread(
                fuzz,
                found.fuzzed,
                node.address,
                document,
                tokens[0],
                seed=seed,
                examples=examples,
                names=names,
                known=known,
                folder=folder / "copies",
                secrets=tokens,
            )
            restarted |= "restartChild" in names
            found.crashes += _crashes(await node.status(), daemon_id, asked=restarted)
        lines = [line for line in node.log.splitlines() if '"level":"error"' in line or "Traceback" in line]
        found.crashes += lines
        found.fuzzed.leaks += ["a token stands in the log of codexd" for token in tokens if token in node.log]
        assert await node.stop() == 0  # maybe a hand-over was announced: the next one takes what it left
        await node.start()
    await fuzz_the_queue(found, folder / "queue", seed=seed, examples=examples)
    return found


@asynccontextmanager
async def queue(home: Path) -> AsyncIterator[tuple[Program, dict[str, list[str]]]]:
    """A conductor that runs nothing itself, a node that is gone, and tasks in every state but those of a worker."""
    async with Program("conductor", home, BAA_WORKER_EMBEDDED="false") as program:
        found = load(environ=program.environment)
        async with Program("worker-runner", home) as worker, Conductor(found) as conductor:
            while not await conductor.nodes():
                await conductor.event_page(wait_ms=50)
            await worker.kill()
            canceled = await conductor.submit(SubmitTask(prompt="Do it.", cwd="/w"))
            tasks = [canceled.task_id]
            if canceled.state is TaskState.QUEUED:
                await conductor.cancel(canceled.task_id)
            for _ in range(2):
                wish = SubmitTask(prompt="Do it.", cwd="/w", depends_on=[canceled.task_id])
                tasks.append((await conductor.submit(wish)).task_id)  # fails, for what it waits for was canceled
                tasks.append((await conductor.submit(SubmitTask(prompt="Do it.", cwd="/w", node="no"))).task_id)
        yield program, {"path.taskId": tasks, "query.taskId": tasks, "path.nodeId": ["here"]}


async def fuzz_the_queue(found: Outcome, folder: Path, *, seed: int, examples: int) -> None:
    """Every operation of a conductor tried; it lives to the end and goes down in good order."""
    async with queue(folder / "baa") as (program, known):
        document: Json = (await program.ask("GET", "/openapi.json", token=program.token())).json()
        tokens = (program.token("drive"), program.token("read"))
        await asyncio.to_thread(
            fuzz,
            found.fuzzed,
            program.address,
            document,
            tokens[0],
            seed=seed,
            examples=examples,
            names=operations(document),
            known=known,
            folder=folder / "copies",
            secrets=tokens,
        )
        found.crashes += [line for line in program.log.splitlines() if '"level":"error"' in line or "Traceback" in line]
        found.fuzzed.leaks += ["a token stands in the log of the conductor" for token in tokens if token in program.log]
        assert (await program.stop())[0] == 0


def _crashes(status: Json, daemon_id: str, *, asked: bool) -> Iterator[str]:
    if status["daemon"]["daemonId"] != daemon_id:
        yield "codexd did not live"
    if (last := status["child"]["lastExit"]) is not None and not asked:
        yield f"Codex did not live: {last}"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="of each operation, at least (1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of all that chance decides")
    parser.add_argument("--short", action="store_true", help="without backups, restarts of the child, and drain")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(outcome(Path(folder), seed=given.seed, examples=given.examples, short=given.short))
    print(*found.fuzzed.flaws[:SHOWN], *found.fuzzed.leaks, *found.crashes, sep="\n", file=sys.stderr)
    for (name, status), count in sorted(found.fuzzed.answers.items()):
        print(f"{name} {status or 'no answer'} {count}", file=sys.stderr)
    figures = found.figures(given.seed)
    print(told(figures, as_json=given.json))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
