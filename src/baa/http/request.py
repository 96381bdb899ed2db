"""What is read off a request, and how an answer is written: the same for every route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from litestar import Request, Response

from baa.api.errors import Code, Rejected
from baa.http import envelope

PAGE: Final = 100
PAGE_MAX: Final = 1000
WAIT_MAX_MS: Final = 60_000
"""A long poll's longest wait: shorter than what proxies and clients give up after."""

KEY_MAX: Final = 255

Asked = Request[Any, Any, Any]
T = TypeVar("T")


def answer(data: dict[str, Any], status: int = 200) -> Response[bytes]:
    """A success."""
    return Response(envelope.success(data), status_code=status, media_type="application/json")


async def optional_body(request: Asked, type_: type[T]) -> T:
    """The body as a `type_`, all of whose fields have defaults; no body is the same as `{}`. Raises Rejected."""
    return envelope.decode(await request.body() or b"{}", type_)


def idempotency_key(request: Asked) -> str | None:
    """The request's key, if it has one. Raises Rejected (422)."""
    keys = request.headers.getall("idempotency-key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= KEY_MAX or not keys[0].isascii() or not keys[0].isprintable():
        raise Rejected(Code.INVALID_REQUEST, f"Idempotency-Key is one header of 1 to {KEY_MAX} printable characters.")
    return keys[0]


def accepts(request: Asked, media_type: str) -> bool:
    """Whether the request names this media type among those it takes."""
    accepted = ",".join(request.headers.getall("accept", [])).lower()
    return any(part.partition(";")[0].strip() == media_type for part in accepted.split(","))


def query_of(request: Asked, known: set[str] | None) -> dict[str, str]:
    """The query's parameters, each once and none unknown. Raises Rejected (422)."""
    return parameters(request.query_params.multi_items(), known)


def parameters(given: Iterable[tuple[str, str]], known: set[str] | None) -> dict[str, str]:
    """These parameters, each once and none unknown. Raises Rejected (422)."""
    query: dict[str, str] = {}
    for name, value in given:
        if name in query or (known is not None and name not in known):
            raise Rejected(Code.INVALID_REQUEST, "A parameter is unknown or given twice.", details={"name": name[:80]})
        query[name] = value
    return query


def integer(query: dict[str, str], name: str, *, default: int, low: int, high: int) -> int:
    """A parameter as a number in its bounds. Raises Rejected (422)."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or not low <= int(text) <= high:
        raise Rejected(Code.INVALID_REQUEST, f"`{name}` must be a number from {low} to {high}.")
    return int(text)


def page_of(query: dict[str, str]) -> tuple[int, int | None]:
    """The `limit` of a page, and the place that `pageToken` stands for. Raises Rejected (422)."""
    limit = integer(query, "limit", default=PAGE, low=1, high=PAGE_MAX)
    return limit, integer(query, "pageToken", default=0, low=0, high=2**62) or None


def token_of(more: int | None) -> str | None:
    """The `nextPageToken` for the place where the next page begins."""
    return None if more is None else str(more)
