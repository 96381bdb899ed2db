"""What a program can be asked, as data: the routes with what they take, what they answer, and what can go wrong.

codexd and the conductor fill a table of these each (their operations.py); openapi.py makes the document of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from baa.api.errors import Code
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


def id_of(name: str, prefix: str) -> Parameter:
    """The id of something in a path."""
    # Another text is no 422: there simply is nothing of this id.
    schema = {"type": "string", "examples": [f"{prefix}_01hzy3v9q8f2k4m6n7p0r5t1wx"]}
    return Parameter("path", name, schema, f"An id, {prefix}_…", required=True)


def number(name: str, default: int, low: int, high: int, about: str) -> Parameter:
    """A parameter of the query that is a number in bounds."""
    return Parameter("query", name, {"type": "integer", "minimum": low, "maximum": high, "default": default}, about)


def word(name: str, about: str, **schema: Any) -> Parameter:
    """A parameter of the query that is a text."""
    return Parameter("query", name, {"type": "string", **schema}, about)


def key(about: str) -> Parameter:
    """The header that makes one of what is asked for more than once."""
    schema = {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[ -~]*$"}
    return Parameter("header", "Idempotency-Key", schema, about)


def get(name: str, path: str, about: str, *, access: Access = "read", **more: Any) -> Operation:
    """An operation that looks."""
    return Operation(name, "GET", path, access, about, **more)


def post(name: str, path: str, about: str, *, status: int = 202, **more: Any) -> Operation:
    """An operation that changes something."""
    return Operation(name, "POST", path, "drive", about, status=status, **more)


LIMIT: Final = number("limit", PAGE, 1, PAGE_MAX, "How many at most.")
WAIT: Final = number("waitMs", 0, 0, WAIT_MAX_MS, "How long to wait for what is asked for; then what there is by now.")
AFTER: Final = word(
    "after",
    "The cursor after which to begin: `EPOCH:SEQ`, as an answer gave it, or `0` for the oldest. Without it a page"
    " begins at the oldest, a stream now.",
    pattern="^(0|.+:[0-9]{1,18})$",
)
NONCE: Final = word(
    "nonce",
    "Asks for a proof that the program knows its tokens, before one is sent: for each scope an HMAC-SHA256 of"
    " `HOST\\nNONCE` in hex, with a key made of the token. `baa.http.proof` has the whole of it.",
    pattern=proof.NONCE,
)

READS_BODY: Final = (Code.INVALID_JSON, Code.INVALID_REQUEST)

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


def types_of(names: Iterable[str]) -> Parameter:
    """The parameter that asks for events of some types only."""
    schema = {"type": "array", "items": {"enum": list(names)}, "minItems": 1}
    return Parameter("query", "types", schema, "Only events of these types, with commas between them.")


def of_the_door(program: str) -> Mapping[Code, str]:
    """What the errors mean that a program of ours can meet at every route."""
    return {
        Code.INVALID_JSON: "the body is not one JSON object in UTF-8",
        Code.MALFORMED_REQUEST: "the request cannot be read as HTTP/1.1, or its head is too large",
        Code.UNAUTHORIZED: "no token, or a wrong one",
        Code.READ_ONLY_TOKEN: "the read token may only look",
        Code.ORIGIN_REFUSED: "the request comes from a web page",
        Code.UNKNOWN_ROUTE: "there is no such path, or not with this method",
        Code.REQUEST_TIMEOUT: "the head did not come within 5 s, or the body within 15 s",
        Code.TOO_LARGE: "the body is larger than 8 MiB",
        Code.UNSUPPORTED_MEDIA_TYPE: "a POST without `Content-Type: application/json`, or a body with a"
        " Content-Encoding",
        Code.WRONG_HOST: f"the Host is not one that {program} answers to",
        Code.INVALID_REQUEST: "a field or a parameter is unknown, or does not fit: the message says what would",
        Code.INTERNAL_ERROR: f"{program} failed; its log says how",
        Code.TOO_MANY_CONNECTIONS: "more than 256 connections are open; `GET /healthz` is answered all the same",
    }
