"""`baa watch --json`: what its screen would show at this moment, for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baa.api.answers import SessionPage
from baa.api.interactions import Interaction
from baa.api.sessions import Session, Turn
from baa.cli.pick import pages
from baa.cli.remote import ask
from baa.cli.watching import SESSIONS_MAX
from baa.client.codexd import Codexd

Shown = tuple[list[Session], list[Interaction], Turn | None]


def snapshot(session_id: str | None, *, config: Path | None) -> int:
    """Print the sessions, newest first, the open questions and the chosen session's newest turn; the exit code."""

    async def do(codexd: Codexd) -> Shown:
        async def page(token: str | None, size: int) -> tuple[list[Session], str | None]:
            found: SessionPage = await codexd.sessions(limit=size, page_token=token)
            return found.sessions, found.next_page_token

        sessions = await pages(page, SESSIONS_MAX)
        chosen = next(iter(sessions), None) if session_id is None else await codexd.session(session_id)
        newest = None if chosen is None else chosen.current_turn_id or chosen.last_turn_id
        turn = None if newest is None else await codexd.turn(newest)
        asking = [each.session_id for each in sessions if each.open_interactions]
        asked = [each for one in asking for each in (await codexd.session(one)).interactions or ()]
        return sessions, asked, turn

    def told(shown: Shown) -> dict[str, Any]:
        sessions, asked, turn = shown
        return {"sessions": sessions, "interactions": asked, "turn": turn}

    return ask(do, lambda _: None, config=config, json=True, told=told)
