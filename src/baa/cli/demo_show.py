"""Live events as a person wants to read them: what is said word by word, what is run, what is changed.

Everything that came from Codex passes `plain` before it reaches the terminal.
"""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from baa.api.events import TURN_ENDS, Event, EventType
from baa.cli.plain import plain

WIDTH_MAX: Final = 100
OUTPUT_LINES_MAX: Final = 20
STREAM_INDENT: Final = 5
DIFF_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
ENDS_WELL: Final = EventType.TURN_COMPLETED

_PIECES: Final = re.compile(r"(\s*)(\S+|$)")


class Show:
    """Writes to the console; `folder` is the one that paths are told from."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.console = console
        self._folder = folder
        self._width = min(console.width, WIDTH_MAX)
        self._column = 0
        self._space = ""
        self._queued: dict[str, str] = {}

    def heading(self, number: int, title: str) -> None:
        """A step begins."""
        self.line("")
        self.line(f"{number}  {title}", style="bold cyan", indent=0)

    def fact(self, name: str, value: str, *, style: str = "") -> None:
        """A name and its value."""
        self.line(f"{name:<10}{value}", style=style)

    def line(self, text: str, *, style: str = "", indent: int = 3) -> None:
        """A line of its own, also when an answer is being streamed."""
        self._end_stream()
        for part in plain(text).split("\n"):
            self.console.print(Text((" " * indent + part).rstrip(), style=style), soft_wrap=True)

    def event(self, event: Event) -> None:
        """What a person wants to know of this event, which may be nothing."""
        match event.type:
            case EventType.ITEM_DELTA if event.payload["stream"] == "text":
                self._stream(event.payload["delta"])
            case EventType.ITEM_STARTED | EventType.ITEM_COMPLETED:
                self._item(event.type, event.payload["kind"], event.payload["item"])
            case EventType.TURN_QUEUED if event.payload.get("request"):
                self._queued[event.turn_id or ""] = event.at
                self.line("")
                self.line(f"> {event.payload['request']['prompt']}", style="bold")
            case type_ if type_ in TURN_ENDS:
                self._turn_ended(event)
            case EventType.CHILD_EXITED:
                self._child_ended(event.payload)
            case _:
                return

    def _item(self, type_: str, kind: str, item: dict[str, Any]) -> None:
        match kind, type_:
            case "agentMessage", EventType.ITEM_COMPLETED:
                self._end_stream()
            case "commandExecution", EventType.ITEM_STARTED:
                self.line(f"$ {command(item['command'])}", style="bold", indent=5)
            case "commandExecution", EventType.ITEM_COMPLETED:
                self._output(item)
            case "fileChange", EventType.ITEM_COMPLETED:
                for change in item["changes"]:
                    self._change(change)
            case _:
                return

    def _output(self, item: dict[str, Any]) -> None:
        lines = (item["aggregatedOutput"] or "").splitlines()
        for line in lines[:OUTPUT_LINES_MAX]:
            self.line(line, style="dim", indent=7)
        if len(lines) > OUTPUT_LINES_MAX:
            self.line(f"… {len(lines) - OUTPUT_LINES_MAX} more lines", style="dim", indent=7)
        code = item["exitCode"]
        self.line(f"exit {code}", style="green" if code == 0 else "yellow", indent=7)

    def _change(self, change: dict[str, Any]) -> None:
        path = Path(change["path"])
        name = path.relative_to(self._folder) if path.is_relative_to(self._folder) else path
        self.line(f"{change['kind']['type']} {name}", style="bold", indent=5)
        for line in change["diff"].splitlines():
            self.line(line, style=DIFF_STYLES.get(line[:1], "dim"), indent=7)

    def _turn_ended(self, event: Event) -> None:
        status = event.type.removeprefix("turn.")
        took = seconds_between(self._queued[event.turn_id or ""], event.at)
        if event.type == ENDS_WELL:
            self.line(f"{status} in {took:.1f} s", style="green")
        else:
            why = event.payload.get("reason") or event.payload.get("error")
            self.line(f"{status} after {took:.1f} s: {why}", style="bold red")

    def _child_ended(self, child: dict[str, Any]) -> None:
        how = f"signal {child['signal']}" if child.get("signal") else f"code {child.get('code')}"
        last = (child.get("stderrTail") or "").strip().splitlines()[-1:]
        self.line(f"Codex ended ({how}){''.join(f': {line}' for line in last)}", style="yellow")

    def _stream(self, delta: str) -> None:
        for space, word in _PIECES.findall(plain(delta)):
            if "\n" in space:
                self._end_stream()
            self._space = "" if "\n" in space else self._space + space
            if not word:
                continue
            if self._column + cell_len(self._space + word) > self._width:
                self._end_stream()
            piece = self._space + word if self._column else " " * STREAM_INDENT + word
            self.console.out(piece, end="", highlight=False)
            self._column += cell_len(piece)
            self._space = ""

    def _end_stream(self) -> None:
        self._space = ""
        if self._column:
            self.console.out("", highlight=False)
            self._column = 0


def command(line: str) -> str:
    """The command that the model asked for, out of the shell that Codex runs it in."""
    try:
        match shlex.split(line):
            case [_, "-lc" | "-c", inner]:
                return inner
    except ValueError:
        pass
    return line


def seconds_between(earlier: str, later: str) -> float:
    """Between two times of events."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
