"""The methods that the child is ever sent: what is not named here cannot leave codexd, whoever asks for it.

Codex's app-server can run any command without a sandbox (`thread/shellCommand`, `command/exec`), write files and change
its own configuration. None of that is a client's to ask for.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from baa.codexd.appserver import attached, lines
from baa.codexd.appserver.jsonrpc import Envelope, Unreadable, decode

OWN: Final = frozenset(
    {
        *("initialize", "initialized"),
        *("thread/start", "thread/resume", "thread/fork", "thread/read", "thread/unsubscribe"),
        *("thread/turns/list", "thread/items/list", "thread/loaded/list"),
        *("thread/backgroundTerminals/clean", "thread/backgroundTerminals/list"),
        *("turn/start", "turn/steer", "turn/interrupt"),
        *("model/list", "account/read", "account/rateLimits/read"),
    }
)
"""What codexd itself asks."""

ATTACHED: Final = frozenset({*attached.LOOKS, attached.RESUME, attached.RENAME, attached.SKILLS, lines.COMPACT})
"""What it passes on for Codex's own terminal UI, with the parameters that are named there."""

ALLOWED: Final = OWN | ATTACHED


class ForbiddenMethod(Exception):
    """A line for the child that no part of codexd may write: a mistake of ours, and codexd ends of it."""


def check(line: bytes) -> None:
    """Raises ForbiddenMethod unless it is a whole line with an allowed method, or an answer."""
    message: Envelope | Unreadable = decode(line.removesuffix(b"\n"))
    if isinstance(message, Unreadable) or b"\n" in line[:-1] or not line.endswith(b"\n"):
        raise ForbiddenMethod("it is not one line of JSON")
    if message.method is UNSET:
        if message.id is UNSET or (message.result is UNSET) == (message.error is UNSET):
            raise ForbiddenMethod("it is neither a request nor an answer")
    elif message.method not in ALLOWED:
        raise ForbiddenMethod(f"{message.method} is not for the child")
