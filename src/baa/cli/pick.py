"""Small things that commands ask of lists."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def pages(page: Callable[[str | None, int], Awaitable[tuple[list[T], str | None]]], limit: int) -> list[T]:
    """The first `limit` of what comes in pages; `page` is given a page token and how many to ask for."""
    found: list[T] = []
    token: str | None = None
    while len(found) < limit:
        more, token = await page(token, min(1000, max(limit - len(found), 100)))
        found += more
        if token is None:
            break
    return found[:limit]


def folder(given: str | None) -> str:
    """The folder that was given, else the one that the command runs in, as an absolute path."""
    return os.path.realpath(os.path.expanduser(given or "."))
