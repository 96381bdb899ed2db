"""What a stranger would try at the doors of this node: each attempt is one line that says whether it was refused.

An attempt would do no harm if it were let in: it reads what is open to every holder of a token, or posts a body that is
no request at all (`[]`). Gathered over raw connections, because a well-behaved client sends none of this; decided pure.
The read token is sent only over a connection whose other end has proved that it knows it: else a made-up one is.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from baa.client.connection import connected, proven
from baa.client.discovery import Location, Unreachable
from baa.runtime.checks import Line

ATTEMPT_S: Final = 5.0
"""Seconds for an answer."""

EVIL: Final = "https://evil.example"

READS: Final = {
    "codexd": "/v1/codexd/sessions",
    "conductor": "/v1/nodes",
    "status-api": "/v1/status",
}
"""A read of each program's that takes a token; status-api's is open, and takes a token that is right or none."""

DRIVES: Final = {"codexd": "/v1/codexd/turn", "conductor": "/v1/codexd/turn", "status-api": "/v1/status"}
STREAMS: Final = {"codexd": "/v1/codexd/events", "conductor": "/v1/codexd/events", "status-api": "/v1/status"}


class Attempt(Struct, frozen=True, kw_only=True):
    """A request that must be refused. `wanted`: the statuses that are a refusal of it."""

    name: str
    wanted: frozenset[int]
    method: str = "GET"
    path: str
    host: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    live: bool = False


def attempts(program: str, authority: str, *, read: str, events: str = "/v1/codexd/events") -> list[Attempt]:
    """All that is tried at a program that listens at `authority` (host:port). `read`: the node's read token."""
    port = authority.rpartition(":")[2]
    path, drive = READS[program], DRIVES[program]
    stream = events if program != "status-api" else STREAMS[program]
    bearer = (("Authorization", f"Bearer {read}"),)
    status, json_ = "/healthz", (("Content-Type", "application/json"),)
    own = f"http://{authority}"
    found = [
        _try(f"rebinding (Host {host or 'empty'})", 421, status, host=host)
        for host in (f"evil.example:{port}", f"0.0.0.0:{port}", "", "localhost")
    ]
    found += [
        _try("rebinding, with a token", 421, path, host=f"evil.example:{port}", fields=bearer),
        _try("rebinding of a WebSocket", 421, stream, host=f"evil.example:{port}", fields=bearer, live=True),
    ]
    found += [
        _try(f"a page's request (Origin {origin})", 403, status, fields=(("Origin", origin),))
        for origin in (EVIL, "null", own)
    ]
    found += [
        _try("a page's request (Referer)", 403, status, fields=(("Referer", f"{EVIL}/"),)),
        _try("a page's request (Sec-Fetch-Site)", 403, status, fields=(("Sec-Fetch-Site", "cross-site"),)),
        _try("a page's preflight", 403, path, method="OPTIONS", fields=(("Origin", EVIL),)),
        _try("a page's WebSocket", 403, stream, fields=(("Origin", EVIL), *bearer), live=True),
        _try("a page's post with a token", 403, drive, method="POST", fields=(("Origin", EVIL), *bearer), body="[]"),
    ]
    return found + _unproved(program, path, drive, stream, bearer, json_)


def _unproved(
    program: str,
    path: str,
    drive: str,
    stream: str,
    bearer: tuple[tuple[str, str], ...],
    json_: tuple[tuple[str, str], ...],
) -> list[Attempt]:
    """What is tried without a page's fields: wrong tokens, wrong scopes, wrong content, routes that there are not."""
    wrong = (("Authorization", f"Bearer {secrets.token_urlsafe(32)}"),)
    form = (("Content-Type", "application/x-www-form-urlencoded"),)
    found = [_try("a wrong token", 401, path, fields=wrong)]
    if program == "status-api":  # there is nothing to drive
        found.append(_try("no token at the page", 401, "/"))
        found += [
            _try(
                f"{method} where there is only reading", 404, drive, method=method, fields=(*bearer, *json_), body="[]"
            )
            for method in ("POST", "PUT", "DELETE")
        ]
        found.append(_try("a WebSocket", 404, stream, fields=bearer, live=True))
    else:
        found += [
            _try("no token", 401, path),
            _try("a token in the query", 401, f"{path}?token={bearer[0][1].partition(' ')[2]}"),
            _try("no token at a WebSocket", 401, stream, live=True),
            _try("a wrong token at a WebSocket", 401, stream, fields=wrong, live=True),
            _try("a post without a token", 401, drive, method="POST", fields=json_, body="[]"),
            _try("the read token where only drive may", 403, drive, method="POST", fields=(*bearer, *json_), body="[]"),
            # Without a token: a form is refused before it is read, whichever of the two is told first.
            Attempt(
                name="a page's form", wanted=frozenset({401, 415}), method="POST", path=drive, fields=form, body="a=b"
            ),
        ]
    runs = ("/v1/codexd/runs", "/v1/codexd/runs/run-legacy")
    found += [_try(f"GET {each}", 404, each, fields=bearer) for each in runs]
    found.append(_try("POST /v1/codexd/runs", 404, runs[0], method="POST", fields=(*bearer, *json_), body="[]"))
    return found


def _try(
    name: str,
    wanted: int,
    path: str,
    *,
    method: str = "GET",
    host: str | None = None,
    fields: tuple[tuple[str, str], ...] = (),
    body: str | None = None,
    live: bool = False,
) -> Attempt:
    return Attempt(
        name=name,
        wanted=frozenset({wanted}),
        method=method,
        path=path,
        host=host,
        fields=fields,
        body=body,
        live=live,
    )


async def attack(
    programs: Iterable[tuple[str, str | None]], *, read: str, events: str = "/v1/codexd/events"
) -> list[Line]:
    """Try everything at each of the programs (name, address); a line for each attempt. Changes nothing on the node."""
    lines: list[Line] = []
    for program, address in programs:
        if address is None:
            cure = f"baa service start --service {program}"
            lines.append(Line("fail", f"{program}: attempts", "not tried: it has not said where it listens", cure))
            continue
        location = Location(address, 0, read, name=program, scope="read")
        proved = await _proves(location)
        if not proved:
            told = "it does not prove that it knows this node's tokens: it is another program, or of an older release"
            lines.append(Line("fail", f"{program}: proof", told, "baa node check says who holds the port"))
            location = Location(address, 0, secrets.token_urlsafe(32), name=program, scope="read")
        for attempt in attempts(program, urlsplit(address).netloc, read=location.token, events=events):
            lines.append(verdict(program, attempt, await _asked(location, attempt, proved=proved)))
    return lines


async def _proves(location: Location) -> bool:
    try:
        (await proven(location)).close()
    except Unreachable:
        return False
    return True


async def _asked(location: Location, attempt: Attempt, *, proved: bool) -> int | None:
    """The status that came back; 0 = the connection ended without one; None = nobody answers."""
    raw = _raw(attempt, urlsplit(location.address).netloc)
    bears = proved and location.token.encode() in raw
    try:
        async with asyncio.timeout(ATTEMPT_S):
            sock = await (proven(location) if bears else connected(location.address))
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                writer.write(raw)
                line = await reader.readline()
            finally:
                writer.transport.abort()
    except ConnectionResetError:
        return 0
    except (OSError, TimeoutError, Unreachable):
        return None
    words = line.split(b" ")
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0


def _raw(attempt: Attempt, authority: str) -> bytes:
    """The request as it goes over the wire."""
    fields = [("Host", authority if attempt.host is None else attempt.host), *attempt.fields]
    if attempt.live:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        fields += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        fields += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
    else:
        fields.append(("Connection", "close"))
    if attempt.body is not None:
        fields.append(("Content-Length", str(len(attempt.body))))
    lines = [f"{attempt.method} {attempt.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return ("\r\n".join(lines) + (attempt.body or "")).encode()


def verdict(program: str, attempt: Attempt, status: int | None) -> Line:
    """Whether it was refused, as it must be. Pure."""
    name = f"{program}: {attempt.name}"
    restart = f"baa service logs --service {program}, then baa service restart --service {program}"
    if status is None:
        return Line("fail", name, "not refused, for nobody answers", restart)
    if status in attempt.wanted:
        return Line("ok", name, f"refused: {status}")
    if status == 0 or status >= 400:
        told = "the connection ended without an answer" if status == 0 else f"refused, but by {status}"
        return Line("fail", name, told, f"see who listens there: baa node check; {restart}")
    cure = f"stop it (baa service stop --service {program}), and report this: a door of this node is open"
    return Line("fail", name, f"got in: {status}", cure)
