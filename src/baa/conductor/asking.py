"""What the conductor's routes ask of the engine: answered soon, or said to be unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from baa.api.errors import Code, Unavailable

T = TypeVar("T")

ENGINE_S: Final = 5.0
"""Seconds for what is asked of the engine. What was to be written may be written later all the same."""

TOO_LONG: Final = "it takes too long"


async def soon(asked: Awaitable[T]) -> T:
    """What it gives. Raises TimeoutError after 5 s, and what it raises."""
    async with asyncio.timeout(ENGINE_S):
        return await asked


def engine_away(error: Exception) -> Unavailable:
    """How an engine that failed, or took too long, is told. A task with an Idempotency-Key may be submitted again."""
    why = str(error) or TOO_LONG
    return Unavailable(
        Code.NOT_READY,
        f"The engine cannot be used: {why}. What was asked for may have been done, or not: ask again.",
    )
