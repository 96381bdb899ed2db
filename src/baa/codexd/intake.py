"""What the child wrote becomes what the main loop decides on: read from the spool, understood, given to its session.

A chunk of the spool, with all that it leads to, and the new offset, are one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from msgspec import structs

from baa.api import events as e
from baa.api import ids
from baa.api.events import EventType
from baa.api.status import ChildState, Support
from baa.clock import rfc3339
from baa.codexd.appserver import jsonrpc, lines, translate
from baa.codexd.appserver.lines import Line
from baa.codexd.appserver.versions import support
from baa.codexd.eventlog import Transaction
from baa.codexd.generation import Generation
from baa.codexd.limits import merged, resets_at
from baa.codexd.machines import inputs as i
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Session

if TYPE_CHECKING:
    from baa.codexd.main_loop import MainLoop

_log = structlog.get_logger("intake")


SESSION_ASKS_MAX: Final = 256
ASKS_MAX: Final = 1024
"""Open questions of one session, and of all: nobody answers more, and each costs memory. More are declined at once."""


class Intake:
    """What one main loop hears of its children."""

    def __init__(self, loop: MainLoop) -> None:
        """Hear for `loop`."""
        self._loop = loop

    def ingest(self, generation: Generation, transaction: Transaction) -> None:
        """Read on in the spool: a chunk of it, with all that it leads to, and the new offset, in one transaction."""
        spool = generation.spool
        offset, oversize = spool.offset, spool.oversize
        read = generation.read_lines()
        for _ in range(spool.oversize - oversize):
            self._unreadable(jsonrpc.Unreadable("", "a line too long to be read was skipped"), transaction)
        whose: tuple[str, str] | None = None
        run: list[e.ItemDelta] = []
        # A terminal is told the line itself, so each is looked at by itself then.
        piece = _no_piece if self._loop.attached.terminals else translate.piece
        for line in read:
            found = piece(line)
            if found is not None:
                thread_id, codex_turn_id, told = found
                if (thread_id, codex_turn_id) != whose:
                    self._grew(whose, run, generation, transaction)
                    whose, run = (thread_id, codex_turn_id), []
                run.append(told)
                continue
            self._grew(whose, run, generation, transaction)
            whose, run = None, []
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
            if self._loop.attached.terminals:
                self._loop.attached.heard(message, line, transaction)
            self._take(come, generation, transaction)
            if message.method is msgspec.UNSET and isinstance(message.id, str):
                generation.answered(transaction, message.id)
        self._grew(whose, run, generation, transaction)
        if spool.offset > offset:
            generation.advance(transaction)

    def _grew(
        self,
        whose: tuple[str, str] | None,
        pieces: list[e.ItemDelta],
        generation: Generation,
        transaction: Transaction,
    ) -> None:
        if whose is not None:
            thread_id, codex_turn_id = whose
            come = translate.ForSession(thread_id, i.ItemGrew(codex_turn_id, tuple(pieces)))
            self._take(come, generation, transaction)

    def _take(self, come: translate.Incoming, generation: Generation, transaction: Transaction) -> None:
        match come:
            case translate.ForSession(thread_id, given):
                session = self._loop.sessions.of_thread(thread_id)
                if session is not None and session.thread_id != thread_id:
                    self._loop.step(session, i.OfAgent(thread_id, given), transaction)
                elif session is not None:
                    self._loop.step(session, self._completed(given), transaction)
                elif isinstance(given, i.Noted):
                    self._note(given, None, transaction)
                else:
                    self._loop.counted["message of no session"] += 1
            case translate.ForTurn(owner_id, given):
                session = self._loop.sessions.of_owner(owner_id)
                taken = self._loop.sessions.of_thread(given.thread_id) if isinstance(given, i.ThreadOpened) else None
                if taken is not None and taken is not session:
                    given = i.ThreadRefused({"message": "Codex answered with the thread of another session."})
                if session is not None:
                    self._loop.step(session, given, transaction)
                else:
                    self._loop.counted["answer for no turn"] += 1
            case translate.Asked(thread_id):
                session = self._loop.sessions.of_thread(thread_id)
                if session is None:
                    self._refuse(come.refused, generation, transaction)
                elif len(session.questions) >= SESSION_ASKS_MAX or self._loop.sessions.questions >= ASKS_MAX:
                    self._decline(come, generation, transaction)
                else:
                    self._asked(session, come, generation, transaction)
            case translate.AskedNoMore(thread_id, request_id):
                session = self._loop.sessions.of_thread(thread_id)
                if session is not None:
                    self._loop.step(session, i.AskedNoMore(generation.number, request_id), transaction)
            case translate.Refused():
                self._refuse(come, generation, transaction)
            case translate.Called(request_id):
                waiting = self._loop.calls.pop(request_id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(come)
            case translate.ForNobody(note):
                self._note(note, None, transaction)
            case translate.Initialized(version):
                if support(version) is not Support.KNOWN:
                    _log.info("codex.untested", version=version, support=support(version).value)
                self._initialized(generation, version, transaction)
            case translate.HandshakeFailed():
                self._loop.on_handshake_failed(come)
            case translate.AccountRead(logged_in, required):
                self._loop.logged_in, self._loop.login_required = logged_in, required
            case translate.LimitsRead(limits):
                self._loop.limits = merged(self._loop.limits, limits)
            case translate.Dropped(why):
                self._loop.counted[why] += 1

    def _completed(self, given: i.Input) -> i.Input:
        """The input with what only this loop knows: a new turn's id, the account's limits."""
        match given:
            case i.TurnNamed():
                return msgspec.structs.replace(given, new_id=ids.new_id(ids.TURN, self._loop.clock.utc_ms()))
            case i.TurnFinished(end=i.TurnEnd.FAILED):
                return msgspec.structs.replace(given, limits=self._loop.limits, resets_at=resets_at(self._loop.limits))
        return given

    def _asked(
        self, session: Session, asked: translate.Asked, generation: Generation, transaction: Transaction
    ) -> None:
        utc_ms, deadline_ms = self._loop.clock.utc_ms(), self._loop.periods.interaction_deadline_ms
        codex_turn_id = asked.codex_turn_id
        if asked.thread_id != session.thread_id and session.running is not None:  # a sub-agent asks for its parent
            codex_turn_id = session.running.codex_turn_id
        given = i.Asked(
            interaction_id=ids.new_id(ids.INTERACTION, utc_ms),
            generation=generation.number,
            request_id=asked.request_id,
            kind=asked.kind,
            codex_turn_id=codex_turn_id,
            item_id=asked.item_id,
            request=asked.request,
            decisions=asked.decisions,
            deadline_ms=deadline_ms,
            deadline_at=rfc3339(utc_ms + deadline_ms),
        )
        self._loop.step(session, given, transaction)

    def _refuse(self, refused: translate.Refused, generation: Generation, transaction: Transaction) -> None:
        generation.send(transaction, Line(None, refused.line))
        self._note(refused.note, refused.thread_id, transaction)

    def _decline(self, asked: translate.Asked, generation: Generation, transaction: Transaction) -> None:
        self._loop.counted["question too many"] += 1
        no = i.Answer(asked.request_id, asked.kind, asked.request, None, None)
        generation.send(transaction, lines.line_of(no, generation.next_number))
        self._note(structs.replace(asked.refused.note, answered="declined"), asked.thread_id, transaction)

    def _initialized(self, generation: Generation, version: str, transaction: Transaction) -> None:
        if self._loop.child.state is not ChildState.STARTING:
            return
        generation.send(transaction, lines.initialized())
        generation.send(transaction, lines.read_account(generation.next_number))
        generation.send(transaction, lines.read_limits(generation.next_number))
        generation.ready(transaction, version)
        ready = e.Child(generation=generation.number, pid=generation.child_pid, codex_version=version)
        self._loop.became_ready(transaction, EventType.CHILD_READY, ready)

    def _note(self, note: i.Noted, thread_id: str | None, transaction: Transaction) -> None:
        session = self._loop.sessions.of_thread(thread_id)
        if session is not None:
            self._loop.step(session, note, transaction)
            return
        payload = e.Notification(
            method=note.method, params=note.params, answered=note.answered, emitted_at=note.emitted_at
        )
        transaction.events.append(NewEvent(note.type, None, None, payload))

    def _unreadable(self, line: jsonrpc.Unreadable, transaction: Transaction) -> None:
        self._loop.counted["unreadable line"] += 1
        params = msgspec.Raw(msgspec.json.encode({"sample": line.sample, "why": line.why}))
        payload = e.Notification(method="unreadable", params=params)
        transaction.events.append(NewEvent(EventType.CODEX_WARNING, None, None, payload))


def _no_piece(_: bytes) -> translate.Piece | None:
    return None
