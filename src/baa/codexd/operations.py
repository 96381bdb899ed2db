"""What codexd can be asked, as data: every route with what it takes, what it answers, and which errors it can meet.

Handlers stand in http*.py; tests hold this table to the routes, to the errors that the code can raise, and to what a
real codexd answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

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
from baa.http import proof
from baa.http.guard import Access
from baa.http.request import KEY_MAX, PAGE, PAGE_MAX, WAIT_MAX_MS


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: where it stands ("query", "header" or "path"), and the JSON schema of its value."""

    place: str
    name: str
    schema: dict[str, Any]
    about: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """A route: `data` is the struct that a success holds, and `plain` what it may be instead, by media type.

    `body_optional`: no body is the same as `{}`. `codes` are the errors of its own, beside those of every route.
    """

    name: str
    method: str
    path: str
    access: Access
    about: str
    data: type | None = None
    status: int = 200
    plain: tuple[tuple[str, str], ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: type | None = None
    body_optional: bool = False
    codes: tuple[Code, ...] = ()


def _id(name: str, prefix: str) -> Parameter:
    # Another text is no 422: there simply is nothing of this id.
    schema = {"type": "string", "examples": [f"{prefix}_01hzy3v9q8f2k4m6n7p0r5t1wx"]}
    return Parameter("path", name, schema, f"An id, {prefix}_…", required=True)


def _number(name: str, default: int, low: int, high: int, about: str) -> Parameter:
    return Parameter("query", name, {"type": "integer", "minimum": low, "maximum": high, "default": default}, about)


def _word(name: str, about: str, **schema: Any) -> Parameter:
    return Parameter("query", name, {"type": "string", **schema}, about)


SESSION: Final = _id("sessionId", ids.SESSION)
TURN: Final = _id("turnId", ids.TURN)
INTERACTION: Final = _id("interactionId", ids.INTERACTION)
LIMIT: Final = _number("limit", PAGE, 1, PAGE_MAX, "How many at most.")
WAIT: Final = _number("waitMs", 0, 0, WAIT_MAX_MS, "How long to wait for what is asked for; then what there is by now.")
PAGED: Final = (LIMIT, _word("pageToken", "The `nextPageToken` of the page before.", pattern="^[0-9]{1,19}$"))
AFTER: Final = _word(
    "after",
    "The cursor after which to begin: `EPOCH:SEQ`, as an answer gave it, or `0` for the oldest. Without it a page"
    " begins at the oldest, a stream now.",
    pattern="^(0|.+:[0-9]{1,18})$",
)
OF_SESSION: Final = _word("sessionId", "Only events of this session.", pattern="^ses_[0-9a-hjkmnp-tv-z]{26}$")
OF_TYPES: Final = Parameter(
    "query",
    "types",
    {"type": "array", "items": {"enum": [type_.value for type_ in EventType]}, "minItems": 1},
    "Only events of these types, with commas between them.",
)
KEY: Final = Parameter(
    "header",
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[ -~]*$"},
    "The same key and body again give the same turn, once, for 24 hours at least and for the turn's life.",
)
LAST_EVENT_ID: Final = Parameter(
    "header", "Last-Event-ID", AFTER.schema, "The cursor to come back with, as EventSource sends it; before `after`."
)

NONCE: Final = _word(
    "nonce",
    "Asks for a proof that codexd knows its tokens, before one is sent: for each scope an HMAC-SHA256 of `HOST\\nNONCE`"
    " in hex, with a key made of the token. `baa.http.proof` has the whole of it.",
    pattern=proof.NONCE,
)

READS_BODY: Final = (Code.INVALID_JSON, Code.INVALID_REQUEST)
TAKES: Final = (Code.OVERLOADED,)
"""What passes the inbox of the main loop."""

ANSWERS: Final = (*READS_BODY, *TAKES, Code.INTERACTION_NOT_FOUND, Code.INTERACTION_RESOLVED)
ENDS: Final = (*READS_BODY, *TAKES, Code.TURN_NOT_FOUND, Code.TURN_ENDED)

OF_EVERY_ROUTE: Final = (
    Code.MALFORMED_REQUEST,
    Code.REQUEST_TIMEOUT,
    Code.TOO_MANY_CONNECTIONS,
    Code.WRONG_HOST,
    Code.ORIGIN_REFUSED,
    Code.TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.INTERNAL_ERROR,
)
OF_ACCESS: Final[dict[Access, tuple[Code, ...]]] = {
    "open": (),
    "read": (Code.UNAUTHORIZED,),
    "drive": (Code.UNAUTHORIZED, Code.READ_ONLY_TOKEN),
}
OF_NO_ROUTE: Final = Code.UNKNOWN_ROUTE

ABOUT: Final[dict[Code, str]] = {
    Code.INVALID_JSON: "the body is not one JSON object in UTF-8",
    Code.MALFORMED_REQUEST: "the request cannot be read as HTTP/1.1, or its head is too large",
    Code.UNAUTHORIZED: "no token, or a wrong one",
    Code.POLICY_CEILING: "more was asked for than this node's configuration allows",
    Code.READ_ONLY_TOKEN: "the read token may only look",
    Code.ORIGIN_REFUSED: "the request comes from a web page",
    Code.SESSION_NOT_FOUND: "there is no such session",
    Code.TURN_NOT_FOUND: "there is no such turn",
    Code.INTERACTION_NOT_FOUND: "there is no such interaction in this turn or session",
    Code.THREAD_NOT_FOUND: "codexd's CODEX_HOME has no such thread stored",
    Code.UNKNOWN_ROUTE: "there is no such path, or not with this method",
    Code.REQUEST_TIMEOUT: "the head did not come within 5 s, or the body within 15 s",
    Code.TURN_IN_PROGRESS: "a turn of the session has not ended: `details.turnId`",
    Code.TURN_NOT_RUNNING: "the turn cannot be steered, for it waits, or it is ending: `details.turnId`",
    Code.TURN_ENDED: "the turn has ended: `details.status`",
    Code.SESSION_CLOSED: "the session is closed",
    Code.INTERACTION_RESOLVED: "the interaction is over: `details.interaction` says how",
    Code.THREAD_IN_USE: "a session has this thread already: `details.sessionId`",
    Code.CURSOR_AHEAD: "the cursor is ahead of the log: `details.head`",
    Code.CURSOR_EXPIRED: "the log no longer holds what follows the cursor: `details.oldest`",
    Code.TOO_LARGE: "the body is larger than 8 MiB",
    Code.UNSUPPORTED_MEDIA_TYPE: "a POST without `Content-Type: application/json`, or a body with a Content-Encoding",
    Code.WRONG_HOST: "the Host is not one that codexd answers to",
    Code.INVALID_REQUEST: "a field or a parameter is unknown, or does not fit: the message says what would",
    Code.IDEMPOTENCY_MISMATCH: "the key was used with another body: `details.turnId`",
    Code.OVERLOADED: "too much waits already",
    Code.INTERNAL_ERROR: "codexd failed; its log says how",
    Code.CODEX_FAILED: "Codex gave an error, or none of the answers that it could give",
    Code.CHILD_UNAVAILABLE: "Codex does not run on this node; the status says why",
    Code.CODEX_NOT_LOGGED_IN: "Codex needs a login and has none",
    Code.TOO_MANY_CONNECTIONS: "more than 256 connections are open; `GET /healthz` is answered all the same",
    Code.DRAINING: "codexd stops, or takes nothing new",
    Code.STARTING: "codexd makes no progress",
    Code.STORAGE_FULL: "the disk takes no more: free some space",
}


def operations(events_path: str) -> tuple[Operation, ...]:
    """Every operation of a codexd whose event stream is at this path."""
    return (*_about_itself(), *_sessions(), *_turns(), _events(events_path))


def _get(name: str, path: str, about: str, *, access: Access = "read", **more: Any) -> Operation:
    return Operation(name, "GET", path, access, about, **more)


def _post(name: str, path: str, about: str, *, status: int = 202, **more: Any) -> Operation:
    return Operation(name, "POST", path, "drive", about, status=status, **more)


def _about_itself() -> tuple[Operation, ...]:
    status = "/v1/codexd/status"
    return (
        _get(
            "health",
            "/healthz",
            "Whether codexd makes progress.",
            access="open",
            data=Healthy,
            parameters=(NONCE,),
            codes=(Code.STARTING, Code.INVALID_REQUEST),
        ),
        _get("status", status, "States, counts and versions; no content.", access="open", data=Status),
        _post(
            "handover",
            f"{status}/handover",
            "For a while, SIGTERM leaves running turns to the next codexd. A longer announcement stands.",
            data=HandoverAnswer,
            body=AnnounceHandover,
            codes=(*READS_BODY, Code.DRAINING),
        ),
        _post(
            "drain",
            f"{status}/drain",
            "Take nothing new until restarted, and finish what was accepted. The answer is the status.",
            data=Status,
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *TAKES),
        ),
        _post(
            "restartChild",
            f"{status}/child/restart",
            "Another child in place of this one, once nothing runs or at once; one that failed is tried anew.",
            data=Status,
            body=RestartChild,
            body_optional=True,
            codes=(*READS_BODY, Code.DRAINING),
        ),
        _post(
            "makeBackup",
            f"{status}/backup",
            "A copy of the log in a new folder, made while turns go on, and verified before it is told.",
            status=201,
            data=BackupAnswer,
            body=MakeBackup,
            body_optional=True,
            codes=(*READS_BODY, *TAKES, Code.DRAINING, Code.STORAGE_FULL),
        ),
        _get(
            "openapi",
            "/openapi.json",
            "This document.",
            plain=(("application/json", "An OpenAPI 3.1 document."),),
        ),
        _get(
            "metrics",
            "/metrics",
            "Figures for Prometheus.",
            plain=(("text/plain", "Prometheus' text format, 0.0.4."),),
        ),
    )


def _sessions() -> tuple[Operation, ...]:
    sessions = "/v1/codexd/sessions"
    filters = (
        _word("status", "Only sessions that stand so.", enum=[status.value for status in SessionStatus]),
        _word("purpose", "Only sessions of exactly this purpose."),
        _word("needs", "Only sessions with an open interaction.", enum=["answer"]),
    )
    of_codex = (Code.THREAD_NOT_FOUND, Code.THREAD_IN_USE, Code.CHILD_UNAVAILABLE, Code.CODEX_FAILED)
    return (
        _get(
            "listSessions",
            sessions,
            "Sessions, newest first.",
            data=SessionPage,
            parameters=(*filters, *PAGED),
            codes=(Code.INVALID_REQUEST,),
        ),
        _post(
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
        _get(
            "readSession",
            one,
            "A session, with its open interactions.",
            data=SessionAnswer,
            parameters=(SESSION,),
            codes=(Code.SESSION_NOT_FOUND,),
        ),
        _get(
            "listTurns",
            f"{one}/turns",
            "The turns of a session, newest first, without items.",
            data=TurnPage,
            parameters=(SESSION, *PAGED),
            codes=(Code.INVALID_REQUEST, Code.SESSION_NOT_FOUND),
        ),
        _post(
            "closeSession",
            f"{one}/close",
            "End its turns, then the session itself. Again is no mistake.",
            data=SessionAnswer,
            parameters=(SESSION,),
            body=NoFields,
            body_optional=True,
            codes=(*READS_BODY, *TAKES, Code.SESSION_NOT_FOUND),
        ),
        _post(
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
        _post(
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
    return _post(
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
        _post(
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
        _get(
            "readTurn",
            one,
            "A turn with its items and interactions. `waitMs` waits for its end.",
            data=TurnAnswer,
            plain=(("text/markdown", "With `Accept: text/markdown`: a transcript."),),
            parameters=(TURN, WAIT),
            codes=(Code.INVALID_REQUEST, Code.TURN_NOT_FOUND),
        ),
        _post(
            "interruptTurn",
            f"{one}/interrupt",
            "End a turn; one that waits is taken out of the line.",
            data=TurnAnswer,
            parameters=(TURN,),
            body=NoFields,
            body_optional=True,
            codes=ENDS,
        ),
        _post(
            "steerTurn",
            f"{one}/steer",
            "Give the running turn more input. Answered once Codex took it.",
            data=SteeredTurn,
            parameters=(TURN,),
            body=SteerTurn,
            codes=(*ENDS, Code.POLICY_CEILING, Code.TURN_NOT_RUNNING, Code.CODEX_FAILED),
        ),
        _post(
            "renewTurn",
            f"{one}/renew",
            "Let the turn's lease begin anew.",
            data=TurnAnswer,
            parameters=(TURN,),
            body=RenewTurn,
            body_optional=True,
            codes=ENDS,
        ),
        _post(
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
    return _get(
        "events",
        path,
        "A page of events; with `Accept: text/event-stream`, or as a WebSocket, the events as they come.",
        data=EventPage,
        plain=(("text/event-stream", of_a_stream),),
        parameters=(AFTER, OF_SESSION, OF_TYPES, LIMIT, WAIT, LAST_EVENT_ID),
        codes=(Code.INVALID_REQUEST, Code.CURSOR_AHEAD, Code.CURSOR_EXPIRED),
    )
