"""`baa login`: Codex's own login, in the CODEX_HOME of codexd."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from baa import codex
from baa import config as configuration
from baa.api.errors import EX_UNAVAILABLE, BaaError, CannotStart
from baa.cli.plain import json_line, plain
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.config import Config

IMPORTED: Final = ("config.toml", "AGENTS.md")
"""What is taken over from ~/.codex: never auth.json, for two programs that refresh one login log each other out."""


def login(*, device_auth: bool, with_api_key: bool, import_: bool, config: Path | None, json: bool) -> int:
    """Log Codex in; the exit code, which is Codex's own where it fails. Raises CannotStart."""
    found = configuration.load(config)
    try:
        program = codex.find(found.server_command)
    except codex.NoProgram as missing:
        raise CannotStart(str(missing), exit_code=EX_UNAVAILABLE) from None
    _make(found.codex_home)
    imported = _import(Path("~/.codex").expanduser(), found.codex_home) if import_ else []
    _say(f"Took over {', '.join(imported) or 'nothing'} from ~/.codex.", told=import_, json=json)
    command = [str(program), "login"]
    command += ["--device-auth"] * device_auth + ["--with-api-key"] * with_api_key
    environment = os.environ | {"CODEX_HOME": str(found.codex_home)}
    done = subprocess.run(command, env=environment, stdout=sys.stderr if json else None, check=False)
    if done.returncode != 0:
        if json:
            print(json_line({"ok": False, "codexHome": str(found.codex_home), "imported": imported}))
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    told = asyncio.run(_tell_codexd(found))
    if json:
        print(json_line({"ok": True, "codexHome": str(found.codex_home), "imported": imported, "codexd": told}))
    _say(f"Codex is logged in for codexd ({found.codex_home}); {told}.", told=True, json=json)
    return 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"{folder} cannot be made: {error.strerror}.", exit_code=73) from None


def _import(theirs: Path, ours: Path) -> list[str]:
    """Copy what ours does not have yet; the names."""
    copied = []
    for name in IMPORTED:
        if (ours / name).exists():
            raise CannotStart(
                f"{ours / name} is there already, and is kept. Remove it to take over the one of {theirs}.",
                exit_code=73,
            )
    for name in IMPORTED:
        if (theirs / name).is_file():
            shutil.copyfile(theirs / name, ours / name)
            (ours / name).chmod(0o600)
            copied.append(name)
    return copied


async def _tell_codexd(config: Config) -> str:
    """A child that runs asks for its account only once: another one is asked for."""
    try:
        async with Codexd(config, patience_s=0) as codexd:
            await codexd.restart_child()
    except Unreachable:
        return "codexd does not run yet: baa up, or baa node install"
    except (BaaError, CannotStart) as error:
        return f"codexd must be restarted to see it: {error.message}"
    return "codexd takes it once nothing runs"


def _say(text: str, *, told: bool, json: bool) -> None:
    if told and not json:
        print(plain(text))
