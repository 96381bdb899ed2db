"""Draws docs/states.md from the transition tables, so that the page cannot say what the code does not do.

python -m tests.support.states        writes the page anew
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from baa.api.interactions import InteractionStatus
from baa.api.sessions import TurnStatus
from baa.api.status import ChildState
from baa.codexd.machines.child import CHILD_TABLE
from baa.codexd.machines.interaction import INTERACTION_TABLE
from baa.codexd.machines.turn import TURN_TABLE

State = TypeVar("State", bound=StrEnum)
Change = TypeVar("Change", bound=StrEnum)

PAGE = Path(__file__).parents[2] / "docs" / "states.md"

TEXT = """\
# States

Drawn from the tables in `src/baa/codexd/machines/` by `python -m tests.support.states`; a test holds this page to them.
What a table does not list raises `Impossible`, and codexd ends rather than guess. An arrow's word is the change that a
table calls so; its meaning stands beside the word, in `TurnChange`, `InteractionChange` and
`ChildChange`.

## A turn

{turn}
## An interaction

{interaction}
## The child

{child}"""


def page() -> str:
    """The whole text of docs/states.md."""
    return TEXT.format(
        turn=diagram(TURN_TABLE, TurnStatus.QUEUED),
        interaction=diagram(INTERACTION_TABLE, InteractionStatus.OPEN),
        child=diagram(CHILD_TABLE, ChildState.STOPPED),
    )


def diagram(table: Mapping[State, Mapping[Change, State]], initial: State) -> str:
    """One table as a mermaid state diagram."""
    arrows = [f"[*] --> {initial}"]
    for state, row in table.items():
        arrows += [f"{state} --> {after}: {change}" for change, after in row.items()] or [f"{state} --> [*]"]
    lines = ["```mermaid", "stateDiagram-v2", *(f"    {arrow}" for arrow in arrows), "```"]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
