"""The two shapes of every answer, and the one strict way in for JSON.

The standard library's parser does the strictness, for it shows duplicate keys and how numbers are written; msgspec
the types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from baa.api.errors import BaaError, Code, Rejected
from baa.http.limits import MAX_JSON_DEPTH, MAX_JSON_NODES, Scope, Send

T = TypeVar("T")

JSON: Final = b"application/json"
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
SHOWN_CHARS: Final = 300  # How much of a parser's words, which quote the caller's, goes back to the caller.


def success(data: object) -> bytes:
    """The body of a success; `data` is a dict keyed by the noun, or a struct of such shape."""
    return msgspec.json.encode({"ok": True, "data": data})


def failure(error: BaaError) -> bytes:
    """The body of a failure."""
    details = dict(error.details)
    if error.retry_after_ms is not None:
        details["retryAfterMs"] = error.retry_after_ms
    told = {"code": str(error.code), "message": error.message, "details": details}
    return msgspec.json.encode({"ok": False, "error": told})


def failure_headers(error: BaaError) -> dict[str, str]:
    """The header fields, beside the content's own, that tell what to do about a failure."""
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_ms / 1000)))
    if error.code is Code.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


async def send_failure(error: BaaError, scope: Scope, send: Send, *, close: bool = True, more: bool = False) -> None:
    """Answer an HTTP request, or a WebSocket handshake that was not accepted yet, with the failure's status.

    `close` ends the connection; `more` leaves the answer open, for a caller that still has to read the request.
    """
    body = failure(error)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in failure_headers(error).items()]
    if close and str(scope.get("http_version", "1.1")).startswith("1"):
        headers.append((b"connection", b"close"))
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        if prefix not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    await send({"type": f"{prefix}.start", "status": error.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body, "more_body": more})


def decode(body: bytes, type_: type[T]) -> T:
    """`body` as a `type_`; Rejected with `invalid_json` or, if it is good JSON that does not fit, `invalid_request`."""
    value = _parse(body)
    _check_shape(value)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise _misfit(value, type_, error) from None


def _parse(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise _not_json("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise _too_deep() from None


def _check_shape(root: Any) -> None:
    """Depth, number of values, and text that cannot be stored; without recursion, whatever the depth."""
    nodes = 0
    level = [root]
    for depth in range(MAX_JSON_DEPTH + 1):
        nodes += len(level)
        if nodes > MAX_JSON_NODES:
            raise _not_json(f"The body holds more than {MAX_JSON_NODES} values.")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                below += value.values()
        if not below:
            return
        if depth + 1 == MAX_JSON_DEPTH and any(isinstance(value, list | dict) for value in below):
            raise _too_deep()
        level = below


def _check_text(text: str) -> None:
    if "\0" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise Rejected(
            Code.INVALID_REQUEST,
            "A string holds a NUL or half of a surrogate pair. Send text that is valid Unicode, without NUL.",
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _not_json("An object names the same key twice.")
    return members


def _integer(text: str) -> int:
    if len(text) <= 20:  # As long as the longest 64-bit integer with its sign: int() of more could cost, or raise.
        value = int(text)
        if INT64_MIN <= value <= INT64_MAX:
            return value
    raise _not_json("An integer does not fit in 64 bits.")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _not_json("A number is too large.")
    return value


def _constant(name: str) -> NoReturn:
    raise _not_json(f"{name} is not JSON.")


def _not_json(message: str) -> Rejected:
    return Rejected(Code.INVALID_JSON, f"{message} Send one JSON object in UTF-8.")


def _too_deep() -> Rejected:
    return _not_json(f"The body is nested deeper than {MAX_JSON_DEPTH} levels.")


def _misfit(value: Any, type_: type[Any], error: msgspec.ValidationError) -> Rejected:
    """The refusal of JSON that does not fit: which field, and what is allowed there."""
    for path, what, allowed in _not_allowed(value, inspect.type_info(type_), "$"):
        message = f"{what} Allowed: {', '.join(allowed) or 'nothing'}."
        return Rejected(Code.INVALID_REQUEST, message, details={"field": path, "allowed": allowed})
    words, _, path = str(error).partition(" - at ")
    path = path.strip("`")[:SHOWN_CHARS] or "$"
    return Rejected(Code.INVALID_REQUEST, f"{words[:SHOWN_CHARS]} at {path}.", details={"field": path})


def _not_allowed(value: Any, expected: inspect.Type, path: str) -> Iterator[tuple[str, str, list[str]]]:
    """What `value` holds that `expected` does not know, each as (where, what is wrong, what is allowed there)."""
    match expected, value:
        case inspect.Metadata(), _:
            yield from _not_allowed(value, expected.type, path)
        case inspect.UnionType(), _:
            others = [member for member in expected.types if not isinstance(member, inspect.NoneType)]
            if len(others) == 1 and value is not None:
                yield from _not_allowed(value, others[0], path)
        case inspect.EnumType(), str():
            allowed = [str(member.value) for member in expected.cls]
            if value not in allowed:
                yield path, f"{path} cannot be {value[:60]!a}.", allowed
        case inspect.StructType(), dict():
            known = {field.encode_name: field.type for field in expected.fields}
            for name, below in value.items():
                where = f"{path}.{ascii(name[:60])[1:-1]}"
                if name in known:
                    yield from _not_allowed(below, known[name], where)
                elif name != expected.tag_field:
                    yield where, f"There is no field {where}.", sorted(known)
        case inspect.ListType(), list():
            for index, below in enumerate(value):
                yield from _not_allowed(below, expected.item_type, f"{path}[{index}]")
        case inspect.DictType(), dict():
            for below in value.values():
                yield from _not_allowed(below, expected.value_type, f"{path}[...]")
        case _:
            return
