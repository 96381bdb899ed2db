"""`baa token`: the node's tokens, for programs that speak HTTP by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
from cyclopts import App, Parameter

from baa import config as configuration
from baa.cli.options import File, Json
from baa.cli.plain import plain
from baa.http.tokens import NAMES, Name, ensure_tokens, rotate_tokens

app = App(name="token", help_format="markdown")

FILES: Final = "The files: {folder}/read and {folder}/drive, for this user only."

Which: TypeAlias = Annotated[Name | None, Parameter(help="read or drive.", show_default=False)]


@app.command
def show(which: Name = "read", /, *, config: File = None, json: Json = False) -> int:
    """Print a token, and make it first if there is none yet. Whoever has `drive` can run commands as this user.

    Example: `curl -H "Authorization: Bearer $(baa token show read)" http://127.0.0.1:4319/v1/codexd/sessions`

    Parameters
    ----------
    which:
        read (may look) or drive (may do everything).
    """
    folder = _folder(config)
    token = getattr(ensure_tokens(folder), which)
    if json:
        print(msgspec.json.encode({"scope": which, "token": token, "file": str(folder / which)}).decode())
    else:
        print(token)
    return 0


@app.command
def rotate(which: Which = None, /, *, config: File = None, json: Json = False) -> int:
    """Make new tokens, also while the programs run: they take the new ones at once, and refuse the old ones.

    Live streams that were opened with an old token end (4401). baa and the Python client read the new one by
    themselves; whatever else has the old one must be given the new one.

    Example: `baa token rotate drive`

    Parameters
    ----------
    which:
        read or drive; without it both.
    """
    folder = _folder(config)
    names = NAMES if which is None else (which,)
    rotate_tokens(folder, names)
    files = [str(folder / name) for name in names]
    if json:
        print(msgspec.json.encode({"ok": True, "changed": names, "files": files}).decode())
    else:
        print(plain(f"New: {', '.join(files)}"))
    return 0


def _folder(file: Path | None) -> Path:
    return configuration.load(file).tokens_dir
