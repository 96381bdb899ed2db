"""How check lines and other rows are shown: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from baa.cli.plain import plain
from baa.runtime.checks import LEVELS, Line, failed

STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show(lines: Sequence[Line], *, as_json: bool) -> int:
    """Print them; the exit code: 0 if nothing failed, else 1."""
    bad = failed(lines)
    if as_json:
        print(msgspec.json.encode({"ok": not bad, "lines": lines}).decode())
        return int(bad)
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in lines:
        evidence = Text(plain(line.evidence))
        if line.cure and line.level != "ok":
            evidence.append(f"\nmend it: {plain(line.cure)}", style="italic")
        table.add_row(Text(line.level, style=STYLES[line.level]), plain(line.name), evidence)
    console.print(table)
    count = {level: sum(line.level == level for line in lines) for level in LEVELS}
    console.print(f"{count['ok']} ok, {count['warn']} warn, {count['fail']} fail")
    return int(bad)


def as_rows(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in columns, each whole on its line however narrow the terminal is: what is an id must be copied."""
    shown = [[" ".join(plain(cell).split("\n")) for cell in row] for row in rows]
    if not shown:
        return
    wide = [max(cell_len(row[column]) for row in shown if len(row) > column) for column in range(max(map(len, shown)))]
    for row in shown:
        print("  ".join(set_cell_size(cell, width) for cell, width in zip(row, wide, strict=False)).rstrip())
