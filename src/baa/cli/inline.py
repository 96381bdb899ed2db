"""What Codex asks during `baa run` in a terminal, asked there and then. Anybody else may answer it meanwhile.

While a question stands on the screen, what else happens is held back, and shown below it once it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from baa.api.errors import BaaError, CannotStart
from baa.api.events import Event, EventType
from baa.api.interactions import Interaction
from baa.cli import asking
from baa.cli.plain import json_line, plain
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable

HELD_MAX: Final = 1000
"""Events held back during a question; more of them are shown around it."""

OVER: Final = (EventType.INTERACTION_RESOLVED, EventType.INTERACTION_EXPIRED)


class Inline:
    """The questions of one turn, one after the other. `show` is what shows events."""

    def __init__(self, codexd: Codexd, show: Callable[[Event], None]) -> None:
        self._codexd = codexd
        self._show = show
        self._typed = asking.Typed()
        self._open: dict[str, Event] = {}
        self._came = asyncio.Event()
        self._asked: str | None = None
        self._given = False
        self._held: list[Event] = []

    def event(self, event: Event) -> None:
        """The next event of the turn."""
        if event.type == EventType.INTERACTION_REQUESTED:
            self._open[event.payload["interactionId"]] = event
            self._came.set()
        elif event.type in OVER:
            self._over(event.payload)
        elif self._asked is None or len(self._held) >= HELD_MAX:
            self._show(event)
        else:
            self._held.append(event)

    async def ask_on(self) -> None:
        """Ask what is to be asked, until that is no longer of use to anybody."""
        while True:
            await self._came.wait()
            if not self._open:
                self._came.clear()
                continue
            interaction_id, event = next(iter(self._open.items()))
            self._asked, self._given = interaction_id, False
            try:
                await self._ask(event)
            except asking.Withdrawn:
                pass  # it was told as that came
            except asking.Nothing:
                print(plain(f"\nIt waits on. Answer it elsewhere: baa answer {interaction_id}"))
            except (BaaError, Unreachable, CannotStart) as refused:
                print(plain(f"{refused.message}\nWhat waits for an answer: baa answer {event.session_id}"))
            finally:
                self._open.pop(interaction_id, None)
                self._release()

    async def _ask(self, event: Event) -> None:
        asked = await self._interaction(event)
        changes = [] if asked is None else await asking.changes_of(self._codexd, asked)
        if asked is None or asked.interaction_id not in self._open:
            return  # it was over before it could be shown
        asking.show(asked, changes)
        given = await asking.take(asked, self._typed)
        self._given = True
        await asking.give(self._codexd, asked, given)

    async def _interaction(self, event: Event) -> Interaction | None:
        session = await self._codexd.session(str(event.session_id))
        wanted = event.payload["interactionId"]
        return next((each for each in session.interactions or () if each.interaction_id == wanted), None)

    def _over(self, told: dict[str, Any]) -> None:
        """A question is answered, or nobody asks it any more."""
        interaction_id = told["interactionId"]
        if self._open.pop(interaction_id, None) is None or interaction_id != self._asked or self._given:
            return  # not on the screen, or what is given decides, and its answer tells
        print(plain(f"\n{_how(told)}"))
        self._release()
        self._typed.withdraw()

    def _release(self) -> None:
        self._asked = None
        held, self._held = self._held, []
        for event in held:
            self._show(event)


def _how(told: dict[str, Any]) -> str:
    match told.get("resolvedBy"):
        case "client":
            return f"Answered elsewhere: {json_line((told.get('answer') or {}).get('decision'))}"
        case "deadline":
            return "Nobody answered in time: declined."
        case by:
            return f"Nobody asks that any more ({by})."
