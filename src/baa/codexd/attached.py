"""The terminals that are attached to sessions, and what each is told: what the child said, once it is committed.

A terminal hears of the thread that it resumed. It is told by the same commits as everybody: of a question when it is
durable, of its end when that is. One that stops reading is let go; the turn runs on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import apsw
from msgspec import UNSET
from msgspec.structs import replace

from baa.api.events import TURN_ENDS
from baa.codexd import reading
from baa.codexd.appserver import attached as dialect
from baa.codexd.appserver import attached_told
from baa.codexd.appserver.attached import RequestId
from baa.codexd.appserver.jsonrpc import Envelope
from baa.codexd.eventlog import Transaction
from baa.codexd.machines.interaction import Question
from baa.codexd.machines.session import Session, Step

if TYPE_CHECKING:
    from baa.codexd.registry import Registry

UNREAD_BYTES: Final = 16 << 20
"""What may wait for one terminal; past it the terminal is let go, and comes back to the thread as it then is."""

SAID_MAX: Final = 32 * 1024
"""Characters of a growing message that a terminal is told when it comes: its end. It is whole once it has ended."""


@dataclass(eq=False, slots=True)
class Terminal:
    """One attached terminal. `names` are its own ids of what it typed, by ours."""

    terminal_id: str
    session_id: str
    unwanted: frozenset[str] = frozenset()
    resumed: bool = False
    asked: int = 0
    names: dict[str, str] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)
    waiting: deque[bytes] = field(default_factory=deque)
    unread: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, message: bytes) -> None:
        """Have it told."""
        self.unread += len(message)
        if self.unread > UNREAD_BYTES:
            self.lost.set()
            return
        self.waiting.append(message)
        self._wake.set()

    async def next(self) -> bytes:
        """What it is to be told next."""
        while not self.waiting:
            self._wake.clear()
            await self._wake.wait()
        message = self.waiting.popleft()
        self.unread -= len(message)
        return message

    def tell_questions(self, questions: tuple[Question, ...]) -> None:
        """These are the open questions now: it is told of those that are new, and of those that are over."""
        now = {question.interaction_id: question for question in questions}
        for gone in [question for known, question in self.questions.items() if known not in now]:
            self.tell(attached_told.no_more(gone))
        for new in [question for known, question in now.items() if known not in self.questions]:
            self.tell(attached_told.question(new))
        self.questions = now


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request of a terminal that the child was given. `resumes`: with its answer the terminal hears of all.

    `bears`: what it is told instead of a refusal, of which the UI would end.
    """

    terminal: Terminal
    request_id: RequestId
    resumes: bool = False
    bears: dialect.Waived | None = None


class Attached:
    """The terminals of one codexd. All methods belong to the loop's thread."""

    def __init__(self, sessions: Registry, reader: Callable[[], apsw.Connection]) -> None:
        """Nobody is attached yet. `reader` reads the log."""
        self._sessions = sessions
        self._reader = reader
        self._looks: dict[str, _Asked] = {}
        self._turns: dict[str, _Asked] = {}
        self.terminals: list[Terminal] = []

    def add(self, terminal: Terminal) -> None:
        """It is there."""
        self.terminals.append(terminal)

    def remove(self, terminal: Terminal) -> None:
        """It is gone, and what it asked is answered to nobody."""
        self.terminals.remove(terminal)
        for asked in (self._looks, self._turns):
            for key in [key for key, each in asked.items() if each.terminal is terminal]:
                del asked[key]

    def on(self, session_id: str) -> bool:
        """Whether a terminal is attached to this session."""
        return any(terminal.session_id == session_id for terminal in self.terminals)

    def expect_look(
        self,
        line_id: str,
        terminal: Terminal,
        request_id: RequestId,
        *,
        resumes: bool = False,
        bears: dialect.Waived | None = None,
    ) -> None:
        """The child's answer to this line is for this terminal, or a refusal as it `bears` one."""
        self._looks[line_id] = _Asked(terminal, request_id, resumes, bears)

    def expect_turn(
        self, turn_id: str, terminal: Terminal, request_id: RequestId, *, bears: dialect.Waived | None = None
    ) -> None:
        """The child's answer to the start of this turn is for this terminal, or its end if it never starts."""
        self._turns[turn_id] = _Asked(terminal, request_id, bears=bears)

    def expect_no_turn(self, turn_id: str) -> None:
        """It was answered otherwise."""
        self._turns.pop(turn_id, None)

    # --- what happens, as it is decided; told once that is committed

    def heard(self, message: Envelope, line: bytes, transaction: Transaction) -> None:
        """The child wrote this."""
        if message.method is UNSET:
            self._answered(message, transaction)
        elif message.id is UNSET:
            method, thread_id = attached_told.told(message)
            for terminal in self.terminals:
                if method in terminal.unwanted or method == attached_told.OURS_TO_TELL or not terminal.resumed:
                    continue
                session = self._sessions.get(terminal.session_id)
                of_thread = session is not None and thread_id is not None and session.thread_id == thread_id
                if of_thread or (thread_id is None and method in attached_told.ABOUT_ACCOUNT):
                    transaction.done.append(_telling(terminal, line))

    def _answered(self, message: Envelope, transaction: Transaction) -> None:
        key = str(message.id)
        owner_id, _, what = key.partition(":")
        asked = self._turns.pop(owner_id, None) if what.startswith("start:") else self._looks.pop(key, None)
        if asked is None:
            return
        terminal = asked.terminal
        if message.error is not UNSET and asked.bears is not None:
            why = f"Codex does not do it: {message.error.get('message', 'it does not say why')}"
            transaction.done.append(self._refusing(asked, why))
            return
        answer = attached_told.passed_on(asked.request_id, message)
        transaction.done.append(lambda _: terminal.tell(answer))
        if asked.resumes and message.error is UNSET:
            session = self._sessions.get(terminal.session_id)
            if session is not None and not terminal.resumed:
                # What comes later in this transaction it is told as it comes.
                transaction.done.append(partial(self._catch_up, terminal, session, len(transaction.events)))
            terminal.resumed = True
            questions = () if session is None else session.questions
            transaction.done.append(lambda _: terminal.tell_questions(questions))

    def _catch_up(self, terminal: Terminal, session: Session, events: int, seq: int) -> None:
        """Tell a terminal what a message said before it came: Codex tells that to nobody again until it is whole."""
        turn = session.running
        if turn is None or turn.codex_turn_id is None or session.thread_id is None:
            return
        try:
            said = reading.growing(self._reader(), turn.turn_id, before=seq + events, characters=SAID_MAX)
        except apsw.Error:
            return  # it is shown once it is whole
        for item_id, text in said:
            terminal.tell(attached_told.grown(session.thread_id, turn.codex_turn_id, item_id, text))

    def stepped(self, before: Session, step: Step, transaction: Transaction) -> None:
        """A session changed."""
        questions = step.session.questions
        if questions is not before.questions:
            for terminal in self.terminals:
                if terminal.session_id == before.session_id and terminal.resumed:
                    transaction.done.append(_asking(terminal, questions))
        for event in step.events:
            if event.type in TURN_ENDS and event.turn_id is not None:
                asked = self._turns.pop(event.turn_id, None)
                if asked is not None:
                    why = f"The turn ended before Codex began it ({event.type.value}). baa turn show tells more."
                    transaction.done.append(self._refusing(asked, why))

    def _refusing(self, asked: _Asked, why: str) -> Callable[[int], None]:
        if asked.bears is None:
            return _telling(asked.terminal, attached_told.refused(asked.request_id, why))
        waived = replace(asked.bears, why=why)
        return lambda _: self.waive(asked.terminal, waived)

    def waive(self, terminal: Terminal, what: dialect.Waived) -> None:
        """Tell a terminal that this is not done, and why, in a way that it bears."""
        session = self._sessions.get(terminal.session_id)
        for line in attached_told.waived(what, idle=session is None or session.running is None):
            terminal.tell(line)

    def child_died(self) -> None:
        """Each terminal comes back by itself, to the next child."""
        for terminal in self.terminals:
            terminal.lost.set()


def _telling(terminal: Terminal, line: bytes) -> Callable[[int], None]:
    return lambda _: terminal.tell(attached_told.renamed(line, terminal.names))


def _asking(terminal: Terminal, questions: tuple[Question, ...]) -> Callable[[int], None]:
    return lambda _: terminal.tell_questions(questions)
