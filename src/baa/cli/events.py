"""`baa events`: the event log, from a cursor on, and what is still to come."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from baa import config as configuration
from baa.api.errors import CannotStart
from baa.api.events import Event, EventType
from baa.cli.plain import json_line, plain
from baa.cli.remote import FAILURES, exit_code, failure
from baa.client.codexd import Codexd
from baa.client.events import Gap
from baa.config import Config

SHOWN = 100


def events(
    after: str | None,
    *,
    session: str | None,
    types: tuple[str, ...],
    follow: bool,
    config: Path | None,
    json: bool,
) -> int:
    """Print events until there are no more, or with `follow` until Ctrl-C; the exit code."""
    unknown = [each for each in types if each not in {type_.value for type_ in EventType}]
    if unknown:
        known = ", ".join(type_.value for type_ in EventType)
        raise CannotStart(f"There is no event type {unknown[0]}. There are: {known}.", exit_code=64)
    chosen = [EventType(each) for each in types] or None
    try:
        asyncio.run(_print(configuration.load(config), after, session, chosen, follow=follow, json=json))
    except FAILURES as error:
        if not json:
            raise CannotStart(error.message, exit_code=exit_code(error)) from error
        print(json_line({"ok": False, "error": failure(error)}))
        return exit_code(error)
    except BrokenPipeError:  # whoever read this has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _print(
    config: Config, after: str | None, session: str | None, types: list[EventType] | None, *, follow: bool, json: bool
) -> None:
    async with Codexd(config, scope="read") as codexd:
        if not follow:
            cursor = after or "0"
            while True:
                page = await codexd.event_page(cursor, session_id=session, types=types, limit=1000)
                for event in page.events:
                    _tell(event, json=json)
                if page.next == cursor:
                    return
                cursor = page.next
        async with codexd.events(after, session_id=session, types=types) as stream:
            while True:
                try:
                    _tell(await anext(stream), json=json)
                except Gap as gap:
                    sys.stderr.write(f"{plain(str(gap))}\n")


def _tell(event: Event, *, json: bool) -> None:
    if json:
        print(json_line(event), flush=True)
        return
    payload = json_line(event.payload)
    short = payload if len(payload) <= SHOWN else payload[: SHOWN - 1] + "…"
    print(
        plain(
            f"{event.seq:>7}  {event.at[11:23]}  {event.type:<22} {event.turn_id or event.session_id or ''}  {short}"
        ),
        flush=True,
    )
