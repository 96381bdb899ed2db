"""What codexd can be asked, as data: every route with what it takes, what it answers, and which errors it can meet.

Handlers stand in http*.py; tests hold this table to the routes, to the errors that the code can raise, and to what a
real codexd answers.
"""

from __future__ import annotations

from typing import Final

from baa.api import ids
from baa.api.answers import (
    AcceptedTurn,
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
from baa.api.errors import Code
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction
from baa.api.sessions import CreateSession, NoFields, RenewTurn, SessionStatus, StartTurn, SteerTurn
from baa.api.status import AnnounceHandover, MakeBackup, RestartChild, Status
from baa.http.described import (
    AFTER,
    LIMIT,
    NONCE,
    READS_BODY,
    WAIT,
    Operation,
    Parameter,
    get,
    id_of,
    key,
    of_the_door,
    post,
    types_of,
    word,
)

SESSION: Final = id_of("sessionId", ids.SESSION)
TURN: Final = id_of("turnId", ids.TURN)
INTERACTION: Final = id_of("interactionId", ids.INTERACTION)
PAGED: Final = (LIMIT, word("pageToken", "The `nextPageToken` of the page before.", pattern="^[0-9]{1,19}$"))
OF_SESSION: Final = word("sessionId", "Only events of this session.", pattern="^ses_[0-9a-hjkmnp-tv-z]{26}$")
OF_TYPES: Final = types_of(type_.value for type_ in EventType)
KEY: Final = key("The same key and body again give the same turn, once, for 24 hours at least and for the turn's life.")
LAST_EVENT_ID: Final = Parameter(
    "header", "Last-Event-ID", AFTER.schema, "The cursor to come back with, as EventSource sends it; before `after`."
)

TAKES: Final = (Code.OVERLOADED,)
"""What passes the inbox of the main loop."""

ANSWERS: Final = (*READS_BODY, *TAKES, Code.INTERACTION_NOT_FOUND, Code.INTERACTION_RESOLVED)
ENDS: Final = (*READS_BODY, *TAKES, Code.TURN_NOT_FOUND, Code.TURN_ENDED)

ABOUT: Final[dict[Code, str]] = {
    **of_the_door("codexd"),
    Code.POLICY_CEILING: "more was asked for than this node's configuration allows",
    Code.SESSION_NOT_FOUND: "there is no such session",
    Code.TURN_NOT_FOUND: "there is no such turn",
    Code.INTERACTION_NOT_FOUND: "there is no such interaction in this turn or session",
    Code.THREAD_NOT_FOUND: "codexd's CODEX_HOME has no such thread stored",
    Code.TURN_IN_PROGRESS: "a turn of the session has not ended: `details.turnId`",
    Code.TURN_NOT_RUNNING: "the turn cannot be steered, for it waits, or it is ending: `details.turnId`",
    Code.TURN_ENDED: "the turn has ended: `details.status`",
    Code.SESSION_CLOSED: "the session is closed",
    Code.INTERACTION_RESOLVED: "the interaction is over: `details.interaction` says how",
    Code.THREAD_IN_USE: "a session has this thread already: `details.sessionId`",
    Code.CURSOR_AHEAD: "the cursor is ahead of the log: `details.head`",
    Code.CURSOR_EXPIRED: "the log no longer holds what follows the cursor: `details.oldest`",
    Code.IDEMPOTENCY_MISMATCH: "the key was used with another body: `details.turnId`",
    Code.OVERLOADED: "too much waits already",
    Code.CODEX_FAILED: "Codex gave an error, or none of the answers that it could give",
    Code.CHILD_UNAVAILABLE: "Codex does not run on this node; the status says why",
    Code.CODEX_NOT_LOGGED_IN: "Codex needs a login and has none",
    Code.DRAINING: "codexd stops, or takes nothing new",
    Code.STARTING: "codexd makes no progress",
    Code.STORAGE_FULL: "the disk takes no more: free some space",
}


def operations(events_path: str) -> tuple[Operation, ...]:
    """Every operation of a codexd whose event stream is at this path."""
    return (*_about_itself(), *_sessions(), *_turns(), _events(events_path))


def _about_itself() -> tuple[Operation, ...]:
    status = "/v1/codexd/status"
    return (
        get(
            "health",
            "/healthz",
            "Whether codexd makes progress.",
            access="open",
            data=Healthy,
            parameters=(NONCE,),
            codes=(Code.STARTING, Code.INVALID_REQUEST),
        ),
        get("status", status, "States, counts and versions; no content.", access="open", data=Status),
        post(
            "handover",
            f"{status}/handover",
            "For a while, SIGTERM leaves running turns to the next codexd. A longer announcement stands.",
            data=HandoverAnswer,
            body=AnnounceHandover,
            codes=(*READS_BODY, Code.DRAINING),
        ),
        post(
            "drain",
            f"{status}/drain",
            "Take nothing new until restarted, and finish what was accepted. The answer is the status.",
            data=Status,
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *TAKES),
        ),
        post(
            "restartChild",
            f"{status}/child/restart",
            "Another child in place of this one, once nothing runs or at once; one that failed is tried anew.",
            data=Status,
            body=RestartChild,
            body_optional=True,
            codes=(*READS_BODY, Code.DRAINING),
        ),
        post(
            "makeBackup",
            f"{status}/backup",
            "A copy of the log in a new folder, made while turns go on, and verified before it is told.",
            status=201,
            data=BackupAnswer,
            body=MakeBackup,
            body_optional=True,
            codes=(*READS_BODY, *TAKES, Code.DRAINING, Code.STORAGE_FULL),
        ),
        get(
            "openapi",
            "/openapi.json",
            "This document.",
            plain=(("application/json", "An OpenAPI 3.1 document."),),
        ),
        get(
            "metrics",
            "/metrics",
            "Figures for Prometheus.",
            plain=(("text/plain", "Prometheus' text format, 0.0.4."),),
        ),
    )


def _sessions() -> tuple[Operation, ...]:
    sessions = "/v1/codexd/sessions"
    filters = (
        word("status", "Only sessions that stand so.", enum=[status.value for status in SessionStatus]),
        word("purpose", "Only sessions of exactly this purpose."),
        word("needs", "Only sessions with an open interaction.", enum=["answer"]),
    )
    of_codex = (Code.THREAD_NOT_FOUND, Code.THREAD_IN_USE, Code.CHILD_UNAVAILABLE, Code.CODEX_FAILED)
    return (
        get(
            "listSessions",
            sessions,
            "Sessions, newest first.",
            data=SessionPage,
            parameters=(*filters, *PAGED),
            codes=(Code.INVALID_REQUEST,),
        ),
        post(
            "createSession",
            sessions,
            "Register a session; Codex hears of it with its first turn.",
            status=201,
            data=SessionAnswer,
            body=CreateSession,
            codes=(*READS_BODY, *TAKES, *of_codex, Code.POLICY_CEILING, Code.DRAINING),
        ),
        *_one_session(f"{sessions}/{{sessionId}}"),
    )


def _one_session(one: str) -> tuple[Operation, ...]:
    return (
        get(
            "readSession",
            one,
            "A session, with its open interactions.",
            data=SessionAnswer,
            parameters=(SESSION,),
            codes=(Code.SESSION_NOT_FOUND,),
        ),
        get(
            "listTurns",
            f"{one}/turns",
            "The turns of a session, newest first, without items.",
            data=TurnPage,
            parameters=(SESSION, *PAGED),
            codes=(Code.INVALID_REQUEST, Code.SESSION_NOT_FOUND),
        ),
        post(
            "closeSession",
            f"{one}/close",
            "End its turns, then the session itself. Again is no mistake.",
            data=SessionAnswer,
            parameters=(SESSION,),
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *TAKES, Code.SESSION_NOT_FOUND),
        ),
        post(
            "forkSession",
            f"{one}/fork",
            "A new session with this one's settings and its history so far.",
            status=201,
            data=SessionAnswer,
            parameters=(SESSION,),
            body=NoFields,
            body_optional=True,
            codes=(
                *READS_BODY,
                *TAKES,
                Code.SESSION_NOT_FOUND,
                Code.POLICY_CEILING,
                Code.DRAINING,
                Code.CHILD_UNAVAILABLE,
                Code.CODEX_FAILED,
            ),
        ),
        _attach(one),
        post(
            "answerInSession",
            f"{one}/interactions/{{interactionId}}",
            "Answer an interaction of a session, also one outside a turn. The same answer again is 200.",
            status=200,
            data=InteractionAnswer,
            parameters=(SESSION, INTERACTION),
            body=AnswerInteraction,
            codes=(*ANSWERS, Code.SESSION_NOT_FOUND),
        ),
    )


def _attach(one: str) -> Operation:
    return post(
        "attachTerminal",
        f"{one}/attach",
        "A one-time ticket for Codex's own terminal UI (`baa attach`), good for some seconds.",
        status=201,
        data=AttachmentAnswer,
        parameters=(SESSION,),
        body=NoFields,
        body_optional=True,
        codes=(
            *READS_BODY,
            *TAKES,
            Code.SESSION_NOT_FOUND,
            Code.SESSION_CLOSED,
            Code.THREAD_NOT_FOUND,
            Code.DRAINING,
            Code.CHILD_UNAVAILABLE,
        ),
    )


def _turns() -> tuple[Operation, ...]:
    of_codex = (Code.CHILD_UNAVAILABLE, Code.CODEX_NOT_LOGGED_IN, Code.CODEX_FAILED)
    of_session = (Code.SESSION_NOT_FOUND, Code.SESSION_CLOSED, Code.TURN_IN_PROGRESS, Code.TURN_NOT_RUNNING)
    of_asking = (Code.POLICY_CEILING, Code.IDEMPOTENCY_MISMATCH, Code.DRAINING)
    return (
        post(
            "startTurn",
            "/v1/codexd/turn",
            "Start a turn: durable when it is answered, and ended exactly once. `onBusy` says what else may be done.",
            data=AcceptedTurn,
            parameters=(KEY,),
            body=StartTurn,
            codes=(*READS_BODY, *TAKES, *of_asking, *of_session, *of_codex),
        ),
        *_one_turn("/v1/codexd/turn/{turnId}"),
    )


def _one_turn(one: str) -> tuple[Operation, ...]:
    return (
        get(
            "readTurn",
            one,
            "A turn with its items and interactions. `waitMs` waits for its end.",
            data=TurnAnswer,
            plain=(("text/markdown", "With `Accept: text/markdown`: a transcript."),),
            parameters=(TURN, WAIT),
            codes=(Code.INVALID_REQUEST, Code.TURN_NOT_FOUND),
        ),
        post(
            "interruptTurn",
            f"{one}/interrupt",
            "End a turn; one that waits is taken out of the line.",
            data=TurnAnswer,
            parameters=(TURN,),
            body=NoFields,
            body_optional=True,
            codes=ENDS,
        ),
        post(
            "steerTurn",
            f"{one}/steer",
            "Give the running turn more input. Answered once Codex took it.",
            data=SteeredTurn,
            parameters=(TURN,),
            body=SteerTurn,
            codes=(*ENDS, Code.POLICY_CEILING, Code.TURN_NOT_RUNNING, Code.CODEX_FAILED),
        ),
        post(
            "renewTurn",
            f"{one}/renew",
            "Let the turn's lease begin anew.",
            data=TurnAnswer,
            parameters=(TURN,),
            body=RenewTurn,
            body_optional=True,
            codes=ENDS,
        ),
        post(
            "answerInTurn",
            f"{one}/interactions/{{interactionId}}",
            "Answer an interaction of a turn. The same answer again is 200.",
            status=200,
            data=InteractionAnswer,
            parameters=(TURN, INTERACTION),
            body=AnswerInteraction,
            codes=(*ANSWERS, Code.TURN_NOT_FOUND),
        ),
    )


def _events(path: str) -> Operation:
    of_a_stream = (
        "With `Accept: text/event-stream`: one message a frame (`Hello`, `Events`, `Heartbeat`), its `event` is the"
        " frame's type, its `id` the cursor to come back with. `limit` and `waitMs` mean nothing here."
    )
    return get(
        "events",
        path,
        "A page of events; with `Accept: text/event-stream`, or as a WebSocket, the events as they come.",
        data=EventPage,
        plain=(("text/event-stream", of_a_stream),),
        parameters=(AFTER, OF_SESSION, OF_TYPES, LIMIT, WAIT, LAST_EVENT_ID),
        codes=(Code.INVALID_REQUEST, Code.CURSOR_AHEAD, Code.CURSOR_EXPIRED),
    )
