"""The routes as the guard asks for them."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, get, post
from litestar.params import FromPath

from baa.http.guard import Access
from baa.http.routes import OPT, Kind, RouteTable


@pytest.fixture
def table() -> RouteTable:
    routes = RouteTable()
    routes.add("http", "GET", "/healthz", "open")
    routes.add("http", "GET", "/v1/sessions", "read")
    routes.add("http", "POST", "/v1/sessions", "drive")
    routes.add("http", "GET", "/v1/sessions/{session_id}", "read")
    routes.add("http", "POST", "/v1/turn/{turn_id}/interactions/{id}", "drive")
    routes.add("http", "GET", "/v1/sessions/mine", "open")
    routes.add("websocket", "GET", "/v1/events", "read")
    return routes


@pytest.mark.parametrize(
    ("kind", "method", "path", "access"),
    [
        ("http", "GET", "/healthz", "open"),
        ("http", "GET", "/v1/sessions", "read"),
        ("http", "POST", "/v1/sessions", "drive"),
        ("http", "GET", "/v1/sessions/ses_a", "read"),
        ("http", "GET", "/v1/sessions/%2e%2e", "read"),
        ("http", "GET", "/v1/sessions/{session_id}", "read"),
        ("http", "GET", "/v1/sessions/mine", "open"),
        ("http", "POST", "/v1/turn/trn_a/interactions/int_b", "drive"),
        ("websocket", "GET", "/v1/events", "read"),
    ],
)
def test_a_route_is_known_by_what_it_asks_for(
    table: RouteTable, kind: Kind, method: str, path: str, access: Access
) -> None:
    assert table(kind, method, path) == access


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("http", "GET", ""),
        ("http", "GET", "/"),
        ("http", "GET", "/healthz/"),
        ("http", "GET", "//healthz"),
        ("http", "GET", "/HEALTHZ"),
        ("http", "HEAD", "/healthz"),
        ("http", "get", "/healthz"),
        ("http", "OPTIONS", "/v1/sessions"),
        ("http", "PUT", "/v1/sessions/ses_a"),
        ("http", "GET", "/v1/sessions/"),
        ("http", "GET", "/v1/sessions/ses_a/"),
        ("http", "GET", "/v1/sessions/ses_a/turns"),
        ("http", "GET", "/v1/sessions//ses_a"),
        ("http", "POST", "/v1/turn//interactions/int_b"),
        ("http", "POST", "/v1/turn/trn_a/interactions/"),
        ("http", "GET", "/v1/events"),
        ("websocket", "GET", "/healthz"),
        ("websocket", "GET", "/v1/sessions/ses_a"),
    ],
)
def test_anything_else_is_no_route(table: RouteTable, kind: Kind, method: str, path: str) -> None:
    assert table(kind, method, path) is None


def test_a_table_tells_all_its_routes(table: RouteTable) -> None:
    assert set(table) == {
        ("http", "GET", "/healthz", "open"),
        ("http", "GET", "/v1/sessions", "read"),
        ("http", "POST", "/v1/sessions", "drive"),
        ("http", "GET", "/v1/sessions/{session_id}", "read"),
        ("http", "POST", "/v1/turn/{turn_id}/interactions/{id}", "drive"),
        ("http", "GET", "/v1/sessions/mine", "open"),
        ("websocket", "GET", "/v1/events", "read"),
    }


def test_the_handlers_of_an_application_are_routes_if_they_say_who_may_use_them() -> None:
    @get("/open", opt={OPT: "open"})
    async def opened() -> None:
        return None

    @get("/things/{thing_id:str}", opt={OPT: "read"})
    async def read(thing_id: FromPath[str]) -> None:
        return None

    @post("/things", opt={OPT: "drive"})
    async def drive() -> None:
        return None

    @get("/forgotten")
    async def forgotten() -> None:
        return None

    handlers: list[Any] = [opened, read, drive, forgotten]
    routes = RouteTable()
    routes.add_application(Litestar(handlers, openapi_config=None, logging_config=None))

    assert {route for route in routes if route[1] not in {"HEAD", "OPTIONS"}} == {
        ("http", "GET", "/open", "open"),
        ("http", "GET", "/things/{thing_id}", "read"),
        ("http", "POST", "/things", "drive"),
    }
    assert routes("http", "GET", "/things/7") == "read"
    assert routes("http", "GET", "/forgotten") is None
    assert routes("http", "OPTIONS", "/open") is None


def test_what_lies_below_a_prefix_is_for_another_guard_to_judge(table: RouteTable) -> None:
    table.add_prefix("/v1/codexd/", "open")
    below: list[tuple[Kind, str, str]] = [
        ("http", "DELETE", "/v1/codexd/anything/at/all"),
        ("http", "GET", "/v1/codexd//"),
        ("websocket", "GET", "/v1/codexd/events"),
    ]
    assert [table(*route) for route in below] == ["open"] * 3
    beside: list[tuple[Kind, str, str]] = [
        ("http", "GET", "/v1/codexd"),
        ("http", "GET", "/v1/codexdx/status"),
        ("http", "GET", "/x/v1/codexd/status"),
    ]
    assert [table(*route) for route in beside] == [None] * 3
    assert table("http", "GET", "/v1/sessions") == "read", "what is named stands before it"
