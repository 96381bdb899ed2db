"""The door for Codex's own terminal UI: a private Unix socket, which a one-time ticket opens, and what is asked there.

The UI speaks the app-server's protocol, one message a WebSocket frame. What is typed there is a turn like any other:
it goes through the same commands, under the same ceiling, into the same log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from baa.api import ids
from baa.api.answers import Attachment
from baa.api.errors import BaaError, CannotStart, Code, PeerFailed, Rejected, Unavailable
from baa.api.sessions import OnBusy, Origin, SessionSettings, StartTurn, TurnRequest
from baa.clock import Clock, rfc3339
from baa.codexd.appserver import attached as dialect
from baa.codexd.appserver import attached_answers, attached_told, jsonrpc
from baa.codexd.appserver.jsonrpc import Unreadable
from baa.codexd.appserver.lines import Line
from baa.codexd.attached import Terminal
from baa.codexd.commands import Commands
from baa.codexd.eventlog import Transaction
from baa.codexd.machines import inputs as i
from baa.codexd.machines.session import Session
from baa.codexd.main_loop import MainLoop
from baa.codexd.policy import Policy
from baa.unix import reachable

TICKET_S: Final = 10.0
"""Seconds for which a ticket is good: it is used at once, or not at all."""

TICKETS_MAX: Final = 100
TERMINALS_MAX: Final = 20

MESSAGE_BYTES_MAX: Final = 8 << 20
"""What a terminal may say at once; Codex takes a megabyte of text."""

ASKING_MAX: Final = 32
"""Requests of one terminal under way. Codex drops what is asked of it too fast."""

OPEN_S: Final = 30.0
"""Seconds for Codex to open a stored thread; 0.05 are usual."""

COMPACT: Final = "/compact"
"""What stands in the ledger as the prompt of a turn that shortens the history."""

LEAVING_S: Final = 1.0
"""Seconds for what a terminal asked just before it left."""

GOING_AWAY: Final = 1001
TRY_AGAIN: Final = 1013

_log = structlog.get_logger("attach")
_quiet: Final = logging.getLogger("baa.attach.websockets")  # whoever knocks must not fill our stderr
_quiet.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class _Ticket:
    session_id: str
    good_until: float


class Attaching:
    """What lets terminals in, and does what they ask."""

    def __init__(
        self, loop: MainLoop, commands: Commands, policy: Policy, *, clock: Clock, path: Path, codex_home: Path
    ) -> None:
        """Nothing listens before `serving`."""
        self._loop = loop
        self._commands = commands
        self._policy = policy
        self._clock = clock
        self._path = path
        self._codex_home = str(codex_home)
        self._tickets: dict[bytes, _Ticket] = {}
        self._welcome: dict[ServerConnection, str] = {}

    # --- tickets

    def issue(self, session_id: str) -> Attachment:
        """A ticket for one terminal on this session. Raises Rejected (404, 409), Unavailable."""
        session = self._commands.to_attach(session_id)
        now = self._clock.monotonic()
        self._tickets = {key: ticket for key, ticket in self._tickets.items() if ticket.good_until > now}
        if len(self._tickets) >= TICKETS_MAX or len(self._loop.attached.terminals) >= TERMINALS_MAX:
            raise Unavailable(Code.OVERLOADED, "Too many terminals attach at the moment. Close one, or try again.")
        ticket = secrets.token_urlsafe(32)
        self._tickets[_hashed(ticket)] = _Ticket(session_id, now + TICKET_S)
        return Attachment(
            session_id=session_id,
            thread_id=session.thread_id or "",
            socket=str(self._path),
            ticket=ticket,
            expires_at=rfc3339(self._clock.utc_ms() + round(TICKET_S * 1000)),
        )

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Let a connection in that shows a ticket, which is used up by that."""
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        ticket = self._tickets.pop(_hashed(shown), None) if scheme.lower() == "bearer" else None
        if ticket is None or ticket.good_until <= self._clock.monotonic() or "Origin" in request.headers:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "This ticket lets nobody in. Use: baa attach SESSION\n")
        self._welcome[connection] = ticket.session_id
        return None

    # --- the socket

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Terminals can come while this lasts; at its end those that are there are let go."""
        with _bound(self._path) as sock:
            server = await unix_serve(
                self._terminal,
                sock=sock,
                process_request=self._admit,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                open_timeout=TICKET_S,
                close_timeout=1,
                server_header=None,
                logger=_quiet,
            )
            try:
                yield
            finally:
                server.close(code=GOING_AWAY, reason="codexd stops")
                await server.wait_closed()

    async def _terminal(self, connection: ServerConnection) -> None:
        """One terminal, from its welcome to its end."""
        terminal = Terminal(ids.new_id("att", self._clock.utc_ms()), self._welcome.pop(connection))
        self._loop.attached.add(terminal)
        _log.info("terminal.attached", session_id=terminal.session_id)
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(_tell(terminal, connection), name="telling")
                hearing = tasks.create_task(self._hear(terminal, connection), name="hearing")
                lost = tasks.create_task(terminal.lost.wait(), name="lost")
                await asyncio.wait((telling, hearing, lost), return_when=asyncio.FIRST_COMPLETED)
                await connection.close(TRY_AGAIN, "come back")
                await asyncio.wait((hearing,), timeout=LEAVING_S)  # what was asked before it left is done all the same
                for task in (telling, hearing, lost):
                    task.cancel()
        except Exception as error:  # boundary: terminal. It is let go, and a mistake of ours is in the log.
            _log.error("terminal.failed", session_id=terminal.session_id, exc_info=error)
        finally:
            self._loop.attached.remove(terminal)
            _log.info("terminal.left", session_id=terminal.session_id)

    async def _hear(self, terminal: Terminal, connection: ServerConnection) -> None:
        room = asyncio.Semaphore(ASKING_MAX)

        async def done(meant: dialect.Meant) -> None:
            try:
                await self._do(terminal, meant)
            finally:
                room.release()

        with suppress(ConnectionClosed):
            async with asyncio.TaskGroup() as tasks:
                async for frame in connection:
                    meant = dialect.meant(frame.encode() if isinstance(frame, str) else frame, terminal.session_id)
                    if not isinstance(meant, Unreadable):
                        await room.acquire()
                        tasks.create_task(done(meant), name="asked")

    # --- what is asked

    async def _do(self, terminal: Terminal, meant: dialect.Meant) -> None:
        match meant:
            case dialect.Ready(line):
                terminal.tell(line)
            case dialect.Waived():
                self._loop.attached.waive(terminal, meant)
            case dialect.Nothing():
                return
            case dialect.Answered(interaction_id, _):
                await self._answer(terminal, str(interaction_id), meant)
            case _:
                try:
                    await self._asked(terminal, meant)
                except BaaError as error:
                    waived = dialect.borne(meant, error.message)
                    if waived is not None:
                        self._loop.attached.waive(terminal, waived)
                        return
                    code = attached_told.OVERLOADED if error.code is Code.OVERLOADED else dialect.INVALID
                    terminal.tell(attached_told.refused(meant.request_id, error.message, code))

    async def _asked(self, terminal: Terminal, meant: dialect.Meant) -> None:
        session = self._session(terminal)
        match meant:
            case dialect.Greeting():
                terminal.unwanted = meant.unwanted
                version = self._loop.codex_version
                terminal.tell(attached_told.greeted(meant, version=version, codex_home=self._codex_home))
            case dialect.Loaded():
                terminal.tell(attached_told.loaded(meant, session.thread_id or ""))
            case dialect.Skills():
                await self._look(terminal, meant, session)
            case dialect.Look():
                if meant.thread_id is not None:
                    self._must_be_its(session, meant.thread_id, agents=not (meant.resumes or meant.renames))
                if meant.resumes:
                    await self._open(session.session_id)
                await self._look(terminal, meant, session)
            case dialect.Begin():
                await self._begin(terminal, meant, session)
            case dialect.Compact():
                await self._compact(terminal, meant, session)
            case dialect.Steer() if session.running is not None and session.running.request.compact:
                terminal.tell(attached_told.unsteerable(meant.request_id))
            case dialect.Steer():
                self._must_be_its(session, meant.thread_id)
                steer_id = ids.new_id("str", self._clock.utc_ms())
                turn_id = _running(session, meant.codex_turn_id, "steer")
                if meant.message_id is not None:
                    terminal.names[steer_id] = meant.message_id
                parts = self._policy.input(None, list(meant.parts))
                await self._commands.steer(turn_id, parts, steer_id=steer_id)
                terminal.tell(jsonrpc.answer(meant.request_id, {"turnId": meant.codex_turn_id}))
            case dialect.Interrupt():
                self._must_be_its(session, meant.thread_id)
                await self._commands.interrupt(_running(session, meant.codex_turn_id, "interrupt"))
                terminal.tell(jsonrpc.answer(meant.request_id, {}))

    async def _look(self, terminal: Terminal, meant: dialect.Look | dialect.Skills, session: Session) -> None:
        """Pass on what changes nothing; the answer finds the terminal when it comes."""
        terminal.asked += 1
        key = f"{terminal.terminal_id}.{terminal.asked}"

        def line(number: int) -> Line:
            if isinstance(meant, dialect.Skills):
                return dialect.skills(number, key, session.settings.cwd)
            return dialect.look(number, key, meant)

        def decide(transaction: Transaction) -> None:
            line_id = self._loop.ask_child(transaction, line)
            resumes = isinstance(meant, dialect.Look) and meant.resumes
            bears = dialect.borne(meant)
            self._loop.attached.expect_look(line_id, terminal, meant.request_id, resumes=resumes, bears=bears)

        await self._loop.ask(decide)

    async def _open(self, session_id: str) -> None:
        """See to it that the child has the thread, with its session's settings. Raises Unavailable, PeerFailed."""

        def decide(transaction: Transaction) -> None:
            session = self._loop.sessions.get(session_id)
            if session is not None:
                self._loop.step(session, i.OpenWanted(), transaction)

        await self._loop.ask(decide)
        try:
            async with asyncio.timeout(OPEN_S):
                while True:
                    head, generation = self._loop.log.head, self._loop.child.generation
                    session = self._loop.sessions.get(session_id)
                    if session is None or session.loaded_in == generation:
                        return
                    if session.opening_in != generation:
                        break
                    await self._loop.log.wait_past(head)
        except TimeoutError:
            pass
        raise PeerFailed(Code.CODEX_FAILED, "Codex does not open the session's thread. Try again.")

    async def _begin(self, terminal: Terminal, meant: dialect.Begin, session: Session) -> None:
        """What was typed becomes a turn, or more input for the one that runs."""
        self._must_be_its(session, meant.thread_id)
        _refuse_beyond(meant, session.settings)
        asked = StartTurn(
            session_id=session.session_id,
            input=list(meant.parts),
            model=meant.model,
            effort=meant.effort,
            sandbox=meant.sandbox,
            network_access=meant.network,
            approval_policy=meant.approval_policy,
        )
        self._policy.go_on(session.settings, asked)
        request = self._policy.request(asked)
        turn_id = ids.new_id(ids.TURN, self._clock.utc_ms())
        if meant.message_id is not None:
            terminal.names[turn_id] = meant.message_id
        running = session.running
        on_busy = OnBusy.ENQUEUE if running is not None and running.request.compact else OnBusy.STEER
        self._loop.attached.expect_turn(turn_id, terminal, meant.request_id)
        try:
            told = await self._commands.start_turn(
                session.session_id, turn_id, request, on_busy=on_busy, origin=Origin.ATTACHED
            )
        except BaaError:
            self._loop.attached.expect_no_turn(turn_id)
            raise
        if told.steered:
            self._loop.attached.expect_no_turn(turn_id)
            codex_turn_id = None if running is None else running.codex_turn_id
            terminal.tell(jsonrpc.answer(meant.request_id, attached_told.running(codex_turn_id or told.turn_id)))

    async def _compact(self, terminal: Terminal, meant: dialect.Compact, session: Session) -> None:
        """The history is shortened in a turn like any other, and only while none has not ended."""
        self._must_be_its(session, meant.thread_id)
        self._policy.go_on(session.settings, StartTurn(session_id=session.session_id, prompt=COMPACT))
        turn_id = ids.new_id(ids.TURN, self._clock.utc_ms())
        self._loop.attached.expect_turn(turn_id, terminal, meant.request_id, bears=dialect.borne(meant))
        try:
            await self._commands.start_turn(
                session.session_id, turn_id, TurnRequest(prompt=COMPACT, compact=True), origin=Origin.ATTACHED
            )
        except BaaError:
            self._loop.attached.expect_no_turn(turn_id)
            raise

    async def _answer(self, terminal: Terminal, interaction_id: str, meant: dialect.Answered) -> None:
        """The first answer counts; one that comes too late was told so already."""
        question = terminal.questions.get(interaction_id)
        if question is None:
            return
        answer = attached_answers.answer_of(question, meant.result)
        try:
            await self._commands.answer(interaction_id, answer, lambda owner, _: owner == terminal.session_id)
        except Rejected as misfit:
            _log.warning("answer.unfit", session_id=terminal.session_id, why=misfit.message)
            await self._commands.answer(
                interaction_id, attached_answers.NO, lambda owner, _: owner == terminal.session_id
            )

    # --- what all of them check

    def _session(self, terminal: Terminal) -> Session:
        session = self._loop.sessions.get(terminal.session_id)
        assert session is not None  # it was there when the ticket was issued, and none ever goes
        return session

    @staticmethod
    def _must_be_its(session: Session, thread_id: str, *, agents: bool = False) -> None:
        its = {session.thread_id, *(agent.thread_id for agent in session.agents if agents)}
        if thread_id not in its:
            raise Rejected(
                Code.THREAD_NOT_FOUND, "This terminal is attached to one session, and that thread is not its."
            )


def _running(session: Session, codex_turn_id: str, what: str) -> str:
    running = session.running
    if running is None or running.codex_turn_id is None:
        raise Rejected(Code.TURN_NOT_RUNNING, f"no active turn to {what}")
    if running.codex_turn_id != codex_turn_id:
        told = f"expected active turn id `{codex_turn_id}` but found `{running.codex_turn_id}`"
        raise Rejected(Code.TURN_NOT_RUNNING, told)
    return running.turn_id


def _refuse_beyond(meant: dialect.Begin, settings: SessionSettings) -> None:
    """Sandbox and network are the ceiling's to judge; other folders no session of ours can have."""
    folders = {os.path.realpath(folder) for folder in meant.folders}
    its = {settings.cwd, *settings.writable_roots}
    if not folders <= its:
        told = ", ".join(sorted(folders - its)[:3])
        raise Rejected(Code.POLICY_CEILING, f"The session works in {settings.cwd}, and this turn would in {told}.")


async def _tell(terminal: Terminal, connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await connection.send((await terminal.next()).decode())


def _hashed(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    """A socket at `path` for nobody else. What a dead codexd left there goes: the folder is ours alone by its lock."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with reachable(path) as address:
            sock.bind(os.fspath(address))
        path.chmod(0o600)
        yield sock
    except OSError as error:
        raise CannotStart(f"The socket {path} for attached terminals cannot be made: {error.strerror}.") from error
    finally:
        sock.close()
        path.unlink(missing_ok=True)
