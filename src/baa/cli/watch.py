"""`baa watch`: all sessions, the chosen one's stream, and what waits for an answer, live. watching.py decides what.

The screen follows two streams of events by cursor, so a codexd that is killed and comes back leaves no gap in it. What
changed is shown ten times a second, block by block.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import Worker

from baa import config as configuration
from baa.api.errors import BaaError, CannotStart, Rejected
from baa.api.events import Event, EventType
from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.api.sessions import Session, SteerTurn
from baa.cli import asking
from baa.cli.answering import Answering
from baa.cli.asked import OpenQuestion
from baa.cli.plain import plain
from baa.cli.rows import text_of
from baa.cli.watching import SESSIONS_MAX, Stream, View
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.client.events import Gap

EX_USAGE: Final = 64

SHOW_S: Final = 0.1
"""Between two looks at what changed: as fast as anybody reads."""

AWAY_S: Final = 2.0
"""Seconds for which codexd may be away before the screen says so. It is looked for as long as the screen is there."""

AT_ONCE: Final = 200
"""Events taken between two moments for keys and screen."""

QUESTIONS_SHOWN: Final = 4

LIFECYCLE: Final = tuple(
    type_ for type_ in EventType if type_.value.split(".")[0] in ("session", "turn", "interaction")
)


def run(*, config_file: Path | None = None, session_id: str | None = None) -> int:
    """Watch until that is left. Raises CannotStart."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CannotStart("baa watch needs a terminal. In a script follow the events.", exit_code=EX_USAGE)
    app = Watch(Codexd(configuration.load(config_file), patience_s=AWAY_S), session_id, config_file)
    app.run()
    return app.return_code or 0


class Watch(App[None]):
    """The screen."""

    TITLE = "baa watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #questions { height: auto; max-height: 5; padding: 0 1; background: $warning 20%; display: none; }
    #questions.some { display: block; }
    #sessions { width: 28; border: none; padding: 0; background: $surface; }
    #stream { padding: 0 1; border-left: solid $primary 40%; }
    #stream Static { width: 100%; height: auto; }
    #told { height: 1; padding: 0 1; color: $text-muted; }
    #typed { display: none; border: none; height: 1; padding: 0 1; }
    #typed.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("a", "answer", "Answer"),
        ("s", "steer", "Steer"),
        ("i", "interrupt", "Interrupt"),
        ("f", "fold", "Fold"),
        ("g", "follow", "Follow"),
        Binding("tab", "app.focus_next", "List or stream", key_display="Tab", priority=True),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, codexd: Codexd, session_id: str | None, config_file: Path | None = None) -> None:
        super().__init__()
        self._codexd = codexd
        self._config = None if config_file is None else str(config_file.absolute())
        self._wanted = session_id
        self._view = View()
        self._stream: Stream | None = None
        self._following: Worker[None] | None = None
        self._blocks: dict[str, Static] = {}
        self._listed: set[str] = set()
        self._unfolded = False
        self._away: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Questions on top, sessions left, the stream right."""
        yield Static(id="questions")
        with Horizontal():
            yield OptionList(id="sessions")
            yield VerticalScroll(id="stream")
        yield Static(id="told")
        yield Input(id="typed", placeholder="more input for the running turn; Enter sends it, Escape leaves it")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to follow."""
        self.query_one("#stream", VerticalScroll).anchor()
        self.query_one("#sessions").focus()
        self.run_worker(self._follow_all(), name="all")
        self.set_interval(SHOW_S, self._show)

    # --- what comes

    async def _follow_all(self) -> None:
        while True:
            after = await self._persist("sessions", self._load)
            await self._follow("sessions", after, None, self._view.apply)

    async def _load(self) -> str:
        """What there is now, and the cursor from which events tell the rest."""
        log = (await self._codexd.status()).log
        found: list[Session] = []
        token = None
        while len(found) < SESSIONS_MAX:
            page = await self._codexd.sessions(limit=1000, page_token=token)
            found += page.sessions
            token = page.next_page_token
            if token is None:
                break
        view = View()
        view.load(reversed(found[:SESSIONS_MAX]))
        for session in found:
            if session.open_interactions:
                view.load_questions((await self._codexd.session(session.session_id)).interactions or ())
        self._view = view
        view.questions_changed = True
        self._list_sessions()
        return f"{log.epoch}:{log.head}"

    async def _follow_session(self, session_id: str) -> None:
        while True:
            stream = self._stream = Stream(session_id)
            self._blocks.clear()
            await self.query_one("#stream", VerticalScroll).remove_children()
            await self._follow("stream", "0", session_id, stream.apply)

    async def _follow(self, what: str, after: str, session_id: str | None, apply: Callable[[Event], None]) -> None:
        """Apply events as they come, across restarts of codexd. Returns if the cursor is of no use any more."""
        cursor: str | None = after
        while True:
            types = LIFECYCLE if session_id is None else None
            events = self._codexd.events(cursor, session_id=session_id, types=types)
            try:
                async with events:
                    self._away.pop(what, None)
                    taken = 0
                    async for event in events:
                        apply(event)
                        cursor = events.cursor
                        taken += 1
                        if taken % AT_ONCE == 0:
                            await asyncio.sleep(0)
            except (Unreachable, BaaError, CannotStart) as away:
                cursor = events.cursor
                if isinstance(away, Rejected):
                    return  # another log, or one that no longer holds what follows: begin anew
                self._away[what] = away.message
                await asyncio.sleep(SHOW_S)
            except Gap:
                return

    async def _persist(self, what: str, ask: Callable[[], Awaitable[str]]) -> str:
        while True:
            try:
                return await ask()
            except (Unreachable, BaaError, CannotStart) as away:
                self._away[what] = away.message
                await asyncio.sleep(SHOW_S)

    # --- what is shown

    async def _show(self) -> None:
        """Show what changed since the last look, and nothing else."""
        if self._view.changed:
            self._show_sessions()
        if self._view.questions_changed:
            self._view.questions_changed = False
            rows = self._view.question_rows(QUESTIONS_SHOWN)
            questions = self.query_one("#questions", Static)
            questions.update(text_of(rows))
            questions.set_class(bool(rows), "some")
            screen = self.screen
            if isinstance(screen, Answering) and screen.question.interaction_id not in self._view.questions:
                _ = screen.dismiss(None)
                self._tell("Nobody asks that any more, or it was answered elsewhere.")
        if self._stream is not None and (self._stream.changed or self._stream.gone):
            await self._show_stream(self._stream)
        away = next(iter(self._away.values()), None)
        count = len(self._view.sessions)
        told = (
            f"codexd is away: {plain(away)}"
            if away
            else f"{count} sessions, {len(self._view.questions)} open questions"
        )
        self.query_one("#told", Static).update(Text(told.replace("\n", " ")))

    def _list_sessions(self) -> None:
        """All of the list anew: at the start, and when the log is another one."""
        options = self.query_one("#sessions", OptionList)
        options.clear_options()
        self._view.changed.clear()
        self._listed = set(self._view.sessions)
        options.add_options(self._option(session_id) for session_id in reversed(self._view.sessions))
        wanted = self._wanted if self._wanted in self._view.sessions else next(reversed(self._view.sessions), None)
        if wanted is not None:
            options.highlighted = options.get_option_index(wanted)

    def _show_sessions(self) -> None:
        options = self.query_one("#sessions", OptionList)
        changed, self._view.changed = self._view.changed, set()
        new = [
            session_id for session_id in changed if session_id in self._view.sessions and session_id not in self._listed
        ]
        for session_id in changed:
            if session_id in self._view.sessions and session_id in self._listed:
                options.replace_option_prompt(session_id, self._line(session_id))
        if new or not self._listed <= self._view.sessions.keys():  # the list is made anew around the chosen one
            self._wanted = None if self._stream is None else self._stream.session_id
            self._list_sessions()

    def _option(self, session_id: str) -> Option:
        return Option(self._line(session_id), id=session_id)

    def _line(self, session_id: str) -> Text:
        asks = self._view.asks(session_id)
        row = self._view.sessions[session_id]
        style = "bold yellow" if asks else "dim" if row.closed else ""
        return Text(row.text(asks), style=style, no_wrap=True, overflow="ellipsis")

    async def _show_stream(self, stream: Stream) -> None:
        area = self.query_one("#stream", VerticalScroll)
        changed, stream.changed = stream.changed, set()
        gone, stream.gone = stream.gone, []
        for key in gone:
            widget = self._blocks.pop(key, None)
            if widget is not None:
                await widget.remove()
        new = []
        for key in stream.blocks if len(changed) > 1 else changed:
            if key not in changed:
                continue
            rows = stream.blocks[key].rows(unfolded=self._unfolded)
            if key in self._blocks:
                self._blocks[key].update(text_of(rows))
            else:
                self._blocks[key] = Static(text_of(rows))
                new.append(self._blocks[key])
        if new:
            await area.mount_all(new)

    # --- keys

    def on_option_list_option_highlighted(self, message: OptionList.OptionHighlighted) -> None:
        """Another session is chosen."""
        session_id = message.option.id
        if message.option_list.id != "sessions" or session_id is None:
            return
        if self._stream is None or self._stream.session_id != session_id:
            if self._following is not None:
                self._following.cancel()
            self._stream = Stream(session_id)
            self._following = self.run_worker(self._follow_session(session_id), name="session")

    def _turn_of_it(self) -> str | None:
        """The chosen session's running turn."""
        row = None if self._stream is None else self._view.sessions.get(self._stream.session_id)
        return None if row is None else row.running

    def action_fold(self) -> None:
        """Commands with or without what they wrote."""
        self._unfolded = not self._unfolded
        if self._stream is not None:
            self._stream.changed.update(self._stream.blocks)

    def action_follow(self) -> None:
        """To the newest, and on with it."""
        self.query_one("#stream", VerticalScroll).anchor()

    def action_interrupt(self) -> None:
        """End the running turn."""
        turn_id = self._turn_of_it()
        if turn_id is None:
            self._tell("No turn of this session runs.")
            return
        self._do(lambda: self._codexd.interrupt_turn(turn_id), "The turn is being interrupted.")

    def action_steer(self) -> None:
        """Type more input for the running turn."""
        if self._turn_of_it() is None:
            self._tell("No turn of this session runs.")
            return
        typed = self.query_one("#typed", Input)
        typed.add_class("open")
        typed.focus()

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """It is typed."""
        turn_id, words = self._turn_of_it(), message.value
        self._close_input()
        if turn_id is not None and words:
            self._do(lambda: self._codexd.steer_turn(turn_id, SteerTurn(prompt=words)), "Codex took it.")

    def key_escape(self) -> None:
        """Leave the input."""
        self._close_input()

    def _close_input(self) -> None:
        typed = self.query_one("#typed", Input)
        typed.value = ""
        typed.remove_class("open")
        self.query_one("#sessions").focus()

    async def action_answer(self) -> None:
        """Answer the chosen session's question, or the oldest."""
        question = self._view.question_of(None if self._stream is None else self._stream.session_id)
        if question is None:
            self._tell("Nothing waits for an answer.")
            return
        screen = Answering(question, self._config)
        await self.push_screen(screen, lambda answer: self._answer(question, answer))
        if question.kind is InteractionKind.FILE_CHANGE:
            self.run_worker(self._read_changes(screen), name="changes")

    async def _read_changes(self, screen: Answering) -> None:
        """A change is shown before it is decided on."""
        changes, unknown = [], ""
        try:
            changes = await asking.changes_of(self._codexd, screen.question)
        except (Unreachable, BaaError, CannotStart) as refused:
            unknown = refused.message
        if screen.is_attached:  # what may stand above it goes away again
            screen.changed(changes, unknown)

    def _answer(self, question: OpenQuestion, answer: AnswerInteraction | None) -> None:
        if answer is not None:
            self._do(lambda: asking.give(self._codexd, question, answer), "Answered.")

    def _do(self, ask: Callable[[], Awaitable[Any]], done: str) -> None:
        async def doing() -> None:
            try:
                await ask()
                self._tell(done)
            except (Unreachable, BaaError, CannotStart) as refused:
                self._tell(refused.message, severity="error")

        self.run_worker(doing(), name="doing")

    def _tell(self, words: str, severity: Any = "information") -> None:
        self.notify(plain(words), severity=severity, timeout=4, markup=False)
