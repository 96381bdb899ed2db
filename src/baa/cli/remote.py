"""What commands that speak to codexd or the conductor share: how a failure is told, and what comes out as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from baa import config as configuration
from baa.api.errors import EX_TEMPFAIL, EX_UNAVAILABLE, BaaError, CannotStart, Code
from baa.cli.plain import json_line
from baa.client.codexd import Codexd
from baa.client.conductor import Conductor
from baa.client.discovery import Unreachable
from baa.config import Config

T = TypeVar("T")

EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOINPUT: Final = 66
EX_SOFTWARE: Final = 70
EX_IOERR: Final = 74
EX_NOPERM: Final = 77

BY_STATUS: Final = {
    401: EX_NOPERM,
    403: EX_NOPERM,
    404: EX_NOINPUT,
    409: EX_TEMPFAIL,
    410: EX_NOINPUT,
    429: EX_TEMPFAIL,
    502: EX_SOFTWARE,
    503: EX_UNAVAILABLE,
    507: EX_IOERR,
}
"""The exit code for an answer of codexd's, by its status; other refusals are 65, mistakes of ours 70."""

FAILURES: Final = (BaaError, Unreachable, CannotStart)


def exit_code(error: BaaError | Unreachable | CannotStart) -> int:
    """As sysexits has it."""
    if isinstance(error, BaaError):
        if error.code is Code.CODEX_NOT_LOGGED_IN:
            return EX_NOPERM
        return BY_STATUS.get(error.status, EX_SOFTWARE if error.status >= 500 else EX_DATAERR)
    return error.exit_code


def ask(
    do: Callable[[Codexd], Awaitable[T]],
    show: Callable[[T], None],
    *,
    config: Path | None,
    json: bool,
    told: Callable[[T], dict[str, Any]],
) -> int:
    """Ask this node's codexd, and show the answer, or with `json` what `told` makes of it; the exit code.

    Raises CannotStart, unless failures are told as JSON.
    """

    async def asked(found: Config) -> T:
        async with Codexd(found) as codexd:
            return await do(codexd)

    return guarded(lambda: asyncio.run(asked(configuration.load(config))), show, json=json, told=told)


def ask_conductor(
    do: Callable[[Conductor], Awaitable[T]],
    show: Callable[[T], None],
    *,
    config: Path | None,
    json: bool,
    told: Callable[[T], dict[str, Any]],
) -> int:
    """The same of this node's conductor."""

    async def asked(found: Config) -> T:
        async with Conductor(found) as conductor:
            return await do(conductor)

    return guarded(lambda: asyncio.run(asked(configuration.load(config))), show, json=json, told=told)


def guarded(do: Callable[[], T], show: Callable[[T], None], *, json: bool, told: Callable[[T], dict[str, Any]]) -> int:
    """Do it and show what came of it; the exit code. Raises CannotStart, unless failures are told as JSON."""
    try:
        came = do()
    except FAILURES as error:
        if not json:
            raise CannotStart(error.message, exit_code=exit_code(error)) from error
        print(json_line({"ok": False, "error": failure(error)}))
        return exit_code(error)
    if json:
        print(json_line({"ok": True, **told(came)}))
    else:
        show(came)
    return 0


def failure(error: BaaError | Unreachable | CannotStart) -> dict[str, Any]:
    """An error for programs."""
    if isinstance(error, BaaError):
        return {"code": error.code, "message": error.message, "details": dict(error.details)}
    if isinstance(error, Unreachable):
        code = "unreachable"
    else:
        code = "usage" if error.exit_code == EX_USAGE else "cannot_start"
    return {"code": code, "message": error.message, "details": {}}
