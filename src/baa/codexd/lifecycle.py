"""The lifecycle events in codexd's own log file: what happened and to whom, never what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from baa.codexd.stored import Stored

TOLD: Final = ("session.", "turn.", "interaction.", "child.", "daemon.")
"""The kinds of events that are put down. Items, deltas and updates are content, and many."""

_log = structlog.get_logger("events")


class _Ids(Struct, rename="camel"):
    turn_id: str | None


_ids: Final = msgspec.json.Decoder(_Ids)


def write(committed: Sequence[Stored]) -> None:
    """Put down the lifecycle events among those that were just committed."""
    for event in committed:
        if event.type.startswith(TOLD):
            turn_id = _ids.decode(event.body).turn_id
            _log.info(event.type, seq=event.seq, session_id=event.session_id, turn_id=turn_id)
