"""The doors of all three servers in one process: their real routes and guards, and behind them who counts.

Behind the conductor's stands codexd's, as it really does; behind codexd's and for the conductor's own routes nobody
works: reaching it is what is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Literal, cast

from baa.codexd import http as codexd_http
from baa.conductor import http as conductor_http
from baa.conductor.passthrough import REQUEST_FIELDS
from baa.config_file import File
from baa.http.guard import Guard, loopback_hosts
from baa.http.keyring import Keyring
from baa.http.limits import App, Message, Receive, Scope, Send
from baa.http.routes import RouteTable
from baa.status_api import http as status_http
from baa.status_api.view import Heard, overview

Program = Literal["codexd", "conductor", "status-api"]
PROGRAMS: Final[tuple[Program, ...]] = ("codexd", "conductor", "status-api")
PORT: Final = 4319
READ: Final = "r" * 43
DRIVE: Final = "d" * 43
PROXY: Final = "mini.tail1234.ts.net"
EVENTS: Final = File().codexd.event_stream_path

Headers = list[tuple[bytes, bytes]]


class _Nobody:
    """Stands for all that an application works with: while it is put together, nothing of that is asked."""

    event_stream_path = EVENTS

    def __getattr__(self, name: str) -> Any:
        return self


def tables() -> dict[Program, RouteTable]:
    """The route table of each server, as its application makes it. Nothing runs."""
    nobody: Any = _Nobody()
    return {
        "codexd": codexd_http.application(nobody, nobody, nobody, EVENTS, {})[1],
        "conductor": conductor_http.application(nobody, Keyring({}), {})[1],
        "status-api": status_http.application(nobody, lambda: True)[1],
    }


@dataclass
class Door:
    """One server's door. `reached`: how many came through to where work is done; `body`: that of the last one."""

    program: Program
    port: int
    reached: int = 0
    body: bytes = b""
    guards: list[Any] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """How many refusals were counted."""
        return sum(sum(guard.refused.values()) for guard in self.guards)

    @property
    def app(self) -> App:
        """The outermost guard."""
        return cast(App, self.guards[0])


def open_doors(routes: dict[Program, RouteTable], make: Callable[..., Any] = Guard) -> dict[Program, Door]:
    """A door for each server. `make` makes the guards: the real one, or a mutant of it."""
    both = Keyring({"read": READ, "drive": DRIVE})

    def guard(program: Program, app: App, *, pages: bool = False, tokens: Keyring = both) -> Any:
        hosts = loopback_hosts(PORT) | {PROXY}
        return make(
            app,
            program=program,
            allowed_hosts=hosts,
            routes=routes[program],
            tokens=tokens,
            has_pages=pages,
            refused=Counter(),
        )

    codexd, conductor, api = (Door(program, PORT) for program in PROGRAMS)
    codexd.guards = [guard("codexd", _works(codexd))]
    behind = guard("codexd", _works(conductor))
    conductor.guards = [guard("conductor", _passes(behind, _works(conductor))), behind]
    api.guards = [guard("status-api", _status_api(api), pages=True, tokens=Keyring({"read": READ}))]
    return {"codexd": codexd, "conductor": conductor, "status-api": api}


def _works(door: Door) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        door.reached += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        door.body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def _passes(codexd: App, own: App) -> App:
    """The conductor's application: codexd's surface goes to codexd, with the fields that the passthrough keeps."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not (scope["path"].startswith(conductor_http.CODEXD) or scope["path"] == EVENTS):
            await own(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name in REQUEST_FIELDS]
        await codexd({**scope, "headers": [(b"host", b"127.0.0.1:%d" % PORT), *kept]}, receive, send)

    return app


def _status_api(door: Door) -> App:
    async def see(*, with_detail: bool) -> Any:
        return overview(Heard(), Heard(), now="", with_detail=with_detail)

    watch: Any = SimpleNamespace(overview=see, token=lambda: READ)
    app, _ = status_http.application(watch, lambda: True)

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        door.reached += 1
        await app(scope, receive, send)

    return counted


@dataclass
class Came:
    """What came back: the status (101 = taken as a WebSocket), the fields, the body."""

    status: int = 0
    fields: Headers = field(default_factory=list)
    body: bytes = b""


async def knock(door: Door, kind: str, method: str, path: str, headers: Headers, body: list[bytes]) -> Came:
    """One request or handshake; whatever the door raises is raised."""
    scope: Scope = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    scope["http_version"] = "1.1"
    if kind == "websocket":
        scope["extensions"] = {"websocket.http.response": {}}
        incoming: list[Message] = [{"type": "websocket.connect"}]
    else:
        scope["method"] = method
        incoming = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
        incoming[-1]["more_body"] = False
    messages = iter(incoming)
    came = Came()

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        if message["type"].endswith("response.start"):
            came.status, came.fields = message["status"], list(message["headers"])
        elif message["type"] == "websocket.accept":
            came.status = 101
        else:
            came.body += message.get("body", b"")

    await door.app(scope, receive, send)
    return came
