"""Sees to it that there is a child: meets the keeper that a dead codexd left, or spawns one, and follows it to its end.

It decides nothing about turns: it tells the main loop what happened, in the order in which it must be known. No child
is started before the old one is gone and all that it wrote is in the log.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import Final

import structlog

from baa import codex
from baa.api import events as e
from baa.api import ids
from baa.api.events import EventType
from baa.api.status import ChildState
from baa.clock import Clock, rfc3339
from baa.codexd import cgroups, installed, keepers, leftovers, orphans
from baa.codexd.appserver import lines
from baa.codexd.appserver.keeper_link import (
    Ended,
    Exit,
    KeeperLink,
    KeeperRefused,
    Started,
    Taken,
    Word,
    read_exit,
)
from baa.codexd.appserver.spool import Spool
from baa.codexd.appserver.translate import HandshakeFailed
from baa.codexd.eventlog import Transaction
from baa.codexd.generation import Generation
from baa.codexd.keepers import Setting
from baa.codexd.leftovers import Recorded
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.main_loop import MainLoop
from baa.codexd.succession import Ending, Succession
from baa.codexd.watch import Watch, Watching
from baa.config import LADDER_S

KEEPER_GONE_S: Final = 5.0
"""Seconds in which a keeper leaves once it has told its child's end."""

CHILD_GONE_S: Final = 5.0
"""Seconds in which a child ends after its keeper's death: it sees EOF, and Codex needs 0.1."""

ASKED: Final = "a restart was asked for"

_log = structlog.get_logger("supervisor")


class Supervisor:
    """The life of children, one after the other."""

    def __init__(self, loop: MainLoop, setting: Setting, watching: Watching, *, clock: Clock) -> None:
        """Nothing happens before `run`."""
        self._loop = loop
        self._setting = setting
        self._clock = clock
        self.succession = Succession(loop, clock)
        self.watch = Watch(
            loop, watching, setting.server_command, clock, end=self.end_child, replace=self._want_another
        )
        self._past = orphans.Past()
        self._stopping = asyncio.Event()
        self.decided = asyncio.Event()
        self._generation: Generation | None = None
        self._spawned: subprocess.Popen[bytes] | None = None
        self._ending = asyncio.Event()
        self._replacing: str | None = None
        self._replace = asyncio.Event()
        self.child_started_at: str | None = None
        self.refused_version: str | None = None  # of the last child, if codexd would not work with it
        loop.on_ready = self.watch.ready.set
        loop.on_handshake_failed = self._handshake_failed
        loop.on_useless = lambda why: self._end_child(Ending(why))

    @property
    def generation(self) -> Generation | None:
        """The child that there is, if there is one."""
        return self._generation

    async def take_over(self, left: Generation | None) -> None:
        """What the last codexd left: meet its keeper and read on, or put down how its child ended.

        Call it once, before `run`. Raises KeeperNewer.
        """
        swept = await leftovers.sweep(self._setting.keepers, None if left is None else left.folder)
        for pid in swept.ended:
            _log.warning("keeper.ended", pid=pid, why="it is not the recorded one")
        over = self._loop.log.reader().execute("SELECT keeper_id FROM generation WHERE ended_at IS NOT NULL")
        self._past.add(*(keeper_id for (keeper_id,) in over), *swept.keeper_ids)
        went_back = self._loop.log.went_back
        if went_back is None and swept.newest > self._loop.child.generation:  # each is in the log before its folder
            went_back = "the log knows only older children than there were"
        if left is None:
            if went_back is not None:
                await self._say_log_went_back(went_back)
            return
        self._loop.change_child(ChildChange.START, generation=left.number)
        left.started = self._clock.monotonic()
        left.program = keepers.program_of(left.folder)
        link = await keepers.meet(left)
        told_more = link is not None and (link.hello.taken > left.lines or link.hello.spool < left.spool.offset)
        if went_back is None and (told_more or left.spool.missing):
            went_back = "the log is older than what its child's keeper holds"
        if went_back is not None:
            await self._part_with(left, link, went_back)
        elif link is None:
            await self._bury(left, seen=False)
        else:
            await self._adopt(left, link)
            self.decided.set()

    async def run(self) -> None:
        """Keep a child running until `stop`."""
        while not self._stopping.is_set():
            if self._generation is None:
                await self.succession.pause()
                if self._loop.draining:  # a child that died while codexd drains is the last one
                    await self._stopping.wait()
                elif not self._stopping.is_set():
                    await self._begin()
            else:
                await self._follow(self._generation)
        if self._generation is not None:
            await self.stop()  # again: a child that was being started had no link when it was said first
            await self._follow(self._generation)
        if self._loop.child.state is not ChildState.STOPPED:
            await self._loop.change(lambda _: self._loop.change_child(ChildChange.END))

    async def stop(self, *, at_once: bool = False) -> None:
        """End the child, by the ladder or at once; `run` returns when it is gone."""
        self._stopping.set()
        self.succession.wake()
        generation = self._generation
        if generation is not None and generation.link is not None:
            generation.link.orphan_ms(0)
            generation.link.end_child(at_once=at_once)

    # --- a new child

    async def _begin(self) -> None:
        left = await asyncio.to_thread(self._past.end)
        if left:
            await self.succession.unavailable(f"{orphans.told(left)} codexd looks again every few seconds.")
            self.decided.set()
            return
        try:
            found = installed.look(self._setting.server_command)
        except codex.NoProgram as missing:
            await self.succession.unavailable(str(missing))
            self.decided.set()
            return
        if not self.succession.worth_trying(found):
            return
        number = self._loop.child.generation + 1
        keeper_id = ids.new_id(ids.KEEPER, self._clock.utc_ms())
        folder = self._setting.keepers / f"{number}-{keeper_id}"
        generation = Generation(number, keeper_id, folder, Spool(folder / "spool", 0), self._clock, program=found)
        generation.started = self._clock.monotonic()

        def decide(transaction: Transaction) -> None:
            self._loop.change_child(ChildChange.START, generation=number)
            generation.begin(transaction)

        await self._loop.change(decide)
        self.decided.set()
        self.watch.ready.clear()
        try:
            self._spawned = keepers.spawn(generation, found.path, self._setting)
        except OSError as error:  # too many processes or descriptors, no space: all of that passes
            generation.told = Exit(keeper_died=False, reason=f"its keeper cannot be started: {error}")
            await self._bury(generation)
            return
        link = await keepers.meet(generation, self._spawned)
        if link is None:
            await self._bury(generation)
            return
        generation.link = link
        self._use(generation)
        if self.succession.ending is None:
            link.start()
        else:
            link.end_child()

    # --- the child of a dead codexd

    async def _adopt(self, left: Generation, link: KeeperLink) -> None:
        """Read all that the hello promised, before anything is sent or said to be ready."""
        left.reading = False
        self._use(left)
        while left.spool.read_to < link.hello.spool:
            await self._loop.change(lambda transaction: self._loop.ingest(left, transaction))
        adopted = e.Child(generation=left.number, pid=link.hello.child_pid, codex_version=left.version)

        def decide(transaction: Transaction) -> None:
            left.reading = True
            if left.was_ready and not self._loop.child.ready:
                self._loop.became_ready(transaction, EventType.CHILD_ADOPTED, adopted)
            elif link.hello.child_pid is not None:
                transaction.events.append(NewEvent(EventType.CHILD_ADOPTED, None, None, adopted))
                if left.child_pid is None:  # the last codexd died between the birth and the handshake
                    left.born(transaction, link.hello.child_pid, leftovers.start_of(link.hello.child_pid))
                    left.send(transaction, lines.handshake(left.next_number, self._setting.version))

        age_s = leftovers.age_of(left.child_start) or 0.0
        self.child_started_at = rfc3339(self._clock.utc_ms() - round(age_s * 1000))
        await self._loop.change(decide)
        link.orphan_ms(self._setting.orphan_ms)
        left.give_again(self._loop.log.reader(), self._loop.log.seal, link)
        self._loop.tell_lease()
        if link.hello.state == "waiting":
            link.start()

    async def _part_with(self, left: Generation, link: KeeperLink | None, went_back: str) -> None:
        """End a child whose past is not in the log, and only then say so: it must not be met again by the new epoch."""
        if link is not None:
            link.end_child(at_once=True)
            async for _ in link.words():
                pass
        await self._say_log_went_back(went_back)
        await self._bury(left, seen=link is not None)

    async def _say_log_went_back(self, why: str) -> None:
        """It is another log from here on, and what its open turns did since the copy was made cannot be told."""
        _log.error("log.went_back", why=why)

        def decide(transaction: Transaction) -> None:
            self._loop.log.change_epoch(transaction)
            self._loop.step_open(i.LogWentBack(why), transaction)

        await self._loop.change(decide)

    # --- a living child

    async def _follow(self, generation: Generation) -> None:
        """Hear the keeper out, until its child is dead and the spool is read."""
        while generation.link is not None:
            link = generation.link
            try:
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self.watch.run(generation, link.hello.pid), name="watch")
                    replace = tasks.create_task(self._replace_when_idle(), name="replace")
                    insist = tasks.create_task(self._insist(), name="insist")
                    link.listen(self._loop.wake)
                    async for word in link.words():
                        await self._heard(word, generation)
                        if isinstance(word, Ended):
                            break
                    watch.cancel()
                    replace.cancel()
                    insist.cancel()
            except* KeeperRefused as refused:
                _log.error("keeper.refused", why=str(refused.exceptions[0]))
            await link.close()
            generation.link = None
            told = generation.told or read_exit(generation.folder)
            if told is None and leftovers.keeper_of(generation.folder) is not None:
                again = await keepers.meet(generation)
                if again is not None:
                    generation.give_again(self._loop.log.reader(), self._loop.log.seal, again)
                    self._loop.tell_lease()
                    if self.succession.ending is not None:
                        again.end_child()
        await self._bury(generation)

    async def _heard(self, word: Word, generation: Generation) -> None:
        match word:
            case Taken(number):
                generation.taken = number
            case Started(pid):
                await self._started(generation, pid)
            case Ended(told):
                generation.told = told

    async def _started(self, generation: Generation, pid: int) -> None:
        if generation.child_pid is not None:
            return
        start = leftovers.start_of(pid)
        self.child_started_at = rfc3339(self._clock.utc_ms())

        def decide(transaction: Transaction) -> None:
            generation.born(transaction, pid, start)
            born = e.Child(generation=generation.number, pid=pid)
            transaction.events.append(NewEvent(EventType.CHILD_STARTED, None, None, born))
            generation.send(transaction, lines.handshake(generation.next_number, self._setting.version))

        await self._loop.change(decide)

    def _handshake_failed(self, told: HandshakeFailed) -> None:
        reason = told.why if told.hopeless else f"it refused the handshake: {told.why}"
        self.refused_version = told.codex_version
        self._end_child(Ending(reason, hopeless=told.hopeless))

    async def end_child(self, ending: Ending) -> None:
        """End the child that there is, by the ladder, and say why. The first reason stands."""
        await self._loop.change(lambda _: self._end_child(ending))

    def _end_child(self, ending: Ending) -> None:
        loop, generation = self._loop, self._generation
        if loop.child.state not in (ChildState.STARTING, ChildState.READY):
            return
        loop.change_child(ChildChange.RETRY)  # at once: it is handed nothing more
        self.succession.ending = ending
        self._ending.set()
        if generation is not None and generation.link is not None:
            generation.link.end_child()

    async def _insist(self) -> None:
        """A keeper that does not end its child when it is told to is ended itself: the child sees that, and goes."""
        await self._ending.wait()
        await asyncio.sleep(LADDER_S)
        await self.end_keeper()

    async def restart(self, *, force: bool) -> None:
        """Another child in place of this one: when nothing runs, or at once. A child that failed is tried anew.

        The wish is kept in memory only: a codexd that dies before it came true forgets it.
        """

        def decide(_: Transaction) -> None:
            if force:
                self._end_child(Ending(ASKED, meant=True))
            elif self._loop.child.ready:
                self._want_another(ASKED)
            self.succession.begin_anew()

        await self._loop.change(decide)

    def _want_another(self, why: str) -> None:
        self._replacing = self._replacing or why
        self._replace.set()

    async def _replace_when_idle(self) -> None:
        await self._replace.wait()
        while True:
            head = self._loop.log.head
            await self._loop.change(lambda _: self._replace_if_idle())
            if not self._replace.is_set():
                return
            await self._loop.log.wait_past(head)

    def _replace_if_idle(self) -> None:
        loop = self._loop
        if self._replacing is not None and loop.child.ready and not loop.running() and not loop.sessions.questions:
            self._end_child(Ending(self._replacing, meant=True))
        if not loop.child.ready:
            self._replace.clear()
            self._replacing = None

    def _use(self, generation: Generation) -> None:
        self.refused_version = None
        self._generation = generation
        self._loop.use(generation)

    # --- a dead child

    async def _bury(self, generation: Generation, *, seen: bool = True) -> None:
        """Read the spool to its end, then put down how the child ended, and with it what became of its turns.

        `seen`: its end was seen as it happened, so it is known how long it lived.
        """
        generation.link = None
        lived_s = leftovers.age_of(generation.child_start)
        if lived_s is None:
            lived_s = self._clock.monotonic() - generation.started
        told = generation.told or read_exit(generation.folder)
        told = told or Exit(keeper_died=True, reason="its keeper died")
        self.succession.judge(told, lived_s, stopping=self._stopping.is_set())
        self._loop.use(None)
        child = Recorded(generation.child_pid or 0, generation.child_start)
        await self._see_it_gone(child)
        await self._see_keeper_gone(generation)
        await self._end_rest(generation, child)
        while generation.spool.read_to < generation.spool.size():
            await self._loop.change(lambda transaction: self._loop.ingest(generation, transaction))
        uptime_ms = round(lived_s * 1000) if generation.child_pid is not None and seen else None

        def decide(transaction: Transaction) -> None:
            stopping = self._stopping.is_set()
            self.succession.put_down(generation, told, uptime_ms=uptime_ms, stopping=stopping, transaction=transaction)

        await self._loop.change(decide)
        self._generation = None
        self._ending.clear()
        self._replacing = None
        self._replace.clear()
        generation.spool.close()
        shutil.rmtree(generation.folder, ignore_errors=True)

    async def _see_keeper_gone(self, generation: Generation) -> None:
        """Its work is done. One that does not leave is ended, or its folder would never be free."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            try:
                await asyncio.to_thread(spawned.wait, KEEPER_GONE_S)
            except subprocess.TimeoutExpired:
                spawned.kill()
                await asyncio.to_thread(spawned.wait)
            return
        keeper = leftovers.keeper_of(generation.folder)
        if keeper is not None and not await keeper.gone(KEEPER_GONE_S):
            await leftovers.end_keeper(keeper, at_once=True)

    async def _end_rest(self, generation: Generation, child: Recorded) -> None:
        """What it started and left: nothing of it may live on, whether another child follows or not."""
        await asyncio.to_thread(cgroups.end, generation.folder)
        self._past.add(generation.keeper_id, child=child)
        left = await asyncio.to_thread(self._past.end)
        if left:
            _log.error("orphans.left", pids=[process.pid for process in left], generation=generation.number)

    async def end_keeper(self) -> None:
        """For a stop that takes too long: end a keeper that does not do what it is told, and with it its child."""
        keeper = None if self._generation is None else leftovers.keeper_of(self._generation.folder)
        if keeper is not None:
            _log.error("keeper.ended", pid=keeper.pid, why="it did not end its child")
            await leftovers.end_keeper(keeper, at_once=True)

    async def _see_it_gone(self, child: Recorded) -> None:
        if await child.gone(CHILD_GONE_S):
            return
        _log.error("child.killed", pid=child.pid, why="it outlived its keeper")
        child.kill()
        await child.gone(CHILD_GONE_S)
