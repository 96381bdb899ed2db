"""What the queue's library says, as lines of our own log: trouble once and in one line, and nothing of the ordinary."""

from __future__ import annotations

import logging
import re
import time
from typing import Final

LEVEL: Final = "WARNING"
"""Below it the library tells of every start, advertises its vendor's services and warns of SQLite."""

ORDINARY: Final = (
    "Asyncio task cancelled",
    "Could not connect to postgres database to verify",  # our role may be one for our own database only
    "Exception encountered in asynchronous workflow",  # the traceback of one that was dropped: `attempt.failed` is ours
    "Exception polling schedules",  # we have none
)
PARKED: Final = ("was cancelled during execution", "is no longer owned by this execution")
"""An attempt that was dropped, or that another worker took over: our own tables and events say so."""

AWAY: Final = re.compile(r"psycopg\.|server closed the connection|connection .*failed|connection .*lost")

QUIET_S: Final = 60.0
"""Seconds in which the same trouble is told once: each of the library's threads tells it at each of its tries."""


def take_over() -> None:
    """From now on the library's logger writes where ours do, and not to a console of its own."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # it makes its own where there is none
    logger.propagate = True
    logger.setLevel(LEVEL)
    for each in [each for each in logger.filters if isinstance(each, _Filter)]:
        logger.removeFilter(each)  # an earlier queue's, with what was told of that one
    logger.addFilter(_Filter())


def short(message: object) -> str:
    """An error in one line: the driver's words, without the statement, its values and the advertising."""
    words = getattr(message, "orig", None) or message
    said = str(words)
    for rest in ("\n[SQL", "\n(Background", "Traceback (most recent call last)"):
        said = said.partition(rest)[0]
    return " ".join(said.split())


class _Filter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if said.startswith(ORDINARY) or any(each in said for each in PARKED):
            return False
        record.msg, record.args = f"queue.library: {short(said)}", ()
        record.exc_info = record.exc_text = None
        kind = "database" if AWAY.search(said) else " ".join(said.split()[:3])
        now = time.monotonic()
        told = self._told.get(kind)
        if told is not None and now - told < QUIET_S:
            return False
        self._told[kind] = now
        return True
