"""`baa turn`: what a turn did, and what can be done to one that runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from baa.api.errors import CannotStart
from baa.api.sessions import ItemStatus, SteerTurn, Turn
from baa.cli import lines
from baa.cli.demo_show import seconds_between
from baa.cli.items import print_diff, print_text, short, show_item
from baa.cli.options import File, Json
from baa.cli.pick import pages
from baa.cli.plain import plain
from baa.cli.remote import EX_NOINPUT, ask
from baa.client.codexd import Codexd

app = App(name="turn", help_format="markdown")

TurnId: TypeAlias = Annotated[str, Parameter(help="The id of a turn, trn_…")]


@app.command
def show(
    turn_id: TurnId,
    /,
    *,
    wait: Annotated[bool, Parameter(negative=(), help="Until it has ended.")] = False,
    markdown: Annotated[bool, Parameter(negative=(), help="The whole transcript, as Markdown.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Show a turn: how it stands or ended, what was said, run and changed.

    Example: `baa turn show trn_01hzy3v9q8f2k4m6n7p0r5t1wx --wait`
    """

    async def do(codexd: Codexd) -> tuple[Turn, str]:
        turn = await codexd.turn(turn_id)
        while wait and turn.ended_at is None:
            turn = await codexd.turn(turn_id, wait_ms=60_000)
        return turn, await codexd.transcript(turn_id) if markdown else ""

    def shown(came: tuple[Turn, str]) -> None:
        if markdown:
            print_text(came[1])
        else:
            _show(came[0])

    return ask(do, shown, config=config, json=json, told=lambda came: {"turn": came[0]})


@app.command(name="list")
def list_turns(
    session_id: Annotated[str, Parameter(help="The id of a session, ses_…")],
    /,
    *,
    limit: Annotated[int, Parameter(help="How many at most.")] = 50,
    config: File = None,
    json: Json = False,
) -> int:
    """List the turns of a session, newest first.

    Example: `baa turn list ses_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """

    async def do(codexd: Codexd) -> list[Turn]:
        async def page(token: str | None, size: int) -> tuple[list[Turn], str | None]:
            found = await codexd.turns(session_id, limit=size, page_token=token)
            return found.turns, found.next_page_token

        return await pages(page, limit)

    def shown(turns: list[Turn]) -> None:
        rows = [
            (each.turn_id, each.status.value, each.queued_at[:19].replace("T", " "), short(each.prompt))
            for each in turns
        ]
        lines.as_rows([("turn", "status", "asked", "prompt"), *rows] if rows else [("No turns yet.",)])

    return ask(do, shown, config=config, json=json, told=lambda turns: {"turns": turns})


@app.command
def interrupt(turn_id: TurnId, /, *, config: File = None, json: Json = False) -> int:
    """End a turn with all that it started; one that waits is taken out of the line.

    Example: `baa turn interrupt trn_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return _act(lambda codexd: codexd.interrupt_turn(turn_id), config=config, json=json)


@app.command
def steer(
    turn_id: TurnId,
    prompt: Annotated[str, Parameter(help="What to tell it.")],
    /,
    *,
    config: File = None,
    json: Json = False,
) -> int:
    """Give the running turn more input.

    Example: `baa turn steer trn_01hzy3v9q8f2k4m6n7p0r5t1wx "Leave the tests alone."`
    """
    return _act(lambda codexd: codexd.steer_turn(turn_id, SteerTurn(prompt=prompt)), config=config, json=json)


@app.command
def diff(turn_id: TurnId, /, *, config: File = None, json: Json = False) -> int:
    """Print what a turn changed, as a diff; in a pipe as it is, for `git apply`.

    Example: `baa turn diff trn_01hzy3v9q8f2k4m6n7p0r5t1wx | less -R`
    """

    async def do(codexd: Codexd) -> str:
        found = (await codexd.turn(turn_id)).diff
        if not found:
            raise CannotStart(f"The turn {turn_id} changed no file that Codex knows of.", exit_code=EX_NOINPUT)
        return found

    return ask(do, print_diff, config=config, json=json, told=lambda found: {"diff": found})


def _act(do: Callable[[Codexd], Awaitable[Turn]], **more: Any) -> int:
    return ask(
        do, lambda turn: print(plain(f"{turn.turn_id} {turn.status.value}")), told=lambda turn: {"turn": turn}, **more
    )


# --- what is seen


def _show(turn: Turn) -> None:
    console = Console(highlight=False, soft_wrap=True)
    took = f" in {seconds_between(turn.queued_at, turn.ended_at):.1f} s" if turn.ended_at else ""
    console.print(Text(plain(f"{turn.turn_id}  {turn.status.value}{took}"), style="bold"))
    if turn.reason or turn.error:
        console.print(Text(plain(f"  {turn.reason or ''} {(turn.error or {}).get('message', '')}".rstrip())))
    console.print(Text(plain(f"> {turn.prompt}"), style="bold"))
    for item in turn.items or []:
        ended = item.status is ItemStatus.COMPLETED
        show_item(console, item.kind, msgspec.json.decode(item.item), item.text, ended=ended)
    for each in turn.interactions or []:
        if each.ended_at is None:
            console.print(Text(plain(f"asks {each.kind.value}: baa answer {each.interaction_id}"), style="yellow"))
