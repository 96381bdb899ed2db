"""`baa run`: one turn, from the prompt to its end, in a terminal or in a pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from baa import config as configuration
from baa.api.errors import BaaError, CannotStart, Code, Rejected
from baa.api.events import TURN_ENDS, Event, EventType
from baa.api.sessions import ApprovalPolicy, CreateSession, Sandbox, Session, SessionStatus, StartTurn, Turn, TurnStatus
from baa.cli.plain import json_line, plain
from baa.cli.remote import EX_DATAERR, EX_NOINPUT, FAILURES, exit_code, failure
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.client.events import EventStream, Gap
from baa.config import Config

if TYPE_CHECKING:
    from baa.cli.inline import Inline

PURPOSE: Final = "baa run"
EX_USAGE: Final = 64
BY_SIGINT: Final = 130
WAIT_MS: Final = 60_000

EXIT: Final = {
    TurnStatus.COMPLETED: 0,
    TurnStatus.FAILED: 1,
    TurnStatus.INTERRUPTED: BY_SIGINT,
    TurnStatus.EXPIRED: 124,
    TurnStatus.LOST: 70,
}
"""The exit code for how a turn ended: that of an interrupted command, of `timeout`, and of what went wrong inside."""

FIELDS: Final = tuple(each.encode_name for each in msgspec.structs.fields(Turn))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    prompt: str
    cwd: str
    go_on: bool = False
    detach: bool = False
    output: str | None = None
    json: bool = False
    sandbox: Sandbox | None = None
    network: bool = False
    model: str | None = None
    approval_policy: ApprovalPolicy | None = None
    schema: dict[str, Any] | None = None


@dataclass(slots=True)
class Interrupts:
    """Ctrl-C: the first one asks for the turn's end, the second one leaves it alone."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    second: asyncio.Event = field(default_factory=asyncio.Event)

    def signal(self) -> None:
        """It was pressed."""
        (self.second if self.first.is_set() else self.first).set()


class Left(Exception):
    """Ctrl-C was pressed twice."""


def run(
    prompt: str | None,
    *,
    cwd: Path | None,
    go_on: bool,
    detach: bool,
    output: str | None,
    sandbox: Sandbox | None,
    network: bool,
    model: str | None,
    approval_policy: ApprovalPolicy | None,
    output_schema: Path | None,
    config: Path | None,
    json: bool,
) -> int:
    """The exit code of one turn. Raises CannotStart, unless failures are told as JSON."""
    if output is not None and output not in FIELDS:
        raise CannotStart(f"A turn has no field {output}. It has: {', '.join(FIELDS)}.", exit_code=EX_USAGE)
    if prompt is None and sys.stdin.isatty():
        raise CannotStart("Say what to do: baa run PROMPT, or send it to stdin.", exit_code=EX_USAGE)
    asked = Asked(
        prompt=_text(prompt),
        cwd=os.path.realpath(cwd or "."),
        go_on=go_on,
        detach=detach,
        output=output,
        json=json,
        sandbox=sandbox,
        network=network,
        model=model,
        approval_policy=approval_policy,
        schema=None if output_schema is None else _schema(output_schema),
    )
    try:
        return asyncio.run(_run(asked, configuration.load(config)))
    except FAILURES as error:
        if not json:
            raise CannotStart(error.message, exit_code=exit_code(error)) from error
        print(json_line({"ok": False, "error": failure(error)}))
        return exit_code(error)


def _text(prompt: str | None) -> str:
    """What to do, else what stdin says. Raises CannotStart."""
    try:
        if prompt is None:
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # type: ignore[union-attr]
            return sys.stdin.read()
        prompt.encode()  # an argument that is no text holds halves of surrogate pairs
    except UnicodeError:
        raise CannotStart("The prompt is not UTF-8 text.", exit_code=EX_DATAERR) from None
    return prompt


def _schema(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise CannotStart(f"{path} is no JSON Schema: {error}", exit_code=EX_DATAERR) from None


async def _run(asked: Asked, config: Config) -> int:
    with _interrupts() as interrupts:
        async with Codexd(config) as codexd:
            session = await _session(codexd, asked)
            wanted = StartTurn(
                session_id=session.session_id,
                prompt=asked.prompt,
                model=asked.model,
                sandbox=asked.sandbox,
                network_access=asked.network or None,
                approval_policy=asked.approval_policy,
                output_schema=asked.schema,
            )
            started = await codexd.start_turn(wanted)
            turn_id = started.turn.turn_id
            if asked.detach:
                _tell_started(asked, started.turn)
                return 0
            try:
                await _follow(codexd, asked, started.cursor, turn_id, interrupts)
            except Left:
                sys.stderr.write(f"\nLeft. The turn may run on: baa turn show {turn_id}\n")
                return BY_SIGINT
            except Unreachable as away:
                raise Unreachable(f"{away.message} The turn goes on: baa turn show {turn_id}") from away
            turn = await codexd.turn(turn_id, wait_ms=WAIT_MS)
        _tell_ended(asked, turn)
        return EXIT.get(turn.status, EXIT[TurnStatus.LOST])


@contextmanager
def _interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupts.signal)
    try:
        yield interrupts
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _session(codexd: Codexd, asked: Asked) -> Session:
    """The session to work in: a new one, or the last one of `baa run` in this folder."""
    if not asked.go_on:
        approvals = asked.approval_policy
        if approvals is None and sys.stdin.isatty() and sys.stdout.isatty():
            approvals = ApprovalPolicy.ON_REQUEST
        wanted = CreateSession(
            cwd=asked.cwd,
            purpose=PURPOSE,
            sandbox=asked.sandbox,
            network_access=asked.network or None,
            model=asked.model,
            approval_policy=approvals,
        )
        return await codexd.create_session(wanted)
    token: str | None = None
    while True:
        page = await codexd.sessions(purpose=PURPOSE, limit=1000, page_token=token)
        for session in page.sessions:
            if session.status is not SessionStatus.CLOSED and session.cwd == asked.cwd:
                return session
        token = page.next_page_token
        if token is None:
            raise CannotStart(
                f"`baa run` has not worked in {asked.cwd} yet. Leave --continue out, or give --cwd.",
                exit_code=EX_NOINPUT,
            )


async def _follow(codexd: Codexd, asked: Asked, cursor: str, turn_id: str, interrupts: Interrupts) -> None:
    """Until the turn has ended. Raises Left, and what the client does."""
    failed: BaseException | None = None
    show, inline = _shown(codexd, asked)
    async with codexd.events(cursor) as events, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_read(events, turn_id, show), name="events")
        ending = tasks.create_task(_interrupt(codexd, turn_id, interrupts), name="interrupt")
        leaving = tasks.create_task(interrupts.second.wait(), name="leave")
        others = [ending, *([] if inline is None else [tasks.create_task(inline.ask_on(), name="questions")])]
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        left = not reading.done()
        for task in (reading, leaving, *others):
            task.cancel()
        if not left:
            failed = reading.result()
    if left:
        raise Left
    if failed is not None:
        raise failed


async def _read(events: EventStream[Event], turn_id: str, show: Callable[[Event], None]) -> BaseException | None:
    """Show the events of the turn until its end; what came between, as a value, for a task group would wrap it."""
    try:
        while True:
            try:
                event = await anext(events)
            except Gap:
                continue  # it is counted, and what follows is told
            if event.turn_id == turn_id or event.session_id is None:
                show(event)
            if event.turn_id == turn_id and event.type in TURN_ENDS:
                return None
    except (BaaError, Unreachable, CannotStart) as error:
        return error


async def _interrupt(codexd: Codexd, turn_id: str, interrupts: Interrupts) -> None:
    await interrupts.first.wait()
    sys.stderr.write("\nInterrupting the turn; Ctrl-C again leaves it alone.\n")
    try:
        await codexd.interrupt_turn(turn_id)
    except Rejected as refused:
        if refused.code is not Code.TURN_ENDED:
            sys.stderr.write(f"{plain(refused.message)}\n")
    except (BaaError, Unreachable, CannotStart) as error:
        sys.stderr.write(f"{plain(error.message)}\n")


# --- what is seen


def _shown(codexd: Codexd, asked: Asked) -> tuple[Callable[[Event], None], Inline | None]:
    """What shows an event: to a person all that happens, in a pipe only what somebody has to do. Whoever can also type
    is asked what Codex asks.
    """
    if not sys.stdout.isatty() or asked.json or asked.output is not None:
        return _note_question, None
    from rich.console import Console

    from baa.cli.demo_show import Show
    from baa.cli.inline import Inline

    show = Show(Console(highlight=False), Path(asked.cwd))
    if sys.stdin.isatty():
        inline = Inline(codexd, show.event)
        return inline.event, inline

    def tell(event: Event) -> None:
        show.event(event)
        _note_question(event)

    return tell, None


def _note_question(event: Event) -> None:
    if event.type != EventType.INTERACTION_REQUESTED:
        return
    asked, request = event.payload, event.payload["request"]
    what = request.get("command") or request.get("reason") or asked["kind"]
    until = asked["deadlineAt"][11:16]
    sys.stderr.write(f"Codex asks: {plain(str(what))}. Answer it until {until} UTC: baa answer {event.session_id}\n")


def _tell_started(asked: Asked, turn: Turn) -> None:
    if asked.json:
        print(json_line({"ok": True, "sessionId": turn.session_id, "turnId": turn.turn_id}))
    else:
        print(turn.turn_id)


def _tell_ended(asked: Asked, turn: Turn) -> None:
    if asked.json:
        print(json_line({"ok": turn.status is TurnStatus.COMPLETED, "turn": turn}))
        return
    if asked.output is not None:
        _print(value_of(turn, asked.output))
        return
    if sys.stdout.isatty():
        return  # it was all shown as it came
    if turn.final_message:
        _print(turn.final_message)
    if turn.status is not TurnStatus.COMPLETED:
        why = turn.reason or (turn.error or {}).get("message") or "see baa turn show"
        sys.stderr.write(f"baa: the turn {turn.turn_id} is {turn.status.value}: {plain(str(why))}\n")


def value_of(turn: Turn, name: str) -> str:
    """A field of a turn: text as it is, all else as JSON; nothing where it is null."""
    value = msgspec.json.decode(msgspec.json.encode(turn)).get(name)
    if value is None:
        return ""
    return value if isinstance(value, str) else json_line(value)


def _print(text: str) -> None:
    """To a program the very text; to a terminal nothing that acts there."""
    if sys.stdout.isatty():
        print(plain(text))
        return
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    if not text.endswith("\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
