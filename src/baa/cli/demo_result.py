"""What was checked, and the closing table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from baa.api.sessions import Turn, TurnStatus
from baa.cli.demo_show import Show, seconds_between
from baa.cli.plain import plain

NEXT: Final = (
    ("README.md", "how to use it; docs/ says why it is as it is"),
    ("baa up --service codexd", "codexd for real, with your own Codex login (see README.md)"),
    ("curl -s http://127.0.0.1:4319/v1/codexd/status", "what it then says of itself"),
)


@dataclass(slots=True)
class Result:
    """Grows while the demo plays; `holds` only if it came to its end and every statement was true."""

    statements: list[tuple[bool, str]] = field(default_factory=list)
    turns: list[tuple[str, Turn, int]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    finished: bool = False
    unreal: str = "The model was scripted; everything else was real."

    @property
    def holds(self) -> bool:
        """Whether all that is said was checked and found true."""
        return self.finished and bool(self.statements) and all(true for true, _ in self.statements)

    def check(self, true: object, statement: str) -> None:
        """A statement, and whether it was found true."""
        self.statements.append((bool(true), statement))

    def failed(self, error: BaseException) -> None:
        """What kept the demo from its end."""
        said = str(error) or "it took too long"
        self.check(False, f"the demo comes to its end: {type(error).__name__}: {said}")

    def told(self) -> dict[str, Any]:
        """The verdict for programs."""
        turns = [
            {"prompt": prompt, "turnId": turn.turn_id, "status": turn.status, "deltas": deltas}
            for prompt, turn, deltas in self.turns
        ]
        statements = [{"ok": true, "statement": statement} for true, statement in self.statements]
        return {
            "ok": self.holds,
            "statements": statements,
            "turns": turns,
            "figures": dict(self.figures),
            "unreal": self.unreal,
        }

    def tell(self, show: Show, *, took: float) -> None:
        """The verdict, the table, and what to do next."""
        show.heading(4, "What was checked")
        for true, statement in self.statements:
            show.line(f"{'ok' if true else 'FAILED':<8}{statement}", style="green" if true else "bold red")
        if self.turns:
            show.line("")
            show.console.print(Padding(self._table(), (0, 0, 0, 3), expand=False))
        show.line("")
        for name, value in (*self.figures, ("total", f"{took:.1f} s")):
            show.fact(name, value)
        show.line("")
        if not self.holds:
            wrong = sum(not true for true, _ in self.statements)
            show.line(f"{wrong} of {len(self.statements)} statements did not hold.", style="bold red")
            return
        show.line(self.unreal, style="bold")
        show.line("")
        show.line("Next:")
        for what, why in NEXT:
            show.line(f"{what:<48}{why}", indent=5)

    def _table(self) -> Table:
        table = Table(box=box.ROUNDED)
        table.add_column("turn")
        table.add_column("asked")
        table.add_column("status")
        table.add_column("time", justify="right")
        table.add_column("deltas", justify="right")
        for number, (asked, turn, deltas) in enumerate(self.turns, 1):
            took = f"{seconds_between(turn.queued_at, turn.ended_at):.1f} s" if turn.ended_at else ""
            style = "green" if turn.status is TurnStatus.COMPLETED else "red"
            status = Text(turn.status.value, style=style)
            table.add_row(str(number), Text(plain(asked)), status, took, str(deltas))
        return table
