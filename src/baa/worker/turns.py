"""An attempt's session and turns at this node's codexd: found if there, else begun; renewed, ended, waited for.

codexd may be away for as long as it likes: a turn runs on below its keeper, and whoever asks here waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from baa.api.errors import BaaError, CannotStart, Code, Rejected, Unavailable
from baa.api.events import TURN_ENDS, EventType
from baa.api.sessions import TURN_ENDED, CreateSession, SessionStatus, StartTurn, Turn
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable
from baa.client.pauses import pauses

T = TypeVar("T")

KEY: Final = "attemptTurn"
"""In a turn's metadata: `TASK:NUMBER:TURN`, which is also its Idempotency-Key."""

WAIT_MS: Final = 20_000
UNAVAILABLE_S: Final = 120.0
"""Seconds for which a codexd that answers and cannot work (no login, no child) is asked again."""

_RESTARTS: Final = frozenset({Code.DRAINING, Code.STARTING})
_OLD_CURSOR: Final = frozenset({Code.CURSOR_AHEAD, Code.CURSOR_EXPIRED})
_GONE: Final = frozenset({Code.TURN_NOT_FOUND, Code.SESSION_NOT_FOUND})


class Turns:
    """What an attempt asks of codexd. All methods wait while it is away, and raise BaaError where it refuses.

    `renewing` is a client without patience: a lease must not be renewed by a request that waited. `may_renew` says, at
    that very moment, whether the worker knows its node to be alive.
    """

    def __init__(
        self,
        codexd: Codexd,
        renewing: Codexd,
        *,
        lease_ms: int,
        may_renew: Callable[[], bool],
        unavailable_s: float = UNAVAILABLE_S,
    ) -> None:
        self.lease_ms = lease_ms
        self._unavailable_s = unavailable_s
        self._codexd = codexd
        self._renewing = renewing
        self._may_renew = may_renew

    async def session(self, asked: CreateSession, *candidates: str | None) -> tuple[str, str | None]:
        """The first candidate that can be worked in, else the session of this purpose, else a new one; and which it is.

        The second word is the candidate's id, None where it is none of them.
        """
        for session_id in candidates:
            if session_id is not None and await self._is_open(session_id):
                return session_id, session_id

        async def found_or_made() -> str:
            page = await self._codexd.sessions(purpose=asked.purpose, limit=1)
            if page.sessions and page.sessions[0].status is not SessionStatus.CLOSED:
                return page.sessions[0].session_id
            return (await self._codexd.create_session(asked)).session_id

        return await self._patiently(found_or_made), None

    async def _is_open(self, session_id: str) -> bool:
        try:
            session = await self._patiently(lambda: self._codexd.session(session_id))
        except Rejected as refused:
            if refused.code is Code.SESSION_NOT_FOUND:
                return False
            raise
        return session.status is not SessionStatus.CLOSED

    async def start(self, asked: StartTurn, key: str) -> tuple[str, str | None]:
        """The turn of this key, begun now or before; and the cursor before its events, None if that is not known.

        One that was begun before had perhaps less time left: hence it is looked for, and not asked for again.
        """
        found = await self._patiently(lambda: self._begun(asked.session_id, key))
        if found is not None:
            return found, None
        accepted = await self._patiently(lambda: self._codexd.start_turn(asked, idempotency_key=key))
        return accepted.turn.turn_id, accepted.cursor

    async def _begun(self, session_id: str, key: str) -> str | None:
        page = await self._codexd.turns(session_id)
        return next((turn.turn_id for turn in page.turns if turn.metadata.get(KEY) == key), None)

    async def end(self, turn_id: str, cursor: str | None, *, cancel: asyncio.Event, tokens: int | None) -> Turn | None:
        """The turn's ledger once it has ended; None if codexd does not know it any more.

        Meanwhile its lease is renewed, and it is interrupted when `cancel` is set or it has used so many `tokens`.
        """
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew(turn_id), name="turn-renewal")
            canceling = group.create_task(self._interrupt_when(cancel, turn_id), name="turn-cancel")
            failed: BaaError | None = None
            ended: Turn | None = None
            try:
                ended = await self._followed(turn_id, cursor, tokens)
            except BaaError as error:  # told as it is, not in a group
                failed = error
            renewing.cancel()
            canceling.cancel()
        if failed is not None:
            raise failed
        return ended

    async def _followed(self, turn_id: str, cursor: str | None, tokens: int | None) -> Turn | None:
        interrupted = False
        while True:
            if cursor is None:
                log = (await self._patiently(self._codexd.status)).log
                cursor = f"{log.epoch}:{log.head}"
            turn = await self._ledger(turn_id)
            if turn is None or turn.status in TURN_ENDED:
                return turn
            if tokens is not None and tokens_of(turn) >= tokens and not interrupted:
                interrupted = True
                await self._interrupt(turn_id)
            cursor = await self._moved(turn, cursor)

    async def _ledger(self, turn_id: str) -> Turn | None:
        try:
            return await self._patiently(lambda: self._codexd.turn(turn_id))
        except Rejected as refused:
            if refused.code in _GONE:
                return None
            raise

    async def _moved(self, turn: Turn, cursor: str) -> str | None:
        """Wait until the turn ends or uses more tokens; the cursor to go on from, None if this one is of no use."""
        types = (EventType.USAGE_UPDATED, *TURN_ENDS)

        async def page() -> tuple[str, bool]:
            found = await self._codexd.event_page(
                cursor, session_id=turn.session_id, types=types, limit=1000, wait_ms=WAIT_MS
            )
            return found.next, any(event.turn_id == turn.turn_id for event in found.events)

        moved = False
        while not moved:
            try:
                cursor, moved = await self._patiently(page)
            except Rejected as refused:
                if refused.code in _OLD_CURSOR:
                    return None
                raise
        return cursor

    async def _interrupt_when(self, cancel: asyncio.Event, turn_id: str) -> None:
        await cancel.wait()
        await self._interrupt(turn_id)

    async def _interrupt(self, turn_id: str) -> None:
        """What is refused has ended or is gone: its reader is told. What could not be done now is tried again."""
        while True:
            try:
                await self._patiently(lambda: self._codexd.interrupt_turn(turn_id))
            except Unavailable:
                continue
            except BaaError:
                return
            return

    async def _renew(self, turn_id: str) -> None:
        """Three times a lease, for as long as the worker may. Who does not get through tries again at the next."""
        while True:
            await asyncio.sleep(self.lease_ms / 3000)
            if not self._may_renew():
                continue
            try:
                await self._renewing.renew_turn(turn_id, lease_ms=self.lease_ms)
            except Rejected:  # it has ended; its reader is told
                return
            except (BaaError, Unreachable):
                continue

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What it answers, once codexd is there. Raises BaaError: what it refuses, or could not do for so long."""
        now = asyncio.get_running_loop().time
        since: float | None = None
        for pause in pauses():
            try:
                return await ask()
            except Unreachable:
                since = None
            except CannotStart as unusable:  # such as a token file that others may read
                raise Unavailable(Code.CODEXD_UNAVAILABLE, unusable.message) from unusable
            except Unavailable as unavailable:
                since = now() if since is None or unavailable.code in _RESTARTS else since
                if now() - since > self._unavailable_s:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses do not end")


def tokens_of(turn: Turn) -> int:
    """What a turn has used so far, as Codex counts it."""
    return (turn.usage or {}).get("totalTokens", 0)
