"""codexd as a Python object: one method a route, typed answers, errors of `baa.api.errors`.

    async with Codexd() as codexd:
        session = await codexd.create_session(CreateSession(cwd="/home/me/project"))
        started = await codexd.start_turn(StartTurn(session_id=session.session_id, prompt="Which tests are slow?"))
        async with codexd.events(after=started.cursor) as events:
            async for event in events: ...

Only what is safe to ask twice is asked twice: reads, and a turn that carries an Idempotency-Key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx2
import msgspec

from baa import config as configuration
from baa.api.answers import (
    AcceptedTurn,
    Attachment,
    AttachmentAnswer,
    BackupAnswer,
    Healthy,
    InteractionAnswer,
    SessionAnswer,
    SessionPage,
    SteeredTurn,
    TurnAnswer,
)
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, Interaction
from baa.api.sessions import CreateSession, Session, StartTurn, SteerTurn, Turn
from baa.api.status import Backup, RestartChild, Status
from baa.client import answers
from baa.client.discovery import START_IT, Location, Unreachable, locate
from baa.client.events import EventStream
from baa.client.pauses import pauses
from baa.config import Config

T = TypeVar("T")

PATIENCE_S: Final = 30.0
"""Seconds for which a codexd that was met before is looked for: a restart takes less than one."""

BACKUP_S: Final = 6 * 3600.0
"""Seconds for a backup, at most."""

ANSWER_S: Final = 10.0
"""Seconds for an answer, beside what the request itself waits for."""


class Codexd:
    """This node's codexd. An async context manager; inside it, every method raises BaaError or Unreachable."""

    def __init__(self, config: Config | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """Without `config`: the configuration that `baa` itself has here."""
        self._config = configuration.load() if config is None else config
        self._patience_s = patience_s
        self._met = False
        self._http = httpx2.AsyncClient(trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def health(self) -> str:
        """`ok` while codexd makes progress."""
        return (await self._get("/healthz", Healthy)).status

    async def status(self) -> Status:
        """States, counts and versions; no content."""
        return await self._get("/v1/codexd/status", Status)

    async def restart_child(self, *, force: bool = False) -> Status:
        """Another child in place of this one, once nothing runs; with `force` at once. One that failed is tried anew.

        The answer is the status. Asked again when the answer is lost, for another restart does no harm.
        """
        body = msgspec.json.encode(RestartChild(force=force))
        return await self._ask("POST", "/v1/codexd/status/child/restart", Status, body=body, repeatable=not force)

    async def backup(self, to: str | None = None) -> Backup:
        """A verified copy of the log, made while codexd runs: in the new folder `to`, or where codexd keeps them.

        Not asked again when the answer is lost: the copy may be there.
        """
        body = msgspec.json.encode({} if to is None else {"to": to})
        path = "/v1/codexd/status/backup"
        return (await self._ask("POST", path, BackupAnswer, body=body, wait_s=BACKUP_S)).backup

    async def create_session(self, asked: CreateSession) -> Session:
        """A new session. Not asked again when the answer is lost: the session may be there."""
        body = _body(asked)
        return (await self._ask("POST", "/v1/codexd/sessions", SessionAnswer, body=body)).session

    async def session(self, session_id: str) -> Session:
        """One session."""
        return (await self._get(f"/v1/codexd/sessions/{session_id}", SessionAnswer)).session

    async def sessions(
        self, *, purpose: str | None = None, limit: int = 100, page_token: str | None = None
    ) -> SessionPage:
        """A page of sessions, newest first."""
        asked = {"purpose": purpose, "limit": str(limit), "pageToken": page_token}
        query = {name: value for name, value in asked.items() if value is not None}
        return await self._get("/v1/codexd/sessions", SessionPage, query=query)

    async def attach(self, session_id: str) -> Attachment:
        """A one-time ticket for Codex's own terminal UI on a session. Asked again when the answer is lost."""
        path = f"/v1/codexd/sessions/{session_id}/attach"
        return (await self._ask("POST", path, AttachmentAnswer, body=b"{}", repeatable=True)).attachment

    async def start_turn(self, asked: StartTurn, *, idempotency_key: str | None = None) -> AcceptedTurn:
        """A turn that is durable. With a key it is asked for again when the answer is lost, and still started once."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return await self._ask(
            "POST",
            "/v1/codexd/turn",
            AcceptedTurn,
            body=_body(asked),
            headers=headers,
            repeatable=idempotency_key is not None,
        )

    async def turn(self, turn_id: str, *, wait_ms: int = 0) -> Turn:
        """A turn's ledger; with `wait_ms` once it has ended, or as it stands after that time."""
        query = {"waitMs": str(wait_ms)} if wait_ms else {}
        path = f"/v1/codexd/turn/{turn_id}"
        return (await self._get(path, TurnAnswer, query=query, wait_s=wait_ms / 1000)).turn

    async def interrupt_turn(self, turn_id: str) -> Turn:
        """End a turn. Asked again when the answer is lost: the first wish stands."""
        path = f"/v1/codexd/turn/{turn_id}/interrupt"
        return (await self._ask("POST", path, TurnAnswer, body=b"{}", repeatable=True)).turn

    async def steer_turn(self, turn_id: str, asked: SteerTurn) -> Turn:
        """More input for the running turn. Not asked again when the answer is lost: Codex may have it."""
        return (await self._ask("POST", f"/v1/codexd/turn/{turn_id}/steer", SteeredTurn, body=_body(asked))).turn

    async def answer_in_turn(self, turn_id: str, interaction_id: str, asked: AnswerInteraction) -> Interaction:
        """Answer a question of a turn. Asked again when the answer is lost: the same answer twice is one."""
        return await self._answer(f"/v1/codexd/turn/{turn_id}/interactions/{interaction_id}", asked)

    async def answer_in_session(self, session_id: str, interaction_id: str, asked: AnswerInteraction) -> Interaction:
        """Answer a question outside a turn; the same holds."""
        return await self._answer(f"/v1/codexd/sessions/{session_id}/interactions/{interaction_id}", asked)

    async def _answer(self, path: str, asked: AnswerInteraction) -> Interaction:
        return (await self._ask("POST", path, InteractionAnswer, body=_body(asked), repeatable=True)).interaction

    def events(
        self, after: str | None = "0", *, session_id: str | None = None, types: Iterable[EventType] | None = None
    ) -> EventStream:
        """The events that follow a cursor, and those to come: `0` = from the oldest, None = from now."""
        asked = {"sessionId": session_id, "types": None if types is None else ",".join(types)}
        query = {name: value for name, value in asked.items() if value is not None}
        return EventStream(
            self._locate, self._config.event_stream_path, query, after=after, patience_s=self._patience_s
        )

    def _locate(self) -> Location:
        return locate(self._config)

    async def _get(self, path: str, type_: type[T], *, query: dict[str, str] | None = None, wait_s: float = 0) -> T:
        return await self._ask("GET", path, type_, query=query, repeatable=True, wait_s=wait_s)

    async def _ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = False,
        wait_s: float = 0,
    ) -> T:
        now = asyncio.get_running_loop().time
        until = now() + (self._patience_s if self._met else 0)
        for pause in pauses():
            try:
                location = self._locate()
                response = await self._http.request(
                    method,
                    location.address + path,
                    params=query,
                    content=body,
                    headers={"Authorization": f"Bearer {location.token}", **(headers or {}), **_TYPE[body is None]},
                    timeout=httpx2.Timeout(ANSWER_S, read=ANSWER_S + wait_s),
                )
                break
            except (Unreachable, httpx2.TransportError) as error:
                never_sent = isinstance(error, Unreachable | httpx2.ConnectError | httpx2.ConnectTimeout)
                if not (repeatable or never_sent) or now() + pause > until:
                    raise _unreachable(error, f"{method} {path}", never_sent=never_sent) from error
            await asyncio.sleep(pause)
        self._met = True
        if response.is_success:
            return answers.data(response.content, type_)
        raise answers.failure(response.status_code, response.content)


_TYPE: Final[dict[bool, dict[str, str]]] = {True: {}, False: {"Content-Type": "application/json"}}


def _body(asked: CreateSession | StartTurn | SteerTurn | AnswerInteraction) -> bytes:
    """What was asked for, and nothing that was not: an older codexd refuses a field that it does not know."""
    told: dict[str, Any] = msgspec.to_builtins(asked)
    return msgspec.json.encode({name: value for name, value in told.items() if value not in (None, {})})


def _unreachable(error: Exception, request: str, *, never_sent: bool) -> Unreachable:
    if isinstance(error, Unreachable):
        return error
    if never_sent:
        return Unreachable(f"codexd does not answer ({error}). {START_IT}")
    return Unreachable(
        f"codexd went away before it answered {request} ({type(error).__name__}): it may have done it, or not. Look at"
        " its sessions and events; a turn with an Idempotency-Key can simply be asked for again.",
        maybe_done=True,
    )
