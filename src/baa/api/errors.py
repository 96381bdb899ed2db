"""Every error that a caller can meet, as one tree.

    BaaError              a code, its status and a message that says what to do next
    ├ Rejected            the caller's doing: the same request will be refused again (4xx)
    ├ Unavailable         ours for now: the same request may pass later (429, 503, 507), with Retry-After
    └ PeerFailed          Codex, or a program of ours behind this one, gave an error (502)

    CannotStart           told to whoever starts a program, on stderr and by the exit code; never on the wire

A mistake of our own is none of these: it is an assertion, and reaches a caller as a bare `internal_error`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import StrEnum
from typing import ClassVar, Final


class Code(StrEnum):
    """What went wrong, in a word that programs may rely on."""

    INVALID_JSON = "invalid_json"
    MALFORMED_REQUEST = "malformed_request"
    UNAUTHORIZED = "unauthorized"
    POLICY_CEILING = "policy_ceiling"
    READ_ONLY_TOKEN = "read_only_token"
    ORIGIN_REFUSED = "origin_refused"
    SESSION_NOT_FOUND = "session_not_found"
    TURN_NOT_FOUND = "turn_not_found"
    INTERACTION_NOT_FOUND = "interaction_not_found"
    THREAD_NOT_FOUND = "thread_not_found"
    TASK_NOT_FOUND = "task_not_found"
    NODE_NOT_FOUND = "node_not_found"
    UNKNOWN_ROUTE = "unknown_route"
    REQUEST_TIMEOUT = "request_timeout"
    TURN_IN_PROGRESS = "turn_in_progress"
    TURN_NOT_RUNNING = "turn_not_running"
    TURN_ENDED = "turn_ended"
    TASK_ENDED = "task_ended"
    TASK_NOT_ENDED = "task_not_ended"
    SESSION_CLOSED = "session_closed"
    INTERACTION_RESOLVED = "interaction_resolved"
    THREAD_IN_USE = "thread_in_use"
    CURSOR_AHEAD = "cursor_ahead"
    CURSOR_EXPIRED = "cursor_expired"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    WRONG_HOST = "wrong_host"
    INVALID_REQUEST = "invalid_request"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    OVERLOADED = "overloaded"
    INTERNAL_ERROR = "internal_error"
    CODEX_FAILED = "codex_failed"
    CHILD_UNAVAILABLE = "child_unavailable"
    CODEXD_UNAVAILABLE = "codexd_unavailable"
    NOT_READY = "not_ready"
    CODEX_NOT_LOGGED_IN = "codex_not_logged_in"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    DRAINING = "draining"
    STARTING = "starting"
    STORAGE_FULL = "storage_full"


STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_JSON: 400,
    Code.MALFORMED_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.POLICY_CEILING: 403,
    Code.READ_ONLY_TOKEN: 403,
    Code.ORIGIN_REFUSED: 403,
    Code.SESSION_NOT_FOUND: 404,
    Code.TURN_NOT_FOUND: 404,
    Code.INTERACTION_NOT_FOUND: 404,
    Code.THREAD_NOT_FOUND: 404,
    Code.TASK_NOT_FOUND: 404,
    Code.NODE_NOT_FOUND: 404,
    Code.UNKNOWN_ROUTE: 404,
    Code.REQUEST_TIMEOUT: 408,
    Code.TURN_IN_PROGRESS: 409,
    Code.TURN_NOT_RUNNING: 409,
    Code.TURN_ENDED: 409,
    Code.TASK_ENDED: 409,
    Code.TASK_NOT_ENDED: 409,
    Code.SESSION_CLOSED: 409,
    Code.INTERACTION_RESOLVED: 409,
    Code.THREAD_IN_USE: 409,
    Code.CURSOR_AHEAD: 409,
    Code.CURSOR_EXPIRED: 410,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.WRONG_HOST: 421,
    Code.INVALID_REQUEST: 422,
    Code.IDEMPOTENCY_MISMATCH: 422,
    Code.OVERLOADED: 429,
    Code.INTERNAL_ERROR: 500,
    Code.CODEX_FAILED: 502,
    Code.CHILD_UNAVAILABLE: 503,
    Code.CODEXD_UNAVAILABLE: 503,
    Code.NOT_READY: 503,
    Code.CODEX_NOT_LOGGED_IN: 503,
    Code.TOO_MANY_CONNECTIONS: 503,
    Code.DRAINING: 503,
    Code.STARTING: 503,
    Code.STORAGE_FULL: 507,
}

EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78


class BaaError(Exception):
    """An error as it goes over the wire; `message` says what to do next."""

    statuses: ClassVar[Container[int]] = range(400, 600)

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        assert STATUS[code] in self.statuses, f"{code} is no code of {type(self).__name__}"
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: Mapping[str, object] = details or {}
        self.retry_after_ms = retry_after_ms

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS[self.code]


class Rejected(BaaError):
    """The caller asked for what cannot be had."""

    statuses = range(400, 429)


class Unavailable(BaaError):
    """Not now; the same request may pass after `retry_after_ms`."""

    statuses = (429, 503, 507)

    def __init__(
        self, code: Code, message: str, *, details: Mapping[str, object] | None = None, retry_after_ms: int = 1000
    ) -> None:
        super().__init__(code, message, details=details, retry_after_ms=retry_after_ms)


class PeerFailed(BaaError):
    """The program behind this one failed; `details` keeps what it said."""

    statuses = (502,)


class CannotStart(Exception):
    """A program must not or cannot start: `message` names the cause and the cure, `exit_code` is sysexits'."""

    def __init__(self, message: str, *, exit_code: int = EX_CONFIG) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
