"""A whole small world: codexd's deciding half on real files, beside a keeper and a Codex of a few lines.

Everything may die at any moment. One seed decides all that chance would (but for how far the disk has come). What
the supervisor does with processes is done here without them; main loop, machines, log, spool and outbox are real.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import apsw
import msgspec

from baa.api import events as e
from baa.api.errors import Code, Rejected, Unavailable
from baa.api.events import EventType
from baa.api.ids import SESSION, TURN, new_id
from baa.api.interactions import AnswerInteraction
from baa.api.sessions import ApprovalPolicy, OnBusy, Sandbox, SessionSettings, TurnRequest
from baa.clock import SystemClock
from baa.codexd import restore
from baa.codexd.appserver import lines
from baa.codexd.appserver.keeper_link import Exit
from baa.codexd.appserver.spool import Spool
from baa.codexd.commands import Commands, TurnGone
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.generation import Generation
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Session
from baa.codexd.machines.turn import StopWish, TurnChange
from baa.codexd.main_loop import MainLoop
from baa.sqlite import open_reader
from tests.support.little_codex import Disk, LittleCodex, Message

STOPPED = StopWish(TurnChange.INTERRUPTED, "daemon_stopped")

SETTINGS = SessionSettings(cwd="/home/user", sandbox=Sandbox.WORKSPACE_WRITE, approval_policy=ApprovalPolicy.NEVER)
GARBAGE = (b"panicked\n", b"\xff\xfe\n", b"\n", b"[1]\n", b'{"method":"turn/started","params":{}}\n')
HAPPENINGS = {
    "session": 1,
    "turn": 4,
    "take": 12,
    "go on": 30,
    "spool": 12,
    "read": 10,
    "look": 4,
    "answer": 4,
    "garbage": 0.5,
    "stop": 0.3,
    "interrupt": 1,
    "die": 1,
}
REFUSALS = {Code.TURN_IN_PROGRESS, Code.IDEMPOTENCY_MISMATCH, Code.CHILD_UNAVAILABLE}


@dataclass
class Keeper:
    """The child and its keeper: the lines taken, and what the child wrote that is not yet in the spool."""

    folder: Path
    codex: LittleCodex
    taken: int = 0
    pipe: bytearray = field(default_factory=bytearray)
    spool: bytearray = field(default_factory=bytearray)
    begun: int = 0
    child_lives: bool = True
    lives: bool = True


@dataclass
class Codexd:
    """A codexd while it lives."""

    log: EventLog
    loop: MainLoop
    commands: Commands
    looks: list[i.LookForLeft] = field(default_factory=list)
    generation: Generation | None = None


class World:
    """The world of one seed. `run` lets it live; what it keeps afterwards is for the test to judge."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.path = folder / "log.sqlite3"
        self.rng = random.Random(seed)
        self.disk = Disk()
        self.keeper: Keeper | None = None
        self.sessions = list[str]()
        self.turns = list[str]()
        self.spooled = defaultdict[str, list[Message]](list)
        self.deaths = Counter[str]()
        self._folder = folder
        self._copy = folder / "copy.sqlite3"
        self._segments = dict[Path, bytes]()  # that were there when the copy was made
        self._clock = SystemClock()
        self._mortal = True

    async def run(self, *, lives: int, steps: int) -> None:
        for _ in range(lives):
            async with self._codexd() as codexd:
                for _ in range(self.rng.randrange(steps)):
                    await self._something(codexd)
            for _ in range(self.rng.randrange(6)):
                self._meanwhile()
        await self._in_the_end()
        if self.keeper is not None:
            self._remember(self.keeper.spool)

    async def _in_the_end(self) -> None:
        """Nothing dies any more: every turn must end."""
        self._mortal = False
        async with self._codexd() as codexd:
            for _ in range(2000):
                if codexd.generation is None:
                    await self._begin(codexd)
                if not any(session.turns for session in codexd.loop.sessions.all.values()):
                    return
                self._take_lines(codexd)
                self._child_goes_on()
                self._spool_all()
                await self._read(codexd)
                await self._look(codexd)
            raise AssertionError("a turn never ended")

    # --- what happens

    async def _something(self, codexd: Codexd) -> None:
        if codexd.generation is None and self.rng.random() < 0.5:
            await self._begin(codexd)
        match self.rng.choices(
            [
                "session",
                "turn",
                "take",
                "go on",
                "spool",
                "read",
                "look",
                "answer",
                "garbage",
                "stop",
                "interrupt",
                "die",
            ],
            [1, 4, 12, 30, 12, 10, 4, 4, 0.5, 0.3, 1, 1],
        )[0]:
            case "session" if len(self.sessions) < 3:
                self.sessions.append(new_id(SESSION, self._clock.utc_ms()))
                await codexd.commands.create_session(self.sessions[-1], SETTINGS)
            case "turn" if self.sessions:
                await self._ask_for_a_turn(codexd)
            case "take":
                self._take_lines(codexd)
            case "read":
                await self._read(codexd)
            case "garbage" if self.keeper is not None and self.keeper.lives:
                self._write(self.rng.choice(GARBAGE))
            case "stop":
                await codexd.loop.change(lambda transaction: codexd.loop.step_open(_stopping, transaction))
            case "interrupt" if self.turns:
                with suppress(TurnGone):
                    await codexd.commands.interrupt(self.rng.choice(self.turns[-3:]))
            case "look":
                await self._look(codexd)
            case "answer":
                await self._answer(codexd)
            case "spool" if self.keeper is not None:
                self._spool(self.rng.randrange(len(self.keeper.pipe) + 1))
            case "die":
                self._meanwhile()
            case _:
                self._child_goes_on()
        if codexd.generation is not None and (self.keeper is None or not self.keeper.child_lives):
            await self._bury(codexd, codexd.generation)

    def _meanwhile(self) -> None:
        """What happens whether codexd lives or not."""
        if self.keeper is None or not self.keeper.child_lives:
            return
        match self.rng.choices(["go on", "spool", "child dies", "keeper dies"], [8, 8, 1, 1])[0]:
            case "go on":
                self._child_goes_on()
            case "spool":
                self._spool(self.rng.randrange(len(self.keeper.pipe) + 1))
            case "child dies" if self._mortal:
                self.deaths["child"] += 1
                self._spool_all()
                self.keeper.child_lives = False
            case "keeper dies" if self._mortal:
                self.deaths["keeper"] += 1
                self.keeper.lives = self.keeper.child_lives = False

    async def _look(self, codexd: Codexd) -> None:
        """What an interrupted turn left running is looked for; there never is anything."""
        while codexd.looks:
            wanted = codexd.looks.pop()
            session = codexd.loop.sessions.all[wanted.session_id]
            looked = i.LeftLooked(wanted.turn_id, {})
            await codexd.loop.change(partial(codexd.loop.step, session, looked))

    async def _answer(self, codexd: Codexd) -> None:
        questions = [each for session in codexd.loop.sessions.all.values() for each in session.questions]
        if questions:
            answer = AnswerInteraction(decision=self.rng.choice(["accept", "decline"]))
            await codexd.commands.answer(self.rng.choice(questions).interaction_id, answer, lambda *_: True)

    async def _ask_for_a_turn(self, codexd: Codexd) -> None:
        session_id, turn_id = self.rng.choice(self.sessions), new_id(TURN, self._clock.utc_ms())
        key = self.rng.choice([None, f"key-{self.rng.randrange(40)}"])
        body = self.rng.choice(["body", "body", "other"])
        on_busy = self.rng.choice([OnBusy.REJECT, OnBusy.ENQUEUE, OnBusy.INTERRUPT])
        try:
            answer = await codexd.commands.start_turn(
                session_id, turn_id, TurnRequest(prompt="go"), on_busy=on_busy, key=key, body_hash=body
            )
        except (Rejected, Unavailable) as refused:
            if refused.code not in REFUSALS:
                raise
        else:
            if answer.turn_id == turn_id:
                self.turns.append(turn_id)
            else:
                assert answer.turn_id in self.turns

    # --- the child's side

    def _take_lines(self, codexd: Codexd) -> None:
        """The keeper takes some of the lines that are committed, and the child hears them."""
        keeper, generation = self.keeper, codexd.generation
        if keeper is None or not keeper.child_lives or generation is None:
            return
        rows = codexd.log.reader().execute(
            "SELECT number, line FROM outbox WHERE generation = ? AND number > ? ORDER BY number LIMIT ?",
            (generation.number, keeper.taken, self.rng.randrange(1, 5)),
        )
        for number, line in list(rows):
            assert number == keeper.taken + 1, "a line is missing"
            keeper.taken = generation.taken = number
            generation.given = max(generation.given, number)
            self._write(*keeper.codex.hear(line))

    def _child_goes_on(self) -> None:
        if self.keeper is not None and self.keeper.child_lives and self.keeper.codex.running:
            self._write(*self.keeper.codex.go_on())

    def _write(self, *messages: Message | bytes) -> None:
        assert self.keeper is not None
        for message in messages:
            self.keeper.pipe += message if isinstance(message, bytes) else msgspec.json.encode(message) + b"\n"

    def _spool_all(self) -> None:
        if self.keeper is not None:
            self._spool(len(self.keeper.pipe))

    def _spool(self, size: int) -> None:
        assert self.keeper is not None
        with (self.keeper.folder / str(self.keeper.begun)).open("ab") as segment:
            segment.write(self.keeper.pipe[:size])
        self.keeper.spool += self.keeper.pipe[:size]
        del self.keeper.pipe[:size]
        if self.rng.random() < 0.2 and len(self.keeper.spool) > self.keeper.begun:
            self.keeper.begun = len(self.keeper.spool)
            (self.keeper.folder / str(self.keeper.begun)).touch()

    def _remember(self, spool: bytes | bytearray) -> None:
        """What of a dead child's words reached the spool: codexd must know of all of it, once."""
        for line in spool.split(b"\n")[:-1]:
            if line.startswith(b"{") and b'"turnId"' in line:
                message: Message = msgspec.json.decode(line)
                self.spooled[message["params"]["turnId"]].append(message)

    # --- codexd's side: what the supervisor would do

    @asynccontextmanager
    async def _codexd(self) -> AsyncIterator[Codexd]:
        """A codexd from its boot to its sudden end."""
        log = EventLog(self.path, clock=self._clock)
        loop = MainLoop(log, restore.restore(log.reader(), self._clock, log.seal), clock=self._clock)
        codexd = Codexd(log, loop, Commands(loop, clock=self._clock))
        loop.on_look = codexd.looks.append
        left = restore.living(log.reader(), self._folder, self._clock)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(loop.run(), name="main loop")
                failing = tasks.create_task(_fail_with(log), name="log")
                if left is not None:
                    await self._take_over(codexd, left)
                yield codexd
                if self._mortal and self.rng.random() < 0.5:
                    if self.rng.random() < 0.5:
                        await self._read_uncommitted(codexd)
                    self._copy_log()
                running.cancel()
                failing.cancel()
        finally:
            if codexd.generation is not None:
                codexd.generation.spool.close()
            await asyncio.to_thread(log.close)
        self._compare(codexd)
        if self._copy.exists():
            for leftover in self._folder.glob("log.sqlite3-*"):
                leftover.unlink()
            self._copy.replace(self.path)
            for segment, content in self._segments.items():
                if not segment.exists():
                    segment.write_bytes(content)

    async def _read_uncommitted(self, codexd: Codexd) -> None:
        """It reads what there is, and nobody waits: what it makes of that is gathered, or on its way, when it dies."""
        self._spool_all()
        codexd.loop.wake()
        for _ in range(self.rng.randrange(1, 5)):
            await asyncio.sleep(0)

    def _copy_log(self) -> None:
        """What is committed at this moment: what is still on its way to the disk is lost with this codexd."""
        with (
            closing(open_reader(self.path)) as log,
            closing(apsw.Connection(str(self._copy))) as copy,
            copy.backup("main", log, "main") as backup,
        ):
            backup.step()
        folder = None if self.keeper is None else self.keeper.folder
        self._segments = {} if folder is None else {segment: segment.read_bytes() for segment in folder.iterdir()}

    def _compare(self, codexd: Codexd) -> None:
        """Had it stopped in good order, the next one would begin just where it was."""
        with closing(open_reader(self.path)) as log:
            restored = restore.restore(log, self._clock, codexd.log.seal)
        alive = 0 if codexd.generation is None else codexd.generation.number
        assert durable(restored.sessions.values(), alive) == durable(codexd.loop.sessions.all.values(), alive)

    async def _take_over(self, codexd: Codexd, left: Generation) -> None:
        loop = codexd.loop
        codexd.generation = left
        loop.change_child(ChildChange.START, generation=left.number)
        if self.keeper is None:  # codexd died before it was spawned
            await self._bury(codexd, left)
            return
        if not self.keeper.lives or not self.keeper.child_lives:
            await self._bury(codexd, left)
            return
        left.reading = False
        loop.use(left)
        left.taken = self.keeper.taken
        while left.spool.read_to < left.spool.size():
            await loop.change(lambda transaction: loop.ingest(left, transaction))

        def decide(transaction: Transaction) -> None:
            left.reading = True
            if left.was_ready and not loop.child.ready:
                loop.became_ready(transaction, EventType.CHILD_ADOPTED, e.Child(generation=left.number))
            elif left.child_pid is None:
                left.born(transaction, 1, "")
                left.send(transaction, lines.handshake(left.next_number, "0"))

        await loop.change(decide)

    async def _begin(self, codexd: Codexd) -> None:
        loop = codexd.loop
        number = loop.child.generation + 1
        folder = self._folder / f"{number}"
        generation = Generation(number, "kpr", folder, Spool(folder / "spool", 0), self._clock)

        def start(transaction: Transaction) -> None:
            loop.change_child(ChildChange.START, generation=number)
            generation.begin(transaction)

        await loop.change(start)
        codexd.generation = generation
        self.keeper = None
        if self._mortal and self.rng.random() < 0.05:
            return  # and codexd, or the keeper, dies at once
        (folder / "spool").mkdir(parents=True)
        (folder / "spool" / "0").touch()
        self.keeper = Keeper(folder / "spool", LittleCodex(self.disk, self.rng))
        loop.use(generation)
        if self._mortal and self.rng.random() < 0.05:
            return

        def born(transaction: Transaction) -> None:
            generation.born(transaction, 1, "")
            generation.send(transaction, lines.handshake(generation.next_number, "0"))

        await loop.change(born)

    async def _read(self, codexd: Codexd) -> None:
        if codexd.generation is not None:
            codexd.loop.wake()
        await codexd.loop.change(lambda _: None)

    async def _bury(self, codexd: Codexd, generation: Generation) -> None:
        loop, keeper = codexd.loop, self.keeper
        give_up = self.rng.random() < 0.1
        loop.change_child(ChildChange.GIVE_UP if give_up else ChildChange.RETRY)
        loop.use(None)
        while generation.spool.read_to < generation.spool.size():
            await loop.change(lambda transaction: loop.ingest(generation, transaction))
        lives = keeper is not None and keeper.lives
        told = Exit(keeper_died=not lives, taken=keeper.taken if keeper is not None and lives else None)

        def put_down(transaction: Transaction) -> None:
            exited = e.Child(generation=generation.number)
            transaction.events.append(NewEvent(EventType.CHILD_EXITED, None, None, exited))
            loop.died(generation, told.taken, told.keeper_died, transaction)
            if give_up:
                loop.step_open(i.NoChildToAsk("crash loop"), transaction)
            generation.end(transaction, told)

        await loop.change(put_down)
        generation.spool.close()
        codexd.generation = self.keeper = None
        if keeper is not None:
            self._remember(keeper.spool)


def _stopping(session: Session) -> i.Input:
    return i.StopTurn("" if session.running is None else session.running.turn_id, STOPPED)


async def _fail_with(log: EventLog) -> None:
    await log.failed


def durable(sessions: Iterable[Session], alive: int) -> dict[str, Session]:
    """What of the sessions must survive codexd: what was asked of a dead child is over with it."""
    return {
        session.session_id: replace(
            session,
            opening_in=session.opening_in if session.opening_in == alive else 0,
            asking_in=session.asking_in if session.asking_in == alive else 0,
            turns=tuple(
                replace(
                    turn,
                    open_items=tuple(sorted(turn.open_items)),
                    done_items=tuple(sorted(turn.done_items)),
                    cleaning_in=turn.cleaning_in if turn.cleaning_in == alive else 0,
                    looking=False,  # the next codexd looks anew
                )
                for turn in session.turns
            ),
        )
        for session in sessions
    }
