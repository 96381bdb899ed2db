"""The one place where state changes: inputs come in through a bounded inbox, are decided on, committed, then told.

Commands (HTTP), words of the supervisor and the child's lines all pass here, in one order. What a step wants done is
done after the commit of its events: a line for the child is committed with its effect and sent then; a caller is
answered then. Where codexd dies, the log says what was decided, the outbox what was still to be sent.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from baa.api import events as e
from baa.api.errors import Code, Rejected, Unavailable
from baa.api.events import TURN_ENDS, EventType
from baa.api.sessions import SessionSettings, TurnStatus
from baa.clock import Clock
from baa.codexd import deadlines
from baa.codexd.appserver import lines, translate
from baa.codexd.appserver.lines import Line
from baa.codexd.attached import Attached
from baa.codexd.deadlines import DUE, Due
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.generation import Generation
from baa.codexd.intake import Intake
from baa.codexd.keys import Key, Keys
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child, ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Session
from baa.codexd.machines.step import step
from baa.codexd.machines.turn import Turn
from baa.codexd.redacting import Private
from baa.codexd.registry import Registry
from baa.codexd.restore import Restored
from baa.codexd.timers import USUAL, Periods, Timers
from baa.codexd.walltime import WallTime

_log = structlog.get_logger("main_loop")

INBOX_MAX: Final = 1024
"""Commands waiting to be decided. One more is refused with 429: waiting longer would help nobody."""

CALL_S: Final = 10.0
"""Seconds for Codex to answer a caller's own question; 0.01 are usual."""

GAP_S: Final = 3.0
"""Seconds without a round that say that nobody ran: the loop moves each second, whatever happens."""

GRACE_S: Final = 10.0
"""Seconds after such a gap in which nothing is due: a renewal or an answer that was on its way arrives first."""

COMMANDS_A_ROUND: Final = 64
"""Commands decided between two looks at the spool, so that neither starves the other."""

_WITH_CODEX: Final = TURN_ENDS | {EventType.TURN_ACCEPTED}
"""The events with which it changes which turns are with Codex."""

_OVER: Final = TURN_ENDS | {
    EventType.SESSION_CLOSED,
    EventType.INTERACTION_RESOLVED,
    EventType.INTERACTION_EXPIRED,
}


@dataclass(slots=True)
class _Command:
    """Something to decide, in the order of the inbox. `new`: whether it is, and so refused when there is no space."""

    decide: Callable[[Transaction], None]
    answer: asyncio.Future[int]
    new: Callable[[], bool]


class MainLoop:
    """State and its one owner. All methods belong to the loop's thread."""

    def __init__(self, log: EventLog, restored: Restored, *, clock: Clock, periods: Periods = USUAL) -> None:
        """Start from what the tables held."""
        self.log = log
        self.sessions = Registry(restored.sessions.values())
        self.attached = Attached(self.sessions, log.reader)
        self.child = Child(generation=restored.generation)
        self.timers = Timers(clock)
        self.timers.restore(restored.timers)
        self.keys = Keys(log.reader)
        self.steering: dict[str, asyncio.Future[dict[str, Any] | None]] = {}
        self.periods = periods
        self.login_required = False
        self.logged_in: bool | None = None
        self.limits: dict[str, object] | None = None
        self.draining = False
        self.drained = False
        self.counted: Counter[str] = Counter()
        self.stamp = clock.monotonic()
        self.clock = clock
        self.calls: dict[str, asyncio.Future[translate.Called]] = {}
        self._clocks = False
        self._wall = WallTime(log.reader(), clock)
        self._held_until, self._behind = -math.inf, False
        self._lease_told = 0
        self._generation: Generation | None = None
        self._inbox: deque[_Command] = deque()
        self._wake, self._heard = asyncio.Event(), True
        self._rousing: asyncio.TimerHandle | None = None
        self.ingest = Intake(self).ingest
        self.may_open: Callable[[SessionSettings], SessionSettings] = lambda settings: settings
        self.may_hand: Callable[[i.HandTurn], i.HandTurn] = lambda hand: hand
        self.on_ready: Callable[[], None] = lambda: None
        self.on_handshake_failed: Callable[[translate.HandshakeFailed], None] = lambda _: None
        self.on_useless: Callable[[str], None] = lambda _: None
        self.on_look: Callable[[i.LookForLeft], None] = lambda _: None
        for session in restored.sessions.values():
            for due in deadlines.still_due(session):
                self._expect(due)
            for turn in session.turns:
                self._take_up(turn, restored.silent_ms.get(turn.turn_id))

    def _take_up(self, turn: Turn, silent_ms: int | None) -> None:
        """What an earlier codexd had begun with this turn goes on."""
        if turn.request.stall_ms is not None and silent_ms is not None:
            self.timers.watch_silence(turn.turn_id, turn.request.stall_ms, silent_ms)
        for steer in turn.steers:
            waiting = self.steering[steer.steer_id] = asyncio.get_running_loop().create_future()
            if steer.idempotency_key is not None and steer.body_hash is not None:
                key = Key(steer.body_hash, turn.turn_id, self.log.head, steered=True, steering=waiting)
                self.keys.use(steer.idempotency_key, key)

    # --- what others ask

    async def change(self, decide: Callable[[Transaction], None]) -> int:
        """For the supervisor: decide something about the child. Returns the seq before it, once it is durable."""
        return await self.ask(decide, bounded=False)

    async def settle(self) -> None:
        """Wait until all that was decided so far is durable."""
        await self.ask(lambda _: None, bounded=False)

    async def call(self, line: Callable[[int], Line]) -> translate.Called:
        """Ask the child something for a caller who waits. Raises Unavailable if there is no child, or it dies."""
        answer: asyncio.Future[translate.Called] = asyncio.get_running_loop().create_future()

        def decide(transaction: Transaction) -> None:
            self.calls[self.ask_child(transaction, line)] = answer

        await self.ask(decide)
        try:
            async with asyncio.timeout(CALL_S):
                return await answer
        except TimeoutError:
            raise Unavailable(Code.CHILD_UNAVAILABLE, f"Codex did not answer in {CALL_S:.0f} s. Try again.") from None

    def ask_child(self, transaction: Transaction, line: Callable[[int], Line]) -> str:
        """Send the child somebody's own question: the id of its answer. Raises Unavailable if there is no child."""
        if self._generation is None or not self.child.ready:
            raise Unavailable(Code.CHILD_UNAVAILABLE, "Codex does not run at the moment. Try again.")
        asking = line(self._generation.next_number)
        assert asking.request_id is not None
        self._generation.send(transaction, asking)
        return asking.request_id

    @property
    def codex_version(self) -> str:
        """The version of the child that there is."""
        return "" if self._generation is None else self._generation.version or ""

    def start_clocks(self) -> None:
        """From here on timers count: all that was written while nobody read is read."""
        self._clocks = True
        self.wake()

    def wake(self) -> None:
        """There may be more to read from the spool."""
        self._heard = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Commands that are not decided yet."""
        return len(self._inbox)

    def running(self) -> list[Session]:
        """The sessions of which a turn is with Codex."""
        return [session for session in self.sessions.hearing() if session.running is not None]

    # --- the loop

    async def run(self) -> None:
        """Decide what comes in, for ever. Raises whatever a mistake of ours raises: codexd ends of it."""
        while True:
            if self._inbox or self._spool_waits():
                await asyncio.sleep(0)  # to all others, also while there is always more
            else:
                await self._idle()
            self._moved(self.clock.monotonic())
            self._round()
            await self.log.room()

    def _moved(self, now: float) -> None:
        """The loop moves. If it did not for a while, what is due waits until all could say what they would."""
        if now - self.stamp > GAP_S:
            _log.warning("loop.slept", seconds=round(now - self.stamp, 1))
            self._behind = True
            if now - self._held_until > GRACE_S:  # gap upon gap does not put off for ever what is due
                self._held_until = now + GRACE_S
        self.stamp = now

    def _clocks_in(self) -> float | None:
        """Seconds until something may be due; None = nothing is set, or timers do not count yet."""
        next_in = self.timers.next_in() if self._clocks and not self.log.full else None
        return None if next_in is None else max(next_in, self._held_until - self.clock.monotonic())

    async def _idle(self) -> None:
        next_in = self._clocks_in()
        if not self._wake.is_set():
            self._rouse_in(1.0 if next_in is None else min(1.0, next_in))
            await self._wake.wait()
        self._wake.clear()

    def _rouse_in(self, seconds: float) -> None:
        """Wake the loop then, or before: one that is to be roused sooner already is left so. A timer a wait costs."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._rousing is not None:
            if self._rousing.when() <= due:
                return
            self._rousing.cancel()
        self._rousing = loop.call_at(due, self._rouse)

    def _rouse(self) -> None:
        self._rousing = None
        self.wake()

    def _spool_waits(self) -> bool:
        return self._reading() is not None and self._generation is not None and self._generation.more

    def _reading(self) -> Generation | None:
        """Whose spool is to be read on now: nobody's while the log is full."""
        generation = self._generation
        return None if generation is None or not generation.reading or self.log.full else generation

    def _round(self) -> None:
        for _ in range(min(len(self._inbox), COMMANDS_A_ROUND)):
            command = self._inbox.popleft()
            if not command.answer.cancelled():
                self._decide(command)
        due, generation = self._due(), self._reading()
        if generation is not None and (self._heard or generation.more or self._behind or due):
            self._heard = False
            transaction = Transaction()
            self.ingest(generation, transaction)
            self._submit(transaction)
        transaction = Transaction()
        self._wall.watch(self.log.head, transaction)
        self._submit(transaction)
        # What ended while nothing was read must not be expired first.
        self._behind = bool(self.log.full) or (self._behind and self._spool_waits())
        if due and not self._behind:
            self._look_at_clocks()

    def _due(self) -> bool:
        """Whether something is due. All that Codex said until now is read before."""
        next_in = self._clocks_in()
        return next_in is not None and next_in <= 0

    def _look_at_clocks(self) -> None:
        transaction = Transaction()
        for owner_id, kind in list(self.timers.over(self.sessions.asking())):
            session = self.sessions.of_owner(owner_id)
            if kind is i.TimerKind.IDLE and self.attached.on(owner_id):  # somebody looks at the thread
                self.timers.set(transaction, owner_id, kind, self.periods.idle_ms)
            elif session is not None and not self._still_held(owner_id, kind):
                self.step(session, i.TimeUp(owner_id, kind), transaction)
        self._submit(transaction)

    def _decide(self, command: _Command) -> None:
        transaction = Transaction()
        try:
            if self.log.full and command.new():
                raise Unavailable(Code.STORAGE_FULL, self.log.problem or self.log.full, retry_after_ms=10_000)
            command.decide(transaction)
        except (Rejected, Unavailable) as refused:
            command.answer.set_exception(refused)
            return
        # The caller may have gone meanwhile; what it asked for stands all the same.
        transaction.done.append(lambda seq: None if command.answer.done() else command.answer.set_result(seq))
        self.log.submit(transaction)

    async def ask(
        self, decide: Callable[[Transaction], None], *, bounded: bool = True, new: Callable[[], bool] = lambda: True
    ) -> int:
        """Have something decided, in its turn. Returns the seq before it, once it is durable.

        `bounded`: it comes from outside and may be refused: with 429 if too much waits already, with 507 if it is `new`
        and the log is full; then it was not done, and will not be. Raises Unavailable for that, and whatever `decide`
        raises for its caller.
        """
        if bounded and len(self._inbox) >= INBOX_MAX:
            raise Unavailable(Code.OVERLOADED, "codexd has too much to do at the moment. Try again.")
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Command(decide, answer, new if bounded else lambda: False))
        self._wake.set()
        return await answer

    def _submit(self, transaction: Transaction) -> None:
        if transaction.events or transaction.statements or transaction.done:
            self.log.submit(transaction)

    # --- sessions

    def step(self, session: Session, given: i.Input, transaction: Transaction) -> None:
        """Let the session's machine decide, and put down what follows from it."""
        done = step(session, given, self.child)
        if done.session is not session:
            self.sessions.remember(done.session, transaction)
        if self.attached.terminals:
            self.attached.stepped(session, done, transaction)
        if type(given) is i.ItemGrew and done.events:
            transaction.events += done.events
            self.timers.heard(done.events[0].turn_id or "")
            return
        for event in done.events:
            transaction.events.append(event)
            if event.type in _OVER:
                self._forget(event, transaction)
            elif event.turn_id is not None:
                self.timers.heard(event.turn_id)
            if event.type in _WITH_CODEX:
                transaction.done.append(self._tell_lease)
        for effect in done.effects:
            self._carry_out(effect, transaction)

    def _tell_lease(self, _: int) -> None:
        self.tell_lease()

    def tell_lease(self) -> None:
        """Let the keeper know when the next lease of a running turn ends: without a codexd, the turn ends with it."""
        lease_ms = self.timers.lease_ms(s.running.turn_id for s in self.running() if s.running is not None)
        if not lease_ms and not self._lease_told:
            return
        if self._generation is not None and self._generation.link is not None:
            self._lease_told = lease_ms
            self._generation.link.lease_ends_in(lease_ms)

    def _forget(self, event: NewEvent, transaction: Transaction) -> None:
        """What ended has no timers and no wishes left."""
        payload = event.payload
        owner_id = (
            payload.interaction_id if isinstance(payload, e.InteractionEnded) else event.turn_id or event.session_id
        )
        assert owner_id is not None
        self.timers.clear(transaction, owner_id)
        if not isinstance(payload, e.InteractionEnded):
            transaction.statements.append(("DELETE FROM ending WHERE owner_id = ?", (owner_id,)))

    def _carry_out(self, effect: i.Effect, transaction: Transaction) -> None:
        match effect:
            case i.Count(what):
                self.counted[what] += 1
            case i.SetTimer(owner_id, kind, after_ms):
                self.timers.set(transaction, owner_id, kind, after_ms)
            case i.Idle(session_id):
                self.timers.set(transaction, session_id, i.TimerKind.IDLE, self.periods.idle_ms)
            case i.Remember(owner_id):
                told = Private(msgspec.json.encode({"stop": effect.stop, "said": effect.said}).decode())
                statement = "INSERT OR REPLACE INTO ending (owner_id, told) VALUES (?, ?)"
                transaction.statements.append((statement, (owner_id, told)))
            case i.EndChild(reason):
                self.on_useless(reason)
            case i.LookForLeft():
                transaction.done.append(lambda _: self.on_look(effect))
            case i.SteerDone(steer_id, error):
                waiting = self.steering.pop(steer_id, None)
                if waiting is not None:
                    transaction.done.append(lambda _: None if waiting.done() else waiting.set_result(error))
            case i.OpenThread() | i.HandTurn():
                self._ask_codex(effect, transaction)
            case _ if self._generation is None:  # The child died meanwhile, and what this was for ends with it.
                assert not isinstance(effect, i.ReadHistory)
            case _:
                self._send(self._generation, effect, transaction)

    def _send(self, generation: Generation, effect: i.LineEffect, transaction: Transaction) -> None:
        generation.send(transaction, lines.line_of(effect, generation.next_number))
        self._expect(deadlines.due_of(effect))

    def _ask_codex(self, effect: i.OpenThread | i.HandTurn, transaction: Transaction) -> None:
        """Have Codex open a thread or take a turn, as far as that is allowed now: it may have waited for long."""
        assert self._generation is not None
        try:
            if isinstance(effect, i.OpenThread):
                allowed: i.OpenThread | i.HandTurn = msgspec.structs.replace(
                    effect, settings=self.may_open(effect.settings)
                )
            else:
                allowed = self.may_hand(effect)
        except Rejected as rejected:
            self._inbox.append(self._refusal(effect, {"message": rejected.message}))
            self._wake.set()
        else:
            self._send(self._generation, allowed, transaction)

    def _refusal(self, effect: i.OpenThread | i.HandTurn, error: dict[str, Any]) -> _Command:
        """What is to be decided in place of asking Codex.

        In a round of its own: many turns may wait for the thread, and each of them ends of it.
        """
        refused: i.ThreadRefused | i.TurnRefused
        if isinstance(effect, i.OpenThread):
            owner_id, refused = effect.session_id, i.ThreadRefused(error)
        else:
            owner_id, refused = effect.turn_id, i.TurnRefused(effect.turn_id, error, forbidden=True)

        def decide(transaction: Transaction) -> None:
            session = self.sessions.of_owner(owner_id)
            if session is not None:
                self.step(session, refused, transaction)

        return _Command(decide, asyncio.get_running_loop().create_future(), lambda: False)

    def _expect(self, due: tuple[str, Due] | None) -> None:
        if due is not None:
            owner_id, (kind, after_ms, _) = due
            self.timers.arm(owner_id, kind, min(after_ms, self.periods.answer_ms))

    def _still_held(self, owner_id: str, kind: i.TimerKind) -> bool:
        """Whether Codex was not asked yet: then its time for the answer begins later."""
        due = DUE.get(kind)
        if due is None or self._generation is None or not self._generation.holds(owner_id, due.asked):
            return False
        self._expect((owner_id, due))
        return True

    def step_open(self, given: i.Input | Callable[[Session], i.Input], transaction: Transaction) -> None:
        """Give an input to every session that what happens to the child can matter to."""
        for session in self.sessions.hearing():
            self.step(session, given(session) if callable(given) else given, transaction)

    # --- the child

    def change_child(self, change: ChildChange, *, generation: int | None = None) -> None:
        """Move the child's state along its table."""
        self.child = self.child.change(change, generation=generation)

    def use(self, generation: Generation | None) -> None:
        """From now on this is the generation that lines are read from and sent to."""
        self._generation = generation
        self.wake()

    def became_ready(self, transaction: Transaction, event: EventType, payload: e.Child) -> None:
        """The child takes turns from here on: tell it, and hand over what waits."""
        self.change_child(ChildChange.READY)
        transaction.events.append(NewEvent(event, None, None, payload))
        self.step_open(i.ChildBecameReady(), transaction)
        for session in self.sessions.all.values():
            if session.loaded_in == self.child.generation and not session.turns and not session.settings.ephemeral:
                self.timers.set(transaction, session.session_id, i.TimerKind.IDLE, self.periods.idle_ms)
        transaction.done.append(lambda _: self.on_ready())

    def died(self, generation: Generation, taken: int | None, keeper_died: bool, transaction: Transaction) -> None:
        """The child is gone and its spool is read: what does each open turn's session make of it?"""
        for waiting in self.calls.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(Code.CHILD_UNAVAILABLE, "Codex ended before it answered. Try again."))
        self.calls.clear()
        self.attached.child_died()

        def told(session: Session) -> i.Input:
            number = None
            running = session.running
            if running is not None and running.status is TurnStatus.ACCEPTED:
                number = generation.number_of(f"{running.turn_id}:start")
            if number is not None and number > generation.given:
                return i.ChildDied(generation.number, False, keeper_died)  # no keeper ever saw it
            was_taken = None if taken is None or number is None else number <= taken
            return i.ChildDied(generation.number, was_taken, keeper_died)

        self.step_open(told, transaction)
