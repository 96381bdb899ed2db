"""Items of a turn and diffs on a terminal: what is shown wherever a turn is looked at."""

from __future__ import annotations

import sys
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from baa.cli.demo_show import DIFF_STYLES, command
from baa.cli.plain import plain

OUTPUT_SHOWN: Final = 20
PROMPT_SHOWN: Final = 60


def show_item(console: Console, kind: str, item: dict[str, Any], text: str | None = None, *, ended: bool) -> None:
    """An item as a person wants to see it. `text`: what it had said, where it was abandoned."""
    match kind:
        case "agentMessage":
            console.print(Text(plain(item.get("text") or text or "")))
        case "commandExecution":
            console.print(Text(plain(f"$ {command(item['command'])}"), style="bold"))
            show_output(console, item.get("aggregatedOutput") or text or "")
            if ended:
                console.print(Text(f"  exit {item.get('exitCode')}"))
        case "fileChange":
            for change in item.get("changes", []):
                console.print(Text(plain(f"{change['kind']['type']} {change['path']}"), style="bold"))
        case "userMessage" | "reasoning":
            return
        case _:
            console.print(Text(plain(f"({kind})"), style="dim"))


def show_output(console: Console, output: str, *, last: bool = False, indent: str = "  ") -> None:
    """The first lines of what a command said, or its last ones, and how many more there are."""
    lines = output.splitlines()
    more = Text(f"{indent}… {len(lines) - OUTPUT_SHOWN} more lines", style="dim")
    if last and len(lines) > OUTPUT_SHOWN:
        console.print(more)
    for line in lines[-OUTPUT_SHOWN:] if last else lines[:OUTPUT_SHOWN]:
        console.print(Text(plain(f"{indent}{line}"), style="dim"))
    if not last and len(lines) > OUTPUT_SHOWN:
        console.print(more)


def short(text: str, width: int = PROMPT_SHOWN) -> str:
    """Its beginning, on one line."""
    first = " ".join(text.split())
    return first if len(first) <= width else first[: width - 1] + "…"


def print_diff(text: str) -> None:
    """A diff: to a terminal in colours, to a program as it is."""
    if not sys.stdout.isatty():
        print_text(text)
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in text.splitlines():
        console.print(Text(plain(line), style=DIFF_STYLES.get(line[:1], "")))


def print_text(text: str) -> None:
    """To a program the very text; to a terminal nothing that acts there."""
    if sys.stdout.isatty():
        print(plain(text))
        return
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n" * (not text.endswith("\n")))
    sys.stdout.buffer.flush()
