"""codexd as a Python object: one method a route, typed answers, errors of `baa.api.errors`.

    async with Codexd() as codexd:
        session = await codexd.create_session(CreateSession(cwd="/home/me/project"))
        started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="Which tests are slow?"))
        async with codexd.events(after=started.cursor) as events:
            async for event in events: ...

Only what is safe to ask twice is asked twice: reads, and a turn, which has an Idempotency-Key. `baa.client.sync` has
the same without async.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Final, Literal

from baa import config as configuration
from baa.api.answers import (
    AcceptedTurn,
    Attachment,
    AttachmentAnswer,
    BackupAnswer,
    EventPage,
    HandoverAnswer,
    Healthy,
    InteractionAnswer,
    SessionAnswer,
    SessionPage,
    SteeredTurn,
    TurnAnswer,
    TurnPage,
)
from baa.api.events import Event, EventType
from baa.api.interactions import AnswerInteraction, Interaction
from baa.api.sessions import CreateSession, RenewTurn, Session, SessionStatus, StartTurn, SteerTurn, Turn
from baa.api.status import AnnounceHandover, Backup, Handover, MakeBackup, RestartChild, Status
from baa.client.discovery import locate
from baa.client.events import CODEXD, EventStream
from baa.client.peer import PATIENCE_S, Peer
from baa.config import Config
from baa.http.tokens import Name

SESSIONS = "/v1/codexd/sessions"
STATUS = "/v1/codexd/status"
TURN = "/v1/codexd/turn"

BACKUP_S: Final = 6 * 3600.0
"""Seconds for a backup, at most."""


class Codexd(Peer):
    """This node's codexd. An async context manager; every method raises BaaError, Unreachable or CannotStart."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        scope: Name = "drive",
        through: Literal["codexd", "conductor"] = "codexd",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Without `config`: the configuration that `baa` itself has here.

        `through`: asked directly, or by way of this node's conductor, which passes everything on; its own are `health`,
        `openapi` and `metrics`. `patience_s`: seconds for which it is looked for again, once it was met.
        """
        found = configuration.load() if config is None else config
        super().__init__(lambda: locate(found, scope=scope, name=through), patience_s=patience_s)
        self._events_path = found.event_stream_path

    # --- what it says of itself

    async def health(self) -> str:
        """`ok` while codexd makes progress."""
        return str((await self._get("/healthz", Healthy)).status)

    async def status(self) -> Status:
        """States, counts and versions; no content."""
        return await self._get(STATUS, Status)

    async def handover(self, expires_in_ms: int = 60_000) -> Handover:
        """For this time, SIGTERM leaves running turns to the next codexd."""
        asked = AnnounceHandover(expires_in_ms=expires_in_ms)
        return (await self._ask("POST", f"{STATUS}/handover", HandoverAnswer, body=asked)).handover

    async def drain(self) -> Status:
        """Take nothing new, and finish what was accepted, until codexd is restarted."""
        return await self._ask("POST", f"{STATUS}/drain", Status)

    async def restart_child(self, *, force: bool = False) -> Status:
        """Another child in place of this one, once nothing runs; with `force` at once. One that failed is tried anew.

        The answer is the status. Asked again when the answer is lost, for another restart does no harm.
        """
        return await self._ask(
            "POST", f"{STATUS}/child/restart", Status, body=RestartChild(force=force), repeatable=not force
        )

    async def backup(self, to: str | None = None) -> Backup:
        """A verified copy of the log, made while codexd runs: in the new folder `to`, or where codexd keeps them.

        Not asked again when the answer is lost: the copy may be there.
        """
        asked = MakeBackup(to=to)
        return (await self._ask("POST", f"{STATUS}/backup", BackupAnswer, body=asked, wait_s=BACKUP_S)).backup

    # --- sessions

    async def create_session(self, asked: CreateSession) -> Session:
        """A new session. Not asked again when the answer is lost: the session may be there."""
        return (await self._ask("POST", SESSIONS, SessionAnswer, body=asked)).session

    async def session(self, session_id: str) -> Session:
        """One session, with its open interactions."""
        return (await self._get(f"{SESSIONS}/{session_id}", SessionAnswer)).session

    async def sessions(
        self,
        *,
        status: SessionStatus | None = None,
        purpose: str | None = None,
        needs_answer: bool = False,
        limit: int = 100,
        page_token: str | None = None,
    ) -> SessionPage:
        """A page of sessions, newest first. `needs_answer`: only those with an open interaction."""
        needs = "answer" if needs_answer else None
        query = {"status": status, "purpose": purpose, "needs": needs, "limit": limit, "pageToken": page_token}
        return await self._get(SESSIONS, SessionPage, query=query)

    async def turns(self, session_id: str, *, limit: int = 100, page_token: str | None = None) -> TurnPage:
        """A page of a session's turns, newest first, without their items."""
        query = {"limit": limit, "pageToken": page_token}
        return await self._get(f"{SESSIONS}/{session_id}/turns", TurnPage, query=query)

    async def close_session(self, session_id: str) -> Session:
        """End its turns, then the session. Closing one again is no mistake."""
        return (await self._ask("POST", f"{SESSIONS}/{session_id}/close", SessionAnswer)).session

    async def fork_session(self, session_id: str) -> Session:
        """A new session with this one's settings and its history so far."""
        return (await self._ask("POST", f"{SESSIONS}/{session_id}/fork", SessionAnswer)).session

    async def attach(self, session_id: str) -> Attachment:
        """A one-time ticket for Codex's own terminal UI on a session. Asked again when the answer is lost."""
        path = f"{SESSIONS}/{session_id}/attach"
        return (await self._ask("POST", path, AttachmentAnswer, repeatable=True)).attachment

    async def answer_in_session(self, session_id: str, interaction_id: str, asked: AnswerInteraction) -> Interaction:
        """Answer an interaction of a session, also one outside a turn. Asked again when the answer is lost."""
        path = f"{SESSIONS}/{session_id}/interactions/{interaction_id}"
        return (await self._ask("POST", path, InteractionAnswer, body=asked, repeatable=True)).interaction

    # --- turns

    async def start_turn(self, asked: StartTurn, *, idempotency_key: str | None = None) -> AcceptedTurn:
        """A turn that is durable. It is asked for again when the answer is lost, and started once.

        Without a key it gets one of its own. A script that may itself be run again gives the same key again.
        """
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        return await self._ask(
            "POST", TURN, AcceptedTurn, body=asked, headers={"Idempotency-Key": key}, repeatable=True
        )

    async def turn(self, turn_id: str, *, wait_ms: int = 0) -> Turn:
        """A turn's ledger; with `wait_ms` (a minute at most) once it has ended, or as it stands after that time."""
        query = {"waitMs": wait_ms or None}
        return (await self._get(f"{TURN}/{turn_id}", TurnAnswer, query=query, wait_s=wait_ms / 1000)).turn

    async def transcript(self, turn_id: str) -> str:
        """A turn to read, as Markdown. It holds what the model wrote, as it wrote it."""
        headers = {"Accept": "text/markdown"}
        return (await self._send("GET", f"{TURN}/{turn_id}", headers=headers, repeatable=True)).body.decode()

    async def interrupt_turn(self, turn_id: str) -> Turn:
        """End a turn; one that waits is taken out of the line. It is told as interrupted once nothing of it runs.

        Asked again when the answer is lost: the first wish stands.
        """
        return (await self._ask("POST", f"{TURN}/{turn_id}/interrupt", TurnAnswer, repeatable=True)).turn

    async def steer_turn(self, turn_id: str, asked: SteerTurn) -> Turn:
        """Give the running turn more input. Not asked again when the answer is lost: Codex may have it."""
        return (await self._ask("POST", f"{TURN}/{turn_id}/steer", SteeredTurn, body=asked)).turn

    async def renew_turn(self, turn_id: str, *, lease_ms: int | None = None) -> Turn:
        """Let the turn's lease begin anew, with this length or the one before."""
        asked = RenewTurn(lease_ms=lease_ms)
        return (await self._ask("POST", f"{TURN}/{turn_id}/renew", TurnAnswer, body=asked)).turn

    async def answer_in_turn(self, turn_id: str, interaction_id: str, asked: AnswerInteraction) -> Interaction:
        """Answer an interaction of a turn. Asked again when the answer is lost: the same answer twice is one."""
        path = f"{TURN}/{turn_id}/interactions/{interaction_id}"
        return (await self._ask("POST", path, InteractionAnswer, body=asked, repeatable=True)).interaction

    # --- events

    async def event_page(
        self,
        after: str = "0",
        *,
        session_id: str | None = None,
        types: Iterable[EventType] | None = None,
        limit: int = 100,
        wait_ms: int = 0,
    ) -> EventPage:
        """The events that follow a cursor, and the cursor to go on with; with `wait_ms` it waits for the first one."""
        query = _wanted(session_id, types) | {"after": after, "limit": limit, "waitMs": wait_ms or None}
        return await self._get(self._events_path, EventPage, query=query, wait_s=wait_ms / 1000)

    def events(
        self, after: str | None = "0", *, session_id: str | None = None, types: Iterable[EventType] | None = None
    ) -> EventStream[Event]:
        """The events that follow a cursor, and those to come: `0` = from the oldest, None = from now."""
        query = {name: value for name, value in _wanted(session_id, types).items() if value is not None}
        return EventStream(
            self._locate,
            self._events_path,
            query,
            after=after,
            patience_s=self._patience_s,
            met=self._met,
            decode=CODEXD,
        )


def _wanted(session_id: str | None, types: Iterable[EventType] | None) -> dict[str, Any]:
    return {"sessionId": session_id, "types": None if types is None else ",".join(types)}
