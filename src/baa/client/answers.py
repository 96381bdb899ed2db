"""What codexd answers, as types: data of a success, or the error of a failure with its code, status and message."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from baa.api.errors import STATUS, BaaError, Code, PeerFailed, Rejected, Unavailable
from baa.client.discovery import Unreachable

T = TypeVar("T")

UNKNOWN_CODES: Final = ((range(400, 429), Code.INVALID_REQUEST), ((502,), Code.CODEX_FAILED), ((429,), Code.OVERLOADED))
"""What a code that this release does not know counts as, by its status; all else is an internal error."""


_CODES: Final[dict[str, Code]] = {code.value: code for code in Code}


class _Success(Struct, Generic[T], frozen=True):
    data: T


class _Error(Struct, frozen=True):
    code: str
    message: str
    details: dict[str, Any] = {}


class _Failure(Struct, frozen=True):
    error: _Error


def data(body: bytes, type_: type[T]) -> T:
    """The data of a success. Raises Unreachable if it is not of codexd."""
    try:
        return msgspec.json.decode(body, type=_Success[type_]).data  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise _stranger(str(error)) from None


def failure(status: int, body: bytes) -> BaaError:
    """The error in the body of a failure, to be raised. Raises Unreachable if it is not of codexd."""
    try:
        told = msgspec.json.decode(body, type=_Failure).error
    except msgspec.DecodeError:
        raise _stranger(f"status {status}") from None
    details = dict(told.details)
    code = _CODES.get(told.code)
    if code is None:
        code = next((code for statuses, code in UNKNOWN_CODES if status in statuses), Code.INTERNAL_ERROR)
        details["code"] = told.code
    retry_after_ms = details.pop("retryAfterMs", None)
    known = STATUS[code]
    if known in Unavailable.statuses:
        pause = retry_after_ms if isinstance(retry_after_ms, int) else 1000
        return Unavailable(code, told.message, details=details, retry_after_ms=pause)
    kind = next((kind for kind in (Rejected, PeerFailed) if known in kind.statuses), BaaError)
    return kind(code, told.message, details=details)


def _stranger(what: str) -> Unreachable:
    return Unreachable(f"What answers at codexd's address is not codexd, or one of another time ({what}).")
