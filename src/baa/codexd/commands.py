"""What clients ask for, decided in the main loop: each command checks, steps a machine, and returns once it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from baa.api import events as e
from baa.api import ids
from baa.api.errors import Code, PeerFailed, Rejected, Unavailable
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction
from baa.api.sessions import Fork, InputPart, OnBusy, Origin, SessionSettings, TurnRequest, TurnStatus
from baa.clock import Clock
from baa.codexd.appserver import lines
from baa.codexd.appserver.messages import RUNNING, StoredThread, StoredThreadResult, TurnsResult
from baa.codexd.appserver.versions import MISSING
from baa.codexd.eventlog import Transaction
from baa.codexd.keys import Key
from baa.codexd.machines import inputs as i
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.interaction import Question, misfit
from baa.codexd.machines.requests import REQUESTED, ending, waits
from baa.codexd.machines.session import Session
from baa.codexd.machines.turn import StopWish, Turn, TurnChange
from baa.codexd.main_loop import MainLoop

STEER_S: Final = 10.0
"""Seconds that a steer waits for its turn to be running, and as many for Codex's answer; 0.01 are usual."""

QUEUED_MAX: Final = 1000
"""Turns of one session that may wait: more than a night's work, and a bound on a mistake."""

REPLACED: Final = StopWish(TurnChange.INTERRUPTED, "replaced")


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """What a caller is told of its turn: `seq` is where its events begin. `steered`: an earlier turn took the input."""

    turn_id: str
    seq: int
    steered: bool = False


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A turn that is asked for; `steer_id` is for the case that its input goes to another."""

    session_id: str
    turn_id: str
    request: TurnRequest
    on_busy: OnBusy
    origin: Origin
    steer_id: str


class Commands:
    """The commands of one codexd. All methods raise Unavailable while too much waits (429)."""

    def __init__(self, loop: MainLoop, *, clock: Clock) -> None:
        """Decide in `loop`."""
        self._loop = loop
        self._clock = clock

    async def drain(self, said: NewEvent) -> None:
        """From now on take nothing new, and finish what was accepted. Returns once `said` is durable."""

        def decide(transaction: Transaction) -> None:
            if not self._loop.drained:
                self._loop.drained = True
                transaction.events.append(said)

        await self._loop.ask(decide)

    # --- sessions

    async def create_session(
        self,
        session_id: str,
        settings: SessionSettings,
        *,
        thread_id: str | None = None,
        forked_from: Fork | None = None,
    ) -> None:
        """Register a session. Returns once that is durable. Raises Rejected (409 for a thread that has one)."""
        loop = self._loop

        def decide(transaction: Transaction) -> None:
            self._refuse_while_draining()
            taken = loop.sessions.of_thread(thread_id)
            if taken is not None:
                raise Rejected(
                    Code.THREAD_IN_USE,
                    "A session has this thread already. Use that session, or fork it.",
                    details={"sessionId": taken.session_id},
                )
            adopted = thread_id is not None
            session = Session(
                session_id, settings, thread_id, resumable=adopted, fork=forked_from, model=settings.model
            )
            loop.sessions.remember(session, transaction)
            payload = e.SessionRegistered(settings=settings, thread_id=thread_id, forked_from=forked_from)
            transaction.events.append(NewEvent(EventType.SESSION_REGISTERED, session_id, None, payload))

        await loop.ask(decide)

    async def find_thread(self, thread_id: str) -> StoredThread:
        """A thread that Codex has stored in its CODEX_HOME. Raises Rejected (404), Unavailable."""
        self._refuse_while_draining()
        answer = await self._loop.call(lambda number: lines.read_thread(number, thread_id))
        if answer.error is not None and MISSING in answer.error:
            raise PeerFailed(Code.CODEX_FAILED, str(answer.error["message"]), details=answer.error)
        if answer.error is not None:
            raise _no_such_thread(answer.error.get("message"))
        try:
            thread = msgspec.json.decode(answer.result, type=StoredThreadResult).thread
        except msgspec.DecodeError as error:
            raise PeerFailed(Code.CODEX_FAILED, f"codexd cannot read what Codex says of the thread: {error}") from error
        if thread.ephemeral:
            raise _no_such_thread("it is ephemeral")
        return thread

    async def past_of(self, session_id: str, thread_id: str) -> Fork | None:
        """The past of a session of which no turn has ended: an adopted thread's, or none. Raises Unavailable."""
        session = self._loop.sessions.get(session_id)
        if session is None or not session.resumable:
            return None
        self._refuse_while_draining()
        answer = await self._loop.call(lambda number: lines.read_last_turns(number, thread_id))
        if answer.error is not None:
            raise PeerFailed(Code.CODEX_FAILED, "Codex does not tell what the thread holds.", details=answer.error)
        try:
            turns = msgspec.json.decode(answer.result, type=TurnsResult).data
        except msgspec.DecodeError as error:
            raise PeerFailed(Code.CODEX_FAILED, f"codexd cannot read what Codex says of the thread: {error}") from error
        ended = next((turn.id for turn in turns if turn.status != RUNNING), None)
        # Of a thread whose file was put there, Codex lists nothing until it is loaded: then its fork has all of it.
        return None if turns and ended is None else Fork(session_id, thread_id, ended)

    def to_attach(self, session_id: str) -> Session:
        """A session that Codex's own terminal UI can resume. Raises Rejected (404, 409), Unavailable."""
        session = self._open_session(session_id)
        if session.thread_id is None or not session.resumable or session.settings.ephemeral:
            raise Rejected(
                Code.THREAD_NOT_FOUND,
                "Codex has no stored thread of this session yet: one is stored with its first turn, and none of an"
                " ephemeral session. Start a turn, then attach.",
            )
        if not self._loop.child.ready:
            raise Unavailable(Code.CHILD_UNAVAILABLE, "Codex does not run at the moment. Try again.")
        return session

    async def close(self, session_id: str) -> None:
        """Close a session, its turns ended before. Returns once the wish is durable. Raises Rejected (404)."""

        def decide(transaction: Transaction) -> None:
            self._loop.step(self._session(session_id), i.CloseRequested(), transaction)

        await self._loop.ask(decide)

    # --- turns

    async def start_turn(
        self,
        session_id: str,
        turn_id: str,
        request: TurnRequest,
        *,
        on_busy: OnBusy = OnBusy.REJECT,
        origin: Origin = Origin.API,
        key: str | None = None,
        body_hash: str = "",
    ) -> TurnAnswer:
        """Accept a turn, or give its input to the running one. Returns once that is durable, or done.

        With a `key` that was used before, returns what was answered then. Raises Rejected, Unavailable, PeerFailed.
        """
        while True:
            steer_id = ids.new_id("str", self._clock.utc_ms())
            entry = await self._entry(key, body_hash, _Wanted(session_id, turn_id, request, on_busy, origin, steer_id))
            if entry.steering is None:
                return TurnAnswer(entry.turn_id, entry.seq, entry.steered)
            if await self._steered(entry.steering, steer_id, key, entry):
                return TurnAnswer(entry.turn_id, entry.seq, steered=True)
            # The turn ended before it took the input, which is a turn of its own then.

    async def repeated(self, key: str | None, body_hash: str) -> TurnAnswer | None:
        """What was answered to this key and body before, whatever became of all that they name; None if nothing was."""
        known = None if key is None else self._loop.keys.get(key)
        if known is None or known.body_hash != body_hash or known.steering is not None:
            return None
        await self._loop.settle()
        return TurnAnswer(known.turn_id, known.seq, known.steered)

    async def _entry(self, key: str | None, body_hash: str, wanted: _Wanted) -> Key:
        found: list[Key] = []

        def decide(transaction: Transaction) -> None:
            known = None if key is None else self._loop.keys.get(key)
            if known is None:
                known = self._begin(transaction, wanted, key, body_hash)
            elif known.body_hash != body_hash:
                raise _mismatch(known)
            found.append(known)

        # Of a key that is known the turn may only wait for space, and is then answered as it was meant.
        await self._loop.ask(decide, new=lambda: key is None or self._loop.keys.get(key) is None)
        return found[0]

    def _begin(self, transaction: Transaction, wanted: _Wanted, key: str | None, body_hash: str) -> Key:
        loop = self._loop
        session = self._open_session(wanted.session_id)
        first = session.turns[0] if session.turns else None
        hash_ = None if key is None else body_hash
        # One that is ending takes no more: then the input is a turn of its own, and waits for that end.
        if first is not None and wanted.on_busy is OnBusy.STEER and not ending(first):
            self._refuse_untimely(session, first)
            entry = Key(body_hash, first.turn_id, 0, steered=True, steering=self._waiting(wanted.steer_id))
            given: i.Input = i.SteerRequested(wanted.steer_id, first.turn_id, wanted.request.parts, key, hash_)
        else:
            self._refuse_new_turn(session, wanted.on_busy)
            entry = Key(body_hash, wanted.turn_id, 0)
            given = i.TurnRequested(wanted.turn_id, wanted.request, key, hash_, wanted.origin)
        if key is not None:
            loop.keys.use(key, entry)
        transaction.done.append(lambda seq: self._committed(key, entry, seq))
        loop.step(session, given, transaction)
        if first is not None and wanted.on_busy is OnBusy.INTERRUPT:
            loop.step(self._session(wanted.session_id), i.StopTurn(first.turn_id, REPLACED), transaction)
        return entry

    def _committed(self, key: str | None, entry: Key, seq: int) -> None:
        entry.seq = seq
        if key is not None and entry.steering is None:
            self._loop.keys.answered(key, entry)

    async def steer(self, turn_id: str, input_: tuple[InputPart, ...], *, steer_id: str | None = None) -> None:
        """Give more input to a turn. Returns once Codex took it. Raises Rejected (404, 409), PeerFailed."""
        steer_id = steer_id or ids.new_id("str", self._clock.utc_ms())
        waiting: list[asyncio.Future[dict[str, Any] | None]] = []

        def decide(transaction: Transaction) -> None:
            session = self._session_of_turn(turn_id)
            self._refuse_untimely(session, _turn(session, turn_id))
            waiting.append(self._waiting(steer_id))
            self._loop.step(session, i.SteerRequested(steer_id, turn_id, input_), transaction)

        await self._loop.ask(decide)
        if not await self._steered(waiting[0], steer_id, None, None):
            raise TurnGone

    def _waiting(self, steer_id: str) -> asyncio.Future[dict[str, Any] | None]:
        waiting: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._loop.steering[steer_id] = waiting
        return waiting

    async def _steered(
        self,
        waiting: asyncio.Future[dict[str, Any] | None],
        steer_id: str,
        key: str | None,
        entry: Key | None,
    ) -> bool:
        """Whether Codex took it; False if the turn was over. Raises Rejected, PeerFailed."""
        try:
            error = await self._outcome(waiting, steer_id)
        except TimeoutError:
            raise PeerFailed(
                Code.CODEX_FAILED, "Codex did not say whether it took the input. A turn.steered event will tell."
            ) from None
        if error is None:
            if key is not None and entry is not None:
                self._loop.keys.answered(key, entry)
            return True
        if key is not None and entry is not None:  # nothing came of it: the key may be used again
            self._loop.keys.forget(key, entry)
        if error.get("unsent"):
            raise Rejected(
                Code.TURN_NOT_RUNNING, "The turn has not begun yet. Wait for turn.started, or enqueue a turn."
            )
        told = str(error.get("message", ""))
        if any(word in told for word in ("ended before", "no active turn", "expected active turn")):
            return False
        raise PeerFailed(Code.CODEX_FAILED, f"Codex did not take the input: {told[:300]}", details={"codex": error})

    async def _outcome(self, waiting: asyncio.Future[dict[str, Any] | None], steer_id: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(STEER_S):
                return await asyncio.shield(waiting)
        except TimeoutError:

            def withdraw(transaction: Transaction) -> None:
                for session in list(self._loop.sessions.hearing()):
                    self._loop.step(session, i.SteerWithdrawn(steer_id), transaction)

            await self._loop.ask(withdraw, bounded=False)
            async with asyncio.timeout(STEER_S):
                return await asyncio.shield(waiting)

    async def interrupt(self, turn_id: str) -> None:
        """End a turn. Returns once the wish is durable. Raises Rejected (404, 409)."""

        def decide(transaction: Transaction) -> None:
            session = self._session_of_turn(turn_id)
            self._loop.step(session, i.StopTurn(turn_id, REQUESTED), transaction)

        await self._loop.ask(decide)

    async def renew(self, turn_id: str, lease_ms: int | None) -> None:
        """Let a turn's lease begin anew. Raises Rejected (404, 409; 422 for one that has none)."""

        def decide(transaction: Transaction) -> None:
            session = self._session_of_turn(turn_id)
            after_ms = lease_ms or _turn(session, turn_id).request.lease_ms
            if after_ms is None:
                raise Rejected(Code.INVALID_REQUEST, "The turn has no lease. Say `leaseMs` to give it one.")
            self._loop.timers.set(transaction, turn_id, i.TimerKind.LEASE, after_ms)
            transaction.done.append(lambda _: self._loop.tell_lease())

        await self._loop.ask(decide)

    # --- interactions

    async def answer(
        self, interaction_id: str, answer: AnswerInteraction, fits: Callable[[str, str | None], bool]
    ) -> bool:
        """Answer a question of Codex's; False if it is not open. `fits` judges its session's and its turn's id.

        Raises Rejected (404, 422).
        """
        found: list[bool] = []

        def decide(transaction: Transaction) -> None:
            session = self._loop.sessions.of_question(interaction_id)
            question = None if session is None else _question(session, interaction_id)
            if session is None or question is None:
                found.append(False)
                return
            if not fits(session.session_id, question.turn_id):
                raise no_such_interaction()
            flaw = misfit(question, answer)
            if flaw is not None:
                raise Rejected(
                    Code.INVALID_REQUEST, flaw, details={"decisions": list(question.decisions), "kind": question.kind}
                )
            self._loop.step(session, i.InteractionAnswered(interaction_id, answer), transaction)
            found.append(True)

        await self._loop.ask(decide)
        return found[0]

    # --- what all of them check

    def _refuse_while_draining(self) -> None:
        if self._loop.draining:
            raise Unavailable(Code.DRAINING, "codexd is stopping. Try again once it is back.")
        if self._loop.drained:
            raise Unavailable(Code.DRAINING, "codexd drains: it takes nothing new until it is restarted.")

    def _session(self, session_id: str) -> Session:
        session = self._loop.sessions.get(session_id)
        if session is None:
            raise no_such_session()
        return session

    def _open_session(self, session_id: str) -> Session:
        self._refuse_while_draining()
        session = self._session(session_id)
        if session.closed or session.closing:
            raise Rejected(Code.SESSION_CLOSED, "The session is closed. Fork it, or register another.")
        return session

    def _session_of_turn(self, turn_id: str) -> Session:
        session = self._loop.sessions.of_turn(turn_id)
        if session is None:
            raise TurnGone
        return session

    def _refuse_untimely(self, session: Session, turn: Turn) -> None:
        """Refuse input for a turn that cannot take it, at once."""
        if ending(turn):
            told = "The turn is ending and takes no more input. Start another."
        elif turn.request.compact:
            told = "The turn shortens the history (/compact) and takes no input. Wait for its end, or enqueue a turn."
        elif waits(session, turn, self._loop.child):
            told = "The turn waits, so it cannot be steered. Wait for turn.started, or interrupt it and ask anew."
        else:
            return
        details = {"turnId": turn.turn_id, "status": turn.status}
        raise Rejected(Code.TURN_NOT_RUNNING, told, details=details)

    def _refuse_new_turn(self, session: Session, on_busy: OnBusy) -> None:
        loop = self._loop
        if session.turns and on_busy is OnBusy.REJECT:
            raise Rejected(
                Code.TURN_IN_PROGRESS,
                "A turn of this session has not ended. Wait for its end, say `onBusy`, or use another session.",
                details={"turnId": session.turns[0].turn_id},
            )
        if sum(turn.status is TurnStatus.QUEUED for turn in session.turns) >= QUEUED_MAX:
            raise Unavailable(Code.OVERLOADED, f"{QUEUED_MAX} turns of this session wait already.")
        if loop.child.refuses_turns:
            raise Unavailable(
                Code.CHILD_UNAVAILABLE,
                "Codex does not run on this node; GET /v1/codexd/status says why.",
                retry_after_ms=30_000,
            )
        if loop.login_required:
            raise Unavailable(
                Code.CODEX_NOT_LOGGED_IN,
                "Codex is not logged in. On the machine of codexd, run: baa login",
                retry_after_ms=30_000,
            )


class TurnGone(Rejected):
    """The turn has ended, or there never was one of this id: the tables know."""

    def __init__(self) -> None:
        """Whoever asks is told more by the tables."""
        super().__init__(Code.TURN_ENDED, "The turn has ended.")


def no_such_session() -> Rejected:
    """404 of a session."""
    return Rejected(Code.SESSION_NOT_FOUND, "There is no such session. List them at /v1/codexd/sessions.")


def no_such_interaction() -> Rejected:
    """404 of an interaction."""
    return Rejected(Code.INTERACTION_NOT_FOUND, "There is no such interaction here. A turn's ledger lists its own.")


def _no_such_thread(why: object) -> Rejected:
    return Rejected(
        Code.THREAD_NOT_FOUND,
        "codexd's CODEX_HOME has no such thread stored. Threads of another CODEX_HOME (such as ~/.codex) cannot be"
        " adopted, nor one that never ran a turn.",
        details={"codex": str(why)[:300]},
    )


def _mismatch(known: Key) -> Rejected:
    return Rejected(
        Code.IDEMPOTENCY_MISMATCH,
        "This Idempotency-Key was used with another body. A new request needs a new key.",
        details={"turnId": known.turn_id},
    )


def _turn(session: Session, turn_id: str) -> Turn:
    return next(turn for turn in session.turns if turn.turn_id == turn_id)


def _question(session: Session, interaction_id: str) -> Question | None:
    return next((each for each in session.questions if each.interaction_id == interaction_id), None)
