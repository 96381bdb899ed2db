"""The one place where state changes: inputs come in through a bounded inbox, are decided on, committed, then told.

Commands (HTTP), words of the supervisor and the child's lines all pass here, in one order. What a step wants done is
done after the commit of its events: a line for the child is committed with its effect and sent then; a caller is
answered then. Where codexd dies, the log says what was decided, the outbox what was still to be sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from baa.api import events as e
from baa.api.errors import Code, Rejected, Unavailable
from baa.api.events import EventType
from baa.api.sessions import SessionSettings, TurnRequest, TurnStatus
from baa.api.status import ChildState
from baa.clock import Clock
from baa.codexd.appserver import jsonrpc, translate
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.generation import Generation
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child, ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Session, step

INBOX_MAX: Final = 1024
"""Commands waiting to be decided. One more is refused with 429: waiting longer would help nobody."""

COMMANDS_A_ROUND: Final = 64
"""Commands decided between two looks at the spool, so that neither starves the other."""


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """What a caller is told of its turn: `seq` is where its events begin."""

    turn_id: str
    seq: int


@dataclass(slots=True)
class _Command:
    """Something to decide, in the order of the inbox."""

    decide: Callable[[Transaction], None]
    answer: asyncio.Future[int]


@dataclass(slots=True)
class _Key:
    body_hash: str
    turn_id: str
    seq: int


@dataclass(slots=True)
class Restored:
    """What boot read from the tables."""

    sessions: dict[str, Session] = field(default_factory=dict)
    keys: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    generation: int = 0


class MainLoop:
    """State and its one owner. All methods belong to the loop's thread."""

    def __init__(self, log: EventLog, restored: Restored, *, clock: Clock) -> None:
        """Start from what the tables held."""
        self.log = log
        self.sessions = restored.sessions
        self.child = Child(generation=restored.generation)
        self.login_required = False
        self.logged_in: bool | None = None
        self.limits: dict[str, object] | None = None
        self.draining = False
        self.counted: Counter[str] = Counter()
        self.stamp = clock.monotonic()
        self._clock = clock
        self._by_thread = {s.thread_id: s.session_id for s in self.sessions.values() if s.thread_id is not None}
        self._by_turn = {turn.turn_id: s.session_id for s in self.sessions.values() for turn in s.turns}
        self._open: set[str] = {s.session_id for s in self.sessions.values() if s.turns}
        self._keys = {key: _Key(*value) for key, value in restored.keys.items()}
        self._generation: Generation | None = None
        self._inbox: deque[_Command] = deque()
        self._wake = asyncio.Event()
        self.on_ready: Callable[[], None] = lambda: None
        self.on_handshake_failed: Callable[[str], None] = lambda _: None

    # --- what others ask

    async def create_session(self, session_id: str, settings: SessionSettings) -> None:
        """Register a session. Returns once that is durable. Raises Unavailable."""

        def decide(transaction: Transaction) -> None:
            self._refuse_while_draining()
            self.sessions[session_id] = Session(session_id, settings)
            payload = e.SessionRegistered(settings=settings)
            transaction.events.append(NewEvent(EventType.SESSION_REGISTERED, session_id, None, payload))

        await self._ask(decide)

    async def start_turn(
        self, session_id: str, turn_id: str, request: TurnRequest, *, key: str | None, body_hash: str
    ) -> TurnAnswer:
        """Accept a turn. Returns once that is durable.

        With a `key` that was used before, returns what was answered then. Raises Rejected, Unavailable.
        """
        known: list[_Key] = []

        def decide(transaction: Transaction) -> None:
            if key is not None and key in self._keys:
                known.append(self._known(key, body_hash))
                return
            session = self._session_for_turn(session_id)
            given = i.TurnRequested(turn_id, request, key, None if key is None else body_hash)
            self._by_turn[turn_id] = session_id
            if key is not None:
                entry = self._keys[key] = _Key(body_hash, turn_id, 0)
                transaction.done.append(lambda seq: setattr(entry, "seq", seq))
            self._step(session, given, transaction)

        seq = await self._ask(decide)
        return TurnAnswer(known[0].turn_id, known[0].seq) if known else TurnAnswer(turn_id, seq)

    async def change(self, decide: Callable[[Transaction], None]) -> int:
        """For the supervisor: decide something about the child. Returns the seq before it, once it is durable."""
        return await self._ask(decide, bounded=False)

    def wake(self) -> None:
        """There may be more to read from the spool."""
        self._wake.set()

    def running(self) -> list[Session]:
        """The sessions of which a turn is with Codex."""
        return [s for s in map(self.sessions.__getitem__, self._open) if s.running is not None]

    # --- the loop

    async def run(self) -> None:
        """Decide what comes in, for ever. Raises whatever a mistake of ours raises: codexd ends of it."""
        while True:
            if not self._inbox and not self._spool_waits():
                await self._idle()
            self.stamp = self._clock.monotonic()
            self._round()
            await self.log.room()
            await asyncio.sleep(0)

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _spool_waits(self) -> bool:
        return self._generation is not None and self._generation.reading and self._generation.more

    def _round(self) -> None:
        for _ in range(min(len(self._inbox), COMMANDS_A_ROUND)):
            command = self._inbox.popleft()
            if not command.answer.cancelled():
                self._decide(command)
        if self._generation is not None and self._generation.reading:
            transaction = Transaction()
            self.ingest(self._generation, transaction)
            self._submit(transaction)

    def _decide(self, command: _Command) -> None:
        transaction = Transaction()
        try:
            command.decide(transaction)
        except (Rejected, Unavailable) as refused:
            command.answer.set_exception(refused)
            return
        # The caller may have gone meanwhile; what it asked for stands all the same.
        transaction.done.append(lambda seq: None if command.answer.done() else command.answer.set_result(seq))
        self.log.submit(transaction)

    async def _ask(self, decide: Callable[[Transaction], None], *, bounded: bool = True) -> int:
        if bounded and len(self._inbox) >= INBOX_MAX:
            raise Unavailable(Code.OVERLOADED, "codexd has too much to do at the moment. Try again.")
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Command(decide, answer))
        self._wake.set()
        return await answer

    def _submit(self, transaction: Transaction) -> None:
        if transaction.events or transaction.statements or transaction.done:
            self.log.submit(transaction)

    # --- commands

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping. Try again once it is back.")

    def _session_for_turn(self, session_id: str) -> Session:
        self._refuse_while_draining()
        session = self.sessions.get(session_id)
        if session is None:
            raise Rejected(Code.SESSION_NOT_FOUND, "There is no such session. List them at /v1/codexd/sessions.")
        if session.turns:
            raise Rejected(
                Code.TURN_IN_PROGRESS,
                "A turn of this session has not ended. Wait for its end, or use another session.",
                details={"turnId": session.turns[0].turn_id},
            )
        if self.child.refuses_turns:
            raise Unavailable(
                Code.CHILD_UNAVAILABLE,
                "Codex does not run on this node; GET /v1/codexd/status says why.",
                retry_after_ms=30_000,
            )
        if self.login_required:
            raise Unavailable(
                Code.CODEX_NOT_LOGGED_IN,
                "Codex is not logged in. Log it in with `codex login` in codexd's CODEX_HOME.",
                retry_after_ms=30_000,
            )
        return session

    def _known(self, key: str, body_hash: str) -> _Key:
        entry = self._keys[key]
        if entry.body_hash != body_hash:
            raise Rejected(
                Code.IDEMPOTENCY_MISMATCH,
                "This Idempotency-Key was used with another body. A new request needs a new key.",
                details={"turnId": entry.turn_id},
            )
        return entry

    # --- sessions

    def _step(self, session: Session, given: i.Input, transaction: Transaction) -> None:
        """Let the session's machine decide, and put down what follows from it."""
        done = step(session, given, self.child)
        if done.session is not session:
            self._remember(session, done.session)
        transaction.events.extend(done.events)
        for effect in done.effects:
            if isinstance(effect, i.Count):
                self.counted[effect.what] += 1
            elif self._generation is None:  # The child died meanwhile, and the turn ends with it.
                assert isinstance(effect, i.InterruptTurn)
            else:
                self._generation.send(transaction, translate.line_of(effect, self._generation.next_number))

    def _remember(self, before: Session, after: Session) -> None:
        self.sessions[after.session_id] = after
        if before.thread_id != after.thread_id:
            if before.thread_id is not None:
                self._by_thread.pop(before.thread_id, None)
            if after.thread_id is not None:
                self._by_thread[after.thread_id] = after.session_id
        if before.turns is not after.turns:
            left = {turn.turn_id for turn in after.turns}
            for turn in before.turns:
                if turn.turn_id not in left:
                    self._by_turn.pop(turn.turn_id, None)
            (self._open.add if after.turns else self._open.discard)(after.session_id)

    def step_open(self, given: i.Input | Callable[[Session], i.Input], transaction: Transaction) -> None:
        """Give an input to every session that has a turn which did not end."""
        for session_id in sorted(self._open):
            session = self.sessions[session_id]
            self._step(session, given(session) if callable(given) else given, transaction)

    # --- the child

    def change_child(self, change: ChildChange, *, generation: int | None = None) -> None:
        """Move the child's state along its table."""
        self.child = self.child.change(change, generation=generation)

    def use(self, generation: Generation | None) -> None:
        """From now on this is the generation that lines are read from and sent to."""
        self._generation = generation
        self._wake.set()

    def became_ready(self, transaction: Transaction, event: EventType, payload: e.Child) -> None:
        """The child takes turns from here on: tell it, and hand over what waits."""
        self.change_child(ChildChange.READY)
        transaction.events.append(NewEvent(event, None, None, payload))
        self.step_open(i.ChildBecameReady(), transaction)
        transaction.done.append(lambda _: self.on_ready())

    def ingest(self, generation: Generation, transaction: Transaction) -> None:
        """Read on in the spool: a chunk of it, with all that it leads to, and the new offset, in one transaction."""
        spool = generation.spool
        offset, oversize = spool.offset, spool.oversize
        lines = generation.read_lines()
        for _ in range(spool.oversize - oversize):
            self._unreadable(jsonrpc.Unreadable("", "a line too long to be read was skipped"), transaction)
        for line in lines:
            message = jsonrpc.decode(line)
            if isinstance(message, jsonrpc.Unreadable):
                self._unreadable(message, transaction)
                continue
            try:
                come = translate.incoming(message, generation.number)
            except msgspec.DecodeError as error:
                self._unreadable(
                    jsonrpc.Unreadable(line[: jsonrpc.SAMPLE_MAX].decode("utf-8", "replace"), str(error)), transaction
                )
                continue
            self._take(come, generation, transaction)
            if message.method is msgspec.UNSET and isinstance(message.id, str):
                generation.answered(transaction, message.id)
        if spool.offset > offset:
            generation.advance(transaction)

    def _take(self, come: translate.Incoming, generation: Generation, transaction: Transaction) -> None:
        match come:
            case translate.ForSession(thread_id, given):
                session = self.sessions.get(self._by_thread.get(thread_id, ""))
                if session is not None:
                    self._step(session, given, transaction)
                elif isinstance(given, i.Noted):
                    self._note(given, None, transaction)
                else:
                    self.counted["message of no session"] += 1
            case translate.ForTurn(owner_id, given):
                session = self.sessions.get(self._by_turn.get(owner_id, owner_id))
                if isinstance(given, i.ThreadOpened) and self._by_thread.get(given.thread_id, owner_id) != owner_id:
                    given = i.ThreadRefused({"message": "Codex answered with the thread of another session."})
                if session is not None:
                    self._step(session, given, transaction)
                else:
                    self.counted["answer for no turn"] += 1
            case translate.Asked(thread_id, note, line):
                generation.send(transaction, translate.Line(None, line))
                self._note(note, thread_id, transaction)
            case translate.ForNobody(note):
                self._note(note, None, transaction)
            case translate.Initialized(version):
                self._initialized(generation, version, transaction)
            case translate.HandshakeFailed(why):
                self.on_handshake_failed(why)
            case translate.AccountRead(logged_in, required):
                self.logged_in, self.login_required = logged_in, required
            case translate.LimitsRead(limits):
                self.limits = dict(limits)
            case translate.Dropped(why):
                self.counted[why] += 1

    def _initialized(self, generation: Generation, version: str, transaction: Transaction) -> None:
        if self.child.state is not ChildState.STARTING:
            return
        generation.send(transaction, translate.initialized())
        generation.send(transaction, translate.read_account(generation.next_number))
        generation.ready(transaction, version)
        ready = e.Child(generation=generation.number, pid=generation.child_pid, codex_version=version)
        self.became_ready(transaction, EventType.CHILD_READY, ready)

    def _note(self, note: i.Noted, thread_id: str | None, transaction: Transaction) -> None:
        session = self.sessions.get(self._by_thread.get(thread_id or "", ""))
        if session is not None:
            self._step(session, note, transaction)
            return
        payload = e.Notification(
            method=note.method, params=note.params, answered=note.answered, emitted_at=note.emitted_at
        )
        transaction.events.append(NewEvent(note.type, None, None, payload))

    def _unreadable(self, line: jsonrpc.Unreadable, transaction: Transaction) -> None:
        self.counted["unreadable line"] += 1
        params = msgspec.Raw(msgspec.json.encode({"sample": line.sample, "why": line.why}))
        payload = e.Notification(method="unreadable", params=params)
        transaction.events.append(NewEvent(EventType.CODEX_WARNING, None, None, payload))

    def died(self, generation: Generation, taken: int | None, keeper_died: bool, transaction: Transaction) -> None:
        """The child is gone and its spool is read: what does each open turn's session make of it?"""

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
