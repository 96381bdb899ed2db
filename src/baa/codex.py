"""Where Codex is: the program that codexd runs as its child, found but not started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

DEFAULT_COMMAND: Final = "codex"


class NoProgram(Exception):
    """There is no Codex to run; the text says what to install or to correct."""


def find(command: str, path: str | None = None) -> Path:
    """The program for the setting `server_command`: that very file if it was set, else the extra's, else one on PATH.

    `path`: the PATH of whoever will run it, if that is not this process. Raises NoProgram.
    """
    if command != DEFAULT_COMMAND:
        named = shutil.which(os.path.expanduser(command), path=path)
        if named is None:
            raise NoProgram(f"BAA_CODEXD_SERVER_COMMAND is {command!r}, and that is not an executable program.")
        return Path(named).absolute()
    bundled = _bundled()
    found = bundled if bundled is not None else shutil.which(DEFAULT_COMMAND, path=path)
    if found is None:
        raise NoProgram(
            "Codex is not installed. Install it with `pip install 'baa-conductor[codex]'` or `npm install -g"
            " @openai/codex`, or name it in BAA_CODEXD_SERVER_COMMAND; codexd looks for it again by itself."
        )
    return Path(found).absolute()


def _bundled() -> Path | None:
    try:
        from codex_cli_bin import bundled_codex_path
    except ImportError:
        return None
    path = Path(bundled_codex_path())
    return path if os.access(path, os.X_OK) else None
