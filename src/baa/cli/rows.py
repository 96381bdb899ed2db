"""Lines for a terminal, each with its style, and the change of a file as such lines. Nothing here escapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rich.text import Text

Row = tuple[str, str]
"""A style, one of STYLES, and a line."""

STYLES: Final = {
    "": "",
    "dim": "dim",
    "bold": "bold",
    "command": "cyan",
    "added": "green",
    "removed": "red",
    "place": "magenta",
    "good": "dim green",
    "bad": "bold red",
    "asks": "bold yellow",
}


def text_of(rows: Iterable[Row]) -> Text:
    """Lines as a terminal shows them. They must be escaped already."""
    return Text("\n").join(Text(line, style=STYLES[style]) for style, line in rows)


def diff_of(change: dict[str, Any]) -> str:
    """A change as a diff; of a new or a removed file Codex tells the content alone."""
    told, kind = change.get("diff"), change.get("kind")
    diff = told.rstrip("\n") if isinstance(told, str) else ""
    sign = {"add": "+", "delete": "-"}.get(str(kind.get("type")) if isinstance(kind, dict) else "")
    return diff if sign is None or not diff else "\n".join(sign + line for line in diff.split("\n"))


def diff_rows(diff: str) -> list[Row]:
    """The lines of a diff."""
    styles = {"+": "added", "-": "removed", "@": "place"}
    return [(styles.get(line[:1], "dim"), f"  {line}") for line in diff.split("\n")] if diff else []
