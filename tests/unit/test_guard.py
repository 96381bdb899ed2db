"""The guard by itself: what it refuses, in which order, and that nothing of it reaches the application."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Literal

import pytest

from baa.http.guard import SECURITY_HEADERS, Access, Guard, loopback_hosts
from baa.http.keyring import Keyring
from baa.http.limits import MAX_BODY_BYTES, Message, Receive, Scope, Send
from baa.http.tokens import Tokens

PORT = 4319
TOKENS = Tokens(read="r" * 43, drive="d" * 43)
GOOD_HOST = (b"host", b"127.0.0.1:4319")
JSON_TYPE = (b"content-type", b"application/json")
ROUTES: dict[tuple[str, str, str], Access] = {
    ("http", "GET", "/open"): "open",
    ("http", "GET", "/read"): "read",
    ("http", "POST", "/drive"): "drive",
    ("websocket", "GET", "/read"): "read",
}

Headers = list[tuple[bytes, bytes]]
Kind = Literal["http", "websocket"]


def bearer(token: str) -> Headers:
    return [(b"authorization", b"Bearer " + token.encode())]


class Door:
    """A guard before an application that only notes that it was reached."""

    def __init__(self) -> None:
        self.reached: list[Scope] = []
        self.bodies: list[bytes] = []
        self.sent: list[Message] = []
        self.guard = Guard(
            self._app,
            program="codexd",
            allowed_hosts=loopback_hosts(PORT) | {"mini.tail1234.ts.net"},
            routes=lambda kind, method, path: ROUTES.get((kind, method, path)),
            tokens=Keyring({"read": TOKENS.read, "drive": TOKENS.drive}),
        )

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope)
        if scope["type"] == "http":
            self.bodies.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"private")]})
            await send({"type": "http.response.body", "body": b"ok"})

    def knock(
        self,
        kind: Kind = "http",
        method: str = "GET",
        path: str = "/read",
        headers: Headers | None = None,
        *,
        body: list[bytes] | None = None,
        **more: Any,
    ) -> int:
        """The status that comes back; 0 for a handshake that the application may decide on."""
        self.sent = []
        scope: Scope = {"type": kind, "path": path, "raw_path": path.encode(), "headers": headers or [], **more}
        if kind == "http":
            scope["method"] = method
            pieces = body or [b""]
            incoming = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
            incoming[-1]["more_body"] = False
        else:
            scope.setdefault("extensions", {"websocket.http.response": {}})
            incoming = [{"type": "websocket.connect"}]
        messages = iter(incoming)

        async def receive() -> Message:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            self.sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        return int(self.sent[0].get("status", 0)) if self.sent else 0

    @property
    def answer_headers(self) -> dict[bytes, bytes]:
        fields = self.sent[0]["headers"]
        assert len(dict(fields)) == len(fields), "a field was sent twice"
        return dict(fields)

    @property
    def error(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in self.sent))
        assert answer["ok"] is False
        error: dict[str, Any] = answer["error"]
        return error


@pytest.fixture
def door() -> Door:
    return Door()


GOOD_HOSTS: list[Headers] = [
    [(b"host", value)]
    for value in (b"127.0.0.1:4319", b"localhost:4319", b"LocalHost:4319", b"[::1]:4319", b"mini.tail1234.ts.net")
]
BAD_HOSTS: list[Headers] = [
    [],
    [GOOD_HOST, GOOD_HOST],
    [GOOD_HOST, (b"host", b"evil.example")],
    *(
        [(b"host", value)]
        for value in (
            b"",
            b":4319",
            b"127.0.0.1",
            b"127.0.0.1:4318",
            b"127.0.0.1:43190",
            b"localhost",
            b"localhost.:4319",
            b"localhost:4319.",
            b"127.0.0.2:4319",
            b"0.0.0.0:4319",
            b"[::]:4319",
            b"::1:4319",
            b"[::ffff:127.0.0.1]:4319",
            b"2130706433:4319",
            b"127.1:4319",
            b"evil.example:4319",
            b"127.0.0.1:4319.evil.example",
            b"evil.example#127.0.0.1:4319",
            b"user@127.0.0.1:4319",
            b"127.0.0.1:4319,evil.example",
            b"127.0.0.1:4319 ",
            b"\xef\xbc\x91127.0.0.1:4319",
        )
    ),
]
GOOD_ORIGINS: list[Headers] = [[], [(b"sec-fetch-site", b"none")]]
BAD_ORIGINS: list[Headers] = [
    [(b"origin", b"")],
    [(b"origin", b"null")],
    [(b"origin", b"http://127.0.0.1:4319")],
    [(b"origin", b"https://evil.example")],
    [(b"ORIGIN", b"https://evil.example")],
    [(b"referer", b"")],
    [(b"referer", b"http://127.0.0.1:4319/")],
    [(b"sec-fetch-site", b"cross-site")],
    [(b"sec-fetch-site", b"same-origin")],
    [(b"sec-fetch-site", b"same-site")],
    [(b"sec-fetch-site", b"")],
    [(b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")],
]
GOOD_AUTH: list[Headers] = [bearer(TOKENS.read), bearer(TOKENS.drive), [(b"authorization", b"bearer " + b"r" * 43)]]
BAD_AUTH: list[Headers] = [
    [],
    bearer(""),
    bearer("x" * 43),
    bearer("r" * 42),
    bearer("r" * 44),
    bearer(" " + "r" * 43),
    bearer(TOKENS.read) + bearer(TOKENS.read),
    [(b"authorization", b"r" * 43)],
    [(b"authorization", b"Bearer")],
    [(b"authorization", b"Basic " + b"r" * 43)],
    [(b"authorization", b"Bearer " + b"\xff" * 43)],
    [(b"cookie", b"token=" + b"d" * 43)],
    [(b"x-api-key", b"d" * 43)],
]

KINDS: list[Kind] = ["http", "websocket"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_good_host_and_no_origin_and_a_good_token_reach_the_application(door: Door, kind: Kind) -> None:
    hosts = [(host, True) for host in GOOD_HOSTS] + [(host, False) for host in BAD_HOSTS]
    origins = [(origin, True) for origin in GOOD_ORIGINS] + [(origin, False) for origin in BAD_ORIGINS]
    auths = [(auth, True) for auth in GOOD_AUTH] + [(auth, False) for auth in BAD_AUTH]
    for (host, host_ok), (origin, origin_ok), (auth, auth_ok) in itertools.product(hosts, origins, auths):
        before = len(door.reached)

        status = door.knock(kind, headers=[*host, *origin, *auth])

        passed = 200 if kind == "http" else 0
        wanted = 421 if not host_ok else 403 if not origin_ok else 401 if not auth_ok else passed
        assert status == wanted, (host, origin, auth)
        assert len(door.reached) - before == (wanted == passed)


@pytest.mark.parametrize("kind", KINDS)
def test_each_check_comes_before_the_next(door: Door, kind: Kind) -> None:
    evil: Headers = [(b"origin", b"https://evil.example")]
    steps: list[tuple[str, Headers, int]] = [
        ("/nowhere", evil, 421),
        ("/nowhere", [GOOD_HOST, *evil], 403),
        ("/nowhere", [GOOD_HOST], 404),
        ("/read", [GOOD_HOST], 401),
    ]

    assert [door.knock(kind, path=path, headers=headers) for path, headers, _ in steps] == [
        status for _, _, status in steps
    ]
    assert door.reached == []
    assert door.guard.refused == {"wrong_host": 1, "origin_refused": 1, "unknown_route": 1, "unauthorized": 1}


def test_an_open_route_needs_no_token_and_does_not_mind_a_bad_one(door: Door) -> None:
    assert door.knock(path="/open", headers=[GOOD_HOST]) == 200
    assert door.knock(path="/open", headers=[GOOD_HOST, *bearer("x")]) == 200


def test_the_read_token_may_not_drive_and_says_so_before_the_body_is_looked_at(door: Door) -> None:
    assert door.knock("http", "POST", "/drive", [GOOD_HOST, *bearer(TOKENS.read)]) == 403
    assert door.error["code"] == "read_only_token"
    assert door.reached == []


def test_the_drive_token_drives(door: Door) -> None:
    status = door.knock("http", "POST", "/drive", [GOOD_HOST, *bearer(TOKENS.drive), JSON_TYPE], body=[b"{", b"}"])

    assert (status, door.bodies) == (200, [b"{}"])


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "CONNECT", "POST"])
@pytest.mark.parametrize("path", ["/read", "/drive", "/open", "/", "", "*", "/read/", "//read", "/READ"])
def test_what_is_not_routed_is_404_whatever_the_method_and_never_405(door: Door, method: str, path: str) -> None:
    if ("http", method, path) in ROUTES:
        return
    status = door.knock("http", method, path, [GOOD_HOST, *bearer(TOKENS.drive), JSON_TYPE])

    assert (status, door.error["code"], door.reached) == (404, "unknown_route", [])


def test_an_unknown_route_is_told_in_the_words_of_the_seed(door: Door) -> None:
    door.knock("http", "POST", "/v1/codexd/runs", [GOOD_HOST])
    assert door.error["message"] == "Unknown codexd route POST /v1/codexd/runs."

    door.knock("websocket", path="/v1/codexd/runs/run-legacy", headers=[GOOD_HOST])
    assert door.error["message"] == "Unknown codexd route WS /v1/codexd/runs/run-legacy."


def test_the_path_in_a_404_is_cut_and_has_no_character_that_means_something(door: Door) -> None:
    raw = b"/a%00b/<script>\"'&\x1b]0;x\x07\xff\r\n" + b"y" * 1000
    door.knock("http", "GET", "/nowhere", [GOOD_HOST], raw_path=raw)
    shown = door.error["message"]
    assert shown.startswith(
        "Unknown codexd route GET /a%00b/%3Cscript%3E%22%27%26%1B%5D0;x%07%FF%0D%0Ayyy",
    )
    assert len(shown) < 300

    door.knock("http", "GET", "/näh\x00", [GOOD_HOST], raw_path=None)
    assert door.error["message"] == "Unknown codexd route GET /n%C3%A4h%00."


@pytest.mark.parametrize(
    "content",
    [
        [],
        [(b"content-type", b"")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"multipart/form-data; boundary=application/json")],
        [(b"content-type", b"text/plain; application/json")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/jsonp")],
        [(b"content-type", b"application/json, text/plain")],
        [JSON_TYPE, JSON_TYPE],
        [JSON_TYPE, (b"content-encoding", b"gzip")],
        [JSON_TYPE, (b"content-encoding", b"identity"), (b"content-encoding", b"br")],
    ],
)
def test_a_post_that_is_not_plain_json_is_415(door: Door, content: Headers) -> None:
    assert door.knock("http", "POST", "/drive", [GOOD_HOST, *bearer(TOKENS.drive), *content], body=[b"{}"]) == 415
    assert (door.error["code"], door.reached) == ("unsupported_media_type", [])


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b"application/json;"]
)
def test_json_in_its_spellings_passes(door: Door, content_type: bytes) -> None:
    headers = [GOOD_HOST, *bearer(TOKENS.drive), (b"content-type", content_type), (b"content-encoding", b"identity")]

    assert door.knock("http", "POST", "/drive", headers, body=[b"{}"]) == 200


@pytest.mark.parametrize("announced", [[], [(b"content-length", b"5")]])
def test_a_body_above_the_limit_is_413_whatever_was_announced(door: Door, announced: Headers) -> None:
    headers = [GOOD_HOST, *bearer(TOKENS.drive), JSON_TYPE, *announced]

    assert door.knock("http", "POST", "/drive", headers, body=[b"x" * MAX_BODY_BYTES, b"x"]) == 413
    assert (door.error["code"], door.reached) == ("too_large", [])


def test_a_body_that_announces_too_much_is_413_before_it_is_read(door: Door) -> None:
    headers = [GOOD_HOST, *bearer(TOKENS.drive), JSON_TYPE, (b"content-length", str(MAX_BODY_BYTES + 1).encode())]

    assert door.knock("http", "POST", "/drive", headers) == 413


def test_a_get_may_not_smuggle_a_large_body_either(door: Door) -> None:
    assert door.knock("http", "GET", "/open", [GOOD_HOST], body=[b"x" * (MAX_BODY_BYTES + 1)]) == 413
    assert door.reached == []


def test_every_refusal_is_constant_json_that_closes_and_may_not_be_cached_or_guessed(door: Door) -> None:
    scripts: list[tuple[Headers, str, str]] = [
        ([(b"host", b"<script>")], "GET", "/read"),
        ([GOOD_HOST, (b"origin", b"<script>")], "GET", "/read"),
        ([GOOD_HOST], "GET", "/nowhere"),
        ([GOOD_HOST, *bearer("<script>")], "GET", "/read"),
        ([GOOD_HOST, *bearer(TOKENS.read)], "POST", "/drive"),
        ([GOOD_HOST, *bearer(TOKENS.drive), (b"content-type", b"<script>")], "POST", "/drive"),
    ]
    for headers, method, path in scripts:
        status = door.knock("http", method, path, headers, http_version="1.1")

        assert status >= 400
        assert b"script" not in b"".join(message.get("body", b"") for message in door.sent)
        body = door.sent[1]["body"]
        wanted = {
            b"content-type": b"application/json",
            b"content-length": str(len(body)).encode(),
            b"connection": b"close",
            **dict(SECURITY_HEADERS),
        }
        if status == 401:
            wanted[b"www-authenticate"] = b"Bearer"
        assert door.answer_headers == wanted


def test_the_answers_of_the_application_get_the_security_headers_that_they_lack(door: Door) -> None:
    door.knock(path="/open", headers=[GOOD_HOST])

    assert door.answer_headers == {b"cache-control": b"private", b"x-content-type-options": b"nosniff"}


def test_a_handshake_is_refused_by_a_close_where_the_server_cannot_send_a_status(door: Door) -> None:
    door.knock("websocket", headers=[GOOD_HOST], extensions={})

    assert door.sent == [{"type": "websocket.close", "code": 1008}]
    assert door.reached == []


def test_a_client_that_goes_away_before_its_body_ends_never_reaches_the_application(door: Door) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [GOOD_HOST, *bearer(TOKENS.drive), JSON_TYPE]
    scope = {"type": "http", "method": "POST", "path": "/drive", "headers": headers}
    asyncio.run(door.guard(scope, receive, send))

    assert door.reached == []


def test_the_lifespan_is_the_applications_own(door: Door) -> None:
    async def never(*_: Any) -> Any:
        raise NotImplementedError

    asyncio.run(door.guard({"type": "lifespan"}, never, never))

    assert door.reached == [{"type": "lifespan"}]


def test_a_program_with_pages_lets_its_own_be_looked_at_again_and_no_other_page(door: Door) -> None:
    pages = Door()
    pages.guard = Guard(
        pages._app,
        program="status-api",
        allowed_hosts=loopback_hosts(PORT),
        routes=lambda kind, method, path: ROUTES.get((kind, method, path)),
        tokens=Keyring({}),
        has_pages=True,
    )
    again: Headers = [(b"sec-fetch-site", b"same-origin")]
    assert door.knock(path="/open", headers=[GOOD_HOST, *again]) == 403
    assert pages.knock(path="/open", headers=[GOOD_HOST, *again]) == 200
    for bad in BAD_ORIGINS:
        if bad != again:
            assert pages.knock(path="/open", headers=[GOOD_HOST, *bad]) == 403
    for auth in (*GOOD_AUTH, *BAD_AUTH):
        assert pages.knock(path="/read", headers=[GOOD_HOST, *auth]) == 401, "it has no token to compare"
