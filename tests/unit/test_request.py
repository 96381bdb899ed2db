"""What is read off a request: parameters once and known, numbers in their bounds, keys, and what is accepted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from litestar import Request

from baa.api.errors import Code, Rejected
from baa.api.sessions import NoFields, RenewTurn
from baa.http.request import (
    KEY_MAX,
    PAGE,
    PAGE_MAX,
    accepts,
    answer,
    idempotency_key,
    integer,
    optional_body,
    page_of,
    parameters,
    query_of,
    token_of,
)


def request(query: str = "", *, body: bytes = b"", **headers: str | list[str]) -> Request[Any, Any, Any]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    fields = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": query.encode(),
        "headers": fields,
    }
    scope["route_handler"] = SimpleNamespace(resolve_request_max_body_size=lambda: None)  # the guard has counted
    return Request(scope, receive=receive)  # type: ignore[arg-type]


def refused(caught: pytest.ExceptionInfo[Rejected]) -> Code:
    return caught.value.code


def test_a_query_is_read_once_and_only_as_it_is_known() -> None:
    assert query_of(request("a=1&b=%20x"), {"a", "b", "c"}) == {"a": "1", "b": " x"}
    assert query_of(request("whatever=1"), None) == {"whatever": "1"}
    for query, known in (("a=1&a=1", {"a"}), ("a=1&a=2", None), ("b=1", {"a"})):
        with pytest.raises(Rejected) as caught:
            query_of(request(query), known)
        assert refused(caught) is Code.INVALID_REQUEST


def test_a_refused_name_is_quoted_no_further_than_it_helps() -> None:
    with pytest.raises(Rejected) as caught:
        parameters([("x" * 5000, "")], set())
    assert caught.value.details == {"name": "x" * 80}


@pytest.mark.parametrize("text", ["1", "7", "0009"])
def test_a_number_in_its_bounds_is_taken(text: str) -> None:
    assert integer({"n": text}, "n", default=5, low=1, high=9) == int(text)
    assert integer({}, "n", default=5, low=1, high=9) == 5


@pytest.mark.parametrize("text", ["", "0", "10", "-1", "+1", "1.0", "1e3", " 1", "1_0", "\uff10", "\xb9", "9" * 5000])
def test_any_other_number_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        integer({"n": text}, "n", default=5, low=1, high=9)
    assert refused(caught) is Code.INVALID_REQUEST


def test_a_page_begins_where_its_token_says_and_at_the_newest_without_one() -> None:
    assert page_of({}) == (PAGE, None)
    assert page_of({"limit": "1", "pageToken": "0"}) == (1, None)
    for place in (1, 2**62):
        token = token_of(place)
        assert token is not None
        assert page_of({"limit": str(PAGE_MAX), "pageToken": token}) == (PAGE_MAX, place)
    assert token_of(None) is None
    for query in ({"limit": "0"}, {"limit": str(PAGE_MAX + 1)}, {"pageToken": "x"}, {"pageToken": "-1"}):
        with pytest.raises(Rejected) as caught:
            page_of(query)
        assert refused(caught) is Code.INVALID_REQUEST


def test_a_key_is_one_printable_header() -> None:
    assert idempotency_key(request()) is None
    assert idempotency_key(request(idempotency_key="a b~")) == "a b~"
    assert idempotency_key(request(idempotency_key="k" * KEY_MAX)) == "k" * KEY_MAX
    odd: list[str | list[str]] = ["", "k" * (KEY_MAX + 1), "caf\xe9", "a\tb", "a\x7f", ["a", "a"]]
    for keys in odd:
        with pytest.raises(Rejected) as caught:
            idempotency_key(request(idempotency_key=keys))
        assert refused(caught) is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    ("given", "takes"),
    [
        ("text/markdown", True),
        ("TEXT/Markdown", True),
        ("application/json, text/markdown;q=0.5", True),
        (["application/json", "text/markdown"], True),
        ("text/markdownish", False),
        ("text/*", False),
        ("*/*", False),
        ([], False),
    ],
)
def test_a_media_type_is_accepted_where_it_is_named(given: str | list[str], takes: bool) -> None:
    assert accepts(request(accept=given), "text/markdown") is takes


async def test_no_body_is_an_empty_object() -> None:
    assert await optional_body(request(), NoFields) == NoFields()
    assert await optional_body(request(body=b"{}"), RenewTurn) == RenewTurn()
    assert await optional_body(request(body=b'{"leaseMs":5}'), RenewTurn) == RenewTurn(lease_ms=5)
    for body, code in ((b"[]", Code.INVALID_REQUEST), (b" ", Code.INVALID_JSON), (b'{"a":1}', Code.INVALID_REQUEST)):
        with pytest.raises(Rejected) as caught:
            await optional_body(request(body=body), NoFields)
        assert refused(caught) is code


def test_an_answer_is_enveloped_json_with_its_status() -> None:
    told = answer({"turn": {"n": 1}}, 202)
    assert (told.status_code, told.media_type, told.content) == (
        202,
        "application/json",
        b'{"ok":true,"data":{"turn":{"n":1}}}',
    )
