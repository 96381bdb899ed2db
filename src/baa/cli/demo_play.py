"""The steps of the demo, and what is checked at each."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import psutil

from baa import __version__
from baa.api.errors import BaaError, CannotStart
from baa.api.events import Event, EventType
from baa.api.sessions import CreateSession, ItemStatus, Sandbox, StartTurn, Turn, TurnStatus
from baa.api.status import ChildStatus
from baa.cli import demo_script as script
from baa.cli.demo_reader import OutsideReader
from baa.cli.demo_result import Result
from baa.cli.demo_sandbox import probe
from baa.cli.demo_show import Show
from baa.cli.demo_stage import Stage
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.scripted import ScriptedModel, codex_config

TURN_MS: Final = 60_000
KILLED: Final = -9
WORDS_MIN: Final = 20
"""Deltas from which on an answer counts as streamed: it was said word by word."""

FAILURES: Final = (BaaError, CannotStart, Unreachable, TimeoutError, OSError, subprocess.SubprocessError)


class Play:
    """One run on its stage; what it finds goes to `result`."""

    def __init__(self, stage: Stage, show: Show, result: Result, *, keep: Callable[[str], None] | None = None) -> None:
        """`keep`: is told the address of a codexd that then runs until this is cancelled."""
        self._keep = keep
        self.stage = stage
        self.show = show
        self.result = result
        self.reader = OutsideReader(self._came)
        self.codexd: Codexd
        self.model: ScriptedModel
        self.session_id = ""

    async def play(self) -> None:
        """All steps. What goes wrong is in the result."""
        try:
            async with ScriptedModel(script.SCENARIOS) as self.model:
                sandbox = await self._choose_sandbox()
                config = self.stage.configure(codex_config(self.model.base_url), sandbox)
                address = await self.stage.start_codexd()
                async with Codexd(config) as self.codexd, asyncio.TaskGroup() as tasks:
                    reading = tasks.create_task(self.reader.follow(self.codexd), name="outside reader")
                    await self._begin(address, sandbox)
                    await self._ask()
                    await self._mend()
                    await self._count()
                    await self._close_the_log()
                    reading.cancel()
                    if self._keep is not None:
                        await self._leave_running(self._keep)
                await self._stop()
            self.result.finished = True
        except* FAILURES as failures:
            for error in _leaves(failures):
                self.result.failed(error)

    async def _choose_sandbox(self) -> Sandbox:
        self.show.line("The model is scripted; everything else is real.", style="bold", indent=0)
        self.show.heading(1, "A Codex, a codexd, and a git repository of their own")
        self.stage.make_repository(script.FILES)
        missing = await probe(self.stage.codex, self.stage.environment, self.stage.work)
        if missing is None:
            return Sandbox.WORKSPACE_WRITE
        self.show.line("Codex's sandbox cannot run here, so the demo goes on without it.", style="yellow")
        self.show.fact("cause", missing.cause, style="yellow")
        self.show.fact("cure", missing.cure, style="yellow")
        self.result.unreal = "The model was scripted, and there was no sandbox; everything else was real."
        return Sandbox.DANGER_FULL_ACCESS

    async def _begin(self, address: str, sandbox: Sandbox) -> None:
        ready = await self.reader.until(EventType.CHILD_READY, EventType.CHILD_CRASH_LOOP)
        if ready.type == EventType.CHILD_CRASH_LOOP:
            raise CannotStart(f"Codex does not stay up. {(await self.codexd.status()).child.problem}")
        version = ready.payload["codexVersion"]
        assert self.stage.codexd is not None
        self.show.fact("folder", str(self.stage.base))
        self.show.fact("model", f"scripted, {self.model.base_url}")
        self.show.fact("codexd", f"{__version__}, {address}, pid {self.stage.codexd.pid}")
        self.show.fact("Codex", f"{version}, pid {ready.payload['pid']}, {self.stage.codex}")
        self.show.fact("sandbox", f"{sandbox.value}{', no network' * (sandbox is Sandbox.WORKSPACE_WRITE)}")
        self.result.figures += [("codexd", __version__), ("Codex", version)]
        session = await self.codexd.create_session(CreateSession(cwd=str(self.stage.work), sandbox=sandbox))
        self.session_id = session.session_id
        self.show.fact("session", session.session_id)
        self.show.heading(2, "Two turns: an answer that streams, and a command, an edit, a command")

    async def _ask(self) -> None:
        turn = await self._whole_turn(script.ASK)
        deltas = self.reader.deltas(turn.turn_id)
        whole = "".join(deltas) == turn.final_message == script.ANSWER
        self.result.check(
            whole and len(deltas) >= WORDS_MIN,
            f"turn 1: the answer came in {len(deltas)} pieces that make it up exactly",
        )

    async def _mend(self) -> None:
        turn = await self._whole_turn(script.MEND)
        items = [msgspec.json.decode(item.item) for item in turn.items or [] if item.status is ItemStatus.COMPLETED]
        commands = [item for item in items if item["type"] == "commandExecution"]
        edits = [item for item in items if item["type"] == "fileChange"]
        before, after = ([item["exitCode"] for item in commands] + [None, None])[:2]
        told = len(commands) == 2 and "FAILED" in _output(commands[0]) and "ok: Hello, World!" in _output(commands[1])
        self.result.check(
            told and before == 1 and after == 0 and [edit["status"] for edit in edits] == ["completed"],
            f"turn 2: Codex ran the test (exit {before}), edited a file, ran the test again (exit {after})",
        )
        diff = self.stage.git("diff", "--unified=0").splitlines()
        changed = [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        on_disk = (self.stage.work / "greet.sh").read_text() == script.MENDED
        self.result.check(
            on_disk and changed == script.CHANGED and self.stage.git("status", "--porcelain") == " M greet.sh\n",
            "turn 2: the file on disk and `git diff` show that edit and no other",
        )

    async def _count(self) -> None:
        self.show.heading(3, "kill -9 codexd in the middle of a turn")
        started = await self.codexd.start_turn(StartTurn(session_id=self.session_id, prompt=script.COUNT))
        turn_id = started.turn.turn_id
        await self.reader.until_deltas(turn_id, script.SEEN_BEFORE)
        before = (await self.codexd.status()).child
        old, new = await self._kill_and_start(turn_id, before)
        turn = await self._end_of_turn(turn_id)
        after = (await self.codexd.status()).child
        deltas, meanwhile = self.reader.deltas(turn_id), self.reader.written_meanwhile()
        self.result.check(
            deltas == list(script.NUMBERS) and turn.final_message == "".join(script.NUMBERS),
            f"turn 3: {len(deltas)} of {len(script.NUMBERS)} deltas came, each exactly once and in order",
        )
        self.result.check(
            new != old and meanwhile > 0 and self.reader.connections > 1,
            f"turn 3: codexd was killed (pid {old}, now {new}); {meanwhile} of those deltas were written meanwhile",
        )
        self.result.check(
            (before.pid, before.generation) == (after.pid, after.generation) and after.generation == 1,
            f"Codex never noticed: pid {before.pid} before and {after.pid} after, generation {after.generation}",
        )

    async def _kill_and_start(self, turn_id: str, child: ChildStatus) -> tuple[int, int]:
        """The pids of the codexd that was killed and of the one that took over."""
        assert self.stage.codexd is not None
        old = self.stage.codexd.pid
        code = await self.stage.kill_codexd()
        self.result.check(code == KILLED and not psutil.pid_exists(old), f"codexd, pid {old}, is dead after kill -9")
        seen = len(self.reader.deltas(turn_id))
        self.show.line(f"kill -9 {old}: codexd is dead, after {seen} of {len(script.NUMBERS)} deltas", style="bold red")
        self.show.line(f"Codex (pid {child.pid}) works on; its keeper takes what it says", style="red")
        self.model.release(script.DEAD)
        await self.stage.start_codexd()
        new = self.stage.codexd.pid
        self.model.release(script.BACK)
        return old, new

    async def _close_the_log(self) -> None:
        reader = self.reader
        head = (await self.codexd.status()).log.head
        await reader.until_seq(head)
        self.result.check(
            reader.gaps == 0 and reader.repeats == 0 and len(reader.events) >= head,
            f"the outside reader: all {len(reader.events)} events of the log over {reader.connections} connections,"
            f" gaps {reader.gaps}, repeats {reader.repeats}",
        )
        self.result.figures += [
            ("events", f"{len(reader.events)} in the log"),
            ("gaps", f"{reader.gaps}, as the outside reader found"),
        ]

    async def _leave_running(self, keep: Callable[[str], None]) -> None:
        self.result.finished = True
        keep((await self.codexd.status()).daemon.address)
        await asyncio.Event().wait()

    async def _stop(self) -> None:
        started = self.stage.processes()
        code = await self.stage.stop_codexd()
        left = await asyncio.to_thread(self.stage.processes_left, started)
        self.result.check(
            code == 0 and len(started) >= 3 and not left,
            f"SIGTERM ends codexd with exit {code}; of {len(started)} processes (codexd, its keeper, Codex)"
            f" {len(left)} are left",
        )

    def _came(self, event: Event) -> None:
        """Show an event; of the daemon's own, what they mean here."""
        self.show.event(event)
        if event.type == EventType.DAEMON_STARTED and event.seq > 1:
            self.show.line(f"codexd is started again, pid {event.payload['pid']}", style="green")
        if event.type == EventType.CHILD_ADOPTED:
            meanwhile = self.reader.written_meanwhile()
            told = (
                f"it adopted the running Codex, pid {event.payload['pid']}: {meanwhile} deltas were written meanwhile"
            )
            self.show.line(told, style="green")

    async def _whole_turn(self, prompt: str) -> Turn:
        started = await self.codexd.start_turn(StartTurn(session_id=self.session_id, prompt=prompt))
        return await self._end_of_turn(started.turn.turn_id)

    async def _end_of_turn(self, turn_id: str) -> Turn:
        """The ledger, once the turn has ended and the outside reader has seen its end."""
        turn = await self.codexd.turn(turn_id, wait_ms=TURN_MS)
        await self.reader.until_ended(turn_id)
        self.result.turns.append((turn.prompt, turn, len(self.reader.deltas(turn_id))))
        self.result.check(turn.status is TurnStatus.COMPLETED, f"turn {len(self.result.turns)}: {turn.status.value}")
        return turn


def _output(item: dict[str, Any]) -> str:
    return item["aggregatedOutput"] or ""


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
