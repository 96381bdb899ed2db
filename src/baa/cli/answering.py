"""The screen of `baa watch` in which one question is answered: what is asked, the choices by number, a line to type in.

What a person says is taken by questions.py; here it is only shown, and asked for.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.cli.asked import OpenQuestion, elsewhere, rows_of
from baa.cli.plain import plain
from baa.cli.questions import Making, Unfit, one_line
from baa.cli.rows import text_of

BY_KEY_MAX: Final = 9
"""Choices that a key can tell apart; of more the number is typed."""

KEYS: Final = tuple(str(number) for number in range(1, BY_KEY_MAX + 1))

READING: Final = "The changes are being read. What is decided on is shown first."

ROWS_MAX: Final = 2000
"""Lines of a question that are shown."""


class Answering(ModalScreen[AnswerInteraction | None]):
    """One question; ends with its answer, or with None if that was left open. `config` is the file that `baa` was
    started with.
    """

    CSS = """
    Answering { align: center middle; }
    #box { width: 94%; max-width: 110; height: auto; max-height: 100%; background: $surface; padding: 0 1; }
    #box Static { height: auto; width: 100%; }
    #detail { height: auto; max-height: 50vh; }
    #wanted { text-style: bold; }
    #choices { height: auto; max-height: 6; border: none; padding: 0; }
    #words { border: none; height: 1; padding: 0; }
    #unfit { color: $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(number, f"choose('{number}')", "Choose", key_display="1-9", show=number == "1") for number in KEYS),
        Binding("up", "move(False)", "Choice above", show=False),
        Binding("down", "move(True)", "Choice below", show=False),
        Binding("pageup", "scroll(-1)", "Back", key_display="PgUp", priority=True),
        Binding("pagedown", "scroll(1)", "More", key_display="PgDn", priority=True),
        Binding("escape", "leave", "Leave it open", key_display="Esc"),
    ]

    def __init__(self, question: OpenQuestion, config: str | None = None) -> None:
        super().__init__()
        self.question = question
        self._config = config
        self._making = Making(question.kind, question.decisions, question.request, json=False)
        self._reading = question.kind is InteractionKind.FILE_CHANGE
        self._step = 0

    def compose(self) -> ComposeResult:
        """What is asked above what can be said."""
        with Vertical(id="box"):
            with VerticalScroll(id="detail"):
                yield Static(id="asked")
            yield Static(id="wanted")
            yield OptionList(id="choices")
            yield Input(id="words", placeholder="type it; Enter takes it", select_on_focus=False)
            yield Static(id="unfit")
        yield Footer()

    def on_mount(self) -> None:
        """It is to be decided first."""
        self.query_one("#detail").can_focus = False
        self._show([])
        if self._reading:
            self.query_one("#unfit", Static).update(READING)
        self._ask()

    def changed(self, changes: list[dict[str, Any]], unknown: str = "") -> None:
        """Show the changes that it is about, or why they cannot be shown. From then on it can be decided."""
        self._reading = False
        self.query_one("#unfit", Static).update("")
        self._show(changes, unknown)

    def _show(self, changes: list[dict[str, Any]], unknown: str = "") -> None:
        asked = self.question
        rows = rows_of(asked.kind, asked.deadline_at, asked.request, changes)
        if unknown:
            rows.append(("bad", one_line(f"The changes cannot be shown: {unknown}")))
        if len(rows) > ROWS_MAX:
            rows[ROWS_MAX:] = [("bad", f"… and {len(rows) - ROWS_MAX} lines more: baa answer {asked.interaction_id}")]
        self.query_one("#asked", Static).update(text_of([*rows, *elsewhere(asked, self._config)]))

    # --- what is to be said next

    def _ask(self) -> None:
        field, choices = self._making.field, self._making.choices()
        wanted, words = self.query_one("#wanted", Static), self.query_one("#words", Input)
        options = self.query_one("#choices", OptionList)
        options.clear_options()
        options.add_options(Option(Text(f"{number}  {choice}")) for number, choice in enumerate(choices, 1))
        options.display = bool(choices)
        by_key = self._by_key()
        options.highlighted = 0 if by_key else None
        wanted.display = words.display = field is not None
        words.clear()
        if field is None:
            options.focus()
            return
        self._step += 1
        of = f"{self._step} of {len(self._making.fields)}: " if len(self._making.fields) > 1 else ""
        hint = field.hint()
        wanted.update(Text(f"{of}{field.words}" + (f" ({hint})" if hint else "")))
        words.password = field.secret
        (options if by_key else words).focus()

    def _by_key(self) -> bool:
        """Whether a key picks a choice at once: not where other words may begin with it."""
        field, count = self._making.field, len(self._making.choices())
        return 0 < count <= BY_KEY_MAX and (field is None or not (field.free or field.many))

    def _say(self, typed: str) -> None:
        if self._reading:  # nobody says yes to a change that was not shown
            return
        unfit = self.query_one("#unfit", Static)
        unfit.update("")
        try:
            answer = self._making.say(typed)
        except Unfit as told:
            unfit.update(Text(plain(str(told))))
            return
        if answer is None:
            self._ask()
        else:
            _ = self.dismiss(answer)  # its end is not waited for within it

    # --- keys

    def on_key(self, event: events.Key) -> None:
        """What no widget took goes to the line, so that nothing typed is lost."""
        words = self.query_one("#words", Input)
        if words.display and event.is_printable and event.character and not (self._by_key() and event.key in KEYS):
            event.stop()
            event.prevent_default()
            words.focus()
            words.insert_text_at_cursor(event.character)

    def action_choose(self, number: str) -> None:
        """A choice, by its number."""
        self._say(number)

    def action_move(self, down: bool) -> None:
        """The choice above or below, also from the line."""
        options = self.query_one("#choices", OptionList)
        (options.action_cursor_down if down else options.action_cursor_up)()

    def on_option_list_option_selected(self, message: OptionList.OptionSelected) -> None:
        """The choice under the cursor; where there may be several it is added to those typed."""
        message.stop()
        field, number = self._making.field, str(message.option_index + 1)
        if field is None or not field.many:
            self._say(number)
            return
        words = self.query_one("#words", Input)
        words.value = f"{words.value.rstrip(', ')}, {number}".strip(", ")

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """A line was typed; an empty one takes the choice under the cursor, if that was moved to one."""
        message.stop()
        chosen = self.query_one("#choices", OptionList).highlighted
        self._say(message.value if message.value or chosen is None else str(chosen + 1))

    def action_scroll(self, pages: int) -> None:
        """More of what is asked."""
        detail = self.query_one("#detail", VerticalScroll)
        (detail.scroll_page_down if pages > 0 else detail.scroll_page_up)(animate=False)

    def action_leave(self) -> None:
        """Leave it open."""
        _ = self.dismiss(None)
