"""`baa config`: the settings that are in force, and where each came from."""

from __future__ import annotations

from pathlib import Path

import msgspec
from cyclopts import App

from baa.cli import lines
from baa.cli.options import File, Json
from baa.cli.remote import guarded
from baa.config import Setting, settings

app = App(name="config", help_format="markdown")


@app.command
def show(*, config: File = None, json: Json = False) -> int:
    """Show every setting: its value, and whether it came from a variable, from the file, or is the default.

    Example: `baa config show`
    """

    def shown(came: tuple[Path, list[Setting]]) -> None:
        place, found = came
        there = "" if place.exists() else " (not there: all that it could say is the default)"
        lines.as_rows([("file", f"{place}{there}", "")])
        lines.as_rows((each.key, msgspec.json.encode(each.value).decode(), each.origin) for each in found)

    return guarded(
        lambda: settings(config),
        shown,
        json=json,
        told=lambda came: {"file": str(came[0]), "settings": came[1]},
    )
