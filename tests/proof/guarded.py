"""The guard matrix: every route of every server, over HTTP and WebSocket, by hosts, origins, tokens and content.

The routes are read off the servers' own tables, beside paths that there are not. What must come back is said by an
oracle of a few lines, from DESIGN §3 and §5, which knows nothing of the guard. Every route meets every host, and every
origin with every token; a few of each kind meet the whole product.

The same matrix judges mutants of the guard: each of its checks taken away must be noticed.

    python -m tests.proof.guarded --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from baa.http import guard as real
from baa.http.limits import MAX_BODY_BYTES
from baa.http.routes import RouteTable
from tests.proof.figures import Figure, told
from tests.support.doors import DRIVE, EVENTS, PORT, PROGRAMS, PROXY, READ, Door, Headers, Program, knock, open_doors
from tests.support.doors import tables as real_tables
from tests.support.mutants import MUTANTS, Mutant

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
NOWHERE: Final = (
    "/v1/codexd/runs",
    "/v1/codexd/runs/run-legacy",
    "/v1/codexd",
    "/v1/codexd/",
    "/v1/codexd/status/",
    "/v1/codexd//status",
    "/v1/codexd/sessions/../status",
    "/V1/codexd/status",
    "/v1/runs",
    "/<script>",
    "//healthz",
    "*",
    "",
)
OPEN: Final[dict[Program, frozenset[str]]] = {
    "codexd": frozenset({"/healthz", "/v1/codexd/status"}),
    "conductor": frozenset({"/healthz", "/readyz", "/rolez", "/v1/codexd/status"}),
    "status-api": frozenset({"/healthz", "/v1/status"}),
}
"""DESIGN §5."""

JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True)
class Way:
    """Header fields, and what they are: whether a host or an origin passes, what a token may, how content ends."""

    fields: tuple[tuple[bytes, bytes], ...]
    what: str


def _hosts() -> list[Way]:
    good = (f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LocalHost:{PORT}", f"[::1]:{PORT}", PROXY)
    bad = (
        *(
            "",
            f":{PORT}",
            "127.0.0.1",
            f"127.0.0.1:{PORT - 1}",
            f"127.0.0.1:{PORT}0",
            "localhost",
            f"localhost.:{PORT}",
        ),
        *(f"127.0.0.2:{PORT}", f"0.0.0.0:{PORT}", f"[::]:{PORT}", f"::1:{PORT}", f"[::ffff:127.0.0.1]:{PORT}", "[::1]"),
        *(f"2130706433:{PORT}", f"evil.example:{PORT}", f"127.0.0.1:{PORT}.evil.example", f"user@127.0.0.1:{PORT}"),
        *(f"127.0.0.1:{PORT},evil.example", f"127.0.0.1:{PORT} ", f"evil.{PROXY}", "<script>"),
    )
    ways = [Way(((b"host", value.encode()),), "good") for value in good]
    ways += [Way(((b"host", value.encode()),), "bad") for value in bad]
    first = ways[0].fields[0]
    return [*ways, Way((), "bad"), Way((first, first), "bad"), Way((first, (b"host", b"evil.example")), "bad")]


def _origins() -> list[Way]:
    bad: list[tuple[tuple[bytes, bytes], ...]] = [
        *(((b"origin", value),) for value in (b"", b"null", b"http://127.0.0.1:4319", b"https://evil.example")),
        *(((b"referer", value),) for value in (b"", b"http://127.0.0.1:4319/")),
        *(((b"sec-fetch-site", value),) for value in (b"cross-site", b"same-site", b"", b"<script>")),
        ((b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")),
        ((b"sec-fetch-site", b"none"), (b"origin", b"null")),
    ]
    good = [Way((), "good"), Way(((b"sec-fetch-site", b"none"),), "good")]
    return [*good, Way(((b"sec-fetch-site", b"same-origin"),), "own"), *(Way(each, "bad") for each in bad)]


def _tokens() -> list[Way]:
    def bearing(*values: str) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((b"authorization", value.encode()) for value in values)

    ways = [Way((), "none")]
    ways += [Way(bearing(f"{word} {READ}"), "read") for word in ("Bearer", "bearer")]
    ways += [Way(bearing(f"Bearer {DRIVE}"), "drive")]
    wrong = ["", "Bearer", "Bearer ", READ, f"Basic {DRIVE}", f"Bearer {DRIVE[:42]}", f"Bearer {DRIVE}d"]
    wrong += ["Bearer " + "x" * 43, f"Bearer  {DRIVE}", f"Bearer {READ}{DRIVE}"]
    ways += [Way(bearing(value), "wrong") for value in wrong]
    twice = bearing(f"Bearer {DRIVE}", f"Bearer {DRIVE}")
    return [*ways, Way(twice, "wrong"), Way(((b"cookie", f"token={DRIVE}".encode()),), "none")]


def _contents() -> list[Way]:
    def typed(*values: str) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((b"content-type", value.encode()) for value in values)

    good = ("application/json", "Application/JSON; charset=utf-8")
    bad = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=application/json"]
    bad += ["text/plain; application/json", "application/jsonp", "application/json; charset=utf-16"]
    ways = [Way(typed(value), "good") for value in good] + [Way(typed(value), "415") for value in bad]
    ways += [Way((), "415"), Way((JSON, JSON), "415"), Way((JSON, (b"content-encoding", b"gzip")), "415 anywhere")]
    return [
        *ways,
        Way((JSON, (b"content-length", str(MAX_BODY_BYTES + 1).encode()), (b"expect", b"x")), "413 anywhere"),
    ]


HOSTS, ORIGINS, TOKENS, CONTENTS = _hosts(), _origins(), _tokens(), _contents()
HOST, ORIGIN, TOKEN, CONTENT = HOSTS[0], ORIGINS[0], TOKENS[3], CONTENTS[0]
SOME: Final = (b"{}",)
TOO_MUCH: Final = (b"x" * (1 << 20),) * 8 + (b"x",)


@dataclass(frozen=True)
class Cell:
    """One request or handshake."""

    program: Program
    kind: str
    method: str
    path: str
    host: Way = HOST
    origin: Way = ORIGIN
    token: Way = TOKEN
    content: Way = CONTENT
    body: tuple[bytes, ...] = field(default=SOME, repr=False)

    @property
    def headers(self) -> Headers:
        """All fields of it; content has a type where there is a body."""
        content = self.content.fields if self.method in ("POST", "PUT", "PATCH") else ()
        return [*self.host.fields, *self.origin.fields, *self.token.fields, *content]


def expected(cell: Cell, known: set[tuple[str, str, str]]) -> tuple[int, bool]:
    """The oracle: the status, and whether the application is reached. `known`: the routes, as (kind, method, path)."""
    if cell.host.what == "bad":
        return 421, False
    if cell.origin.what == "bad" or (cell.origin.what == "own" and cell.program != "status-api"):
        return 403, False
    if (cell.kind, cell.method, cell.path) not in known:
        return 404, False
    if cell.program == "status-api" and cell.body is not TOO_MUCH:
        refused = cell.token.what in (
            {"/v1/status": ("wrong", "drive"), "/": ("wrong", "drive", "none")}.get(cell.path, ())
        )
        return (401, True) if refused else (200, True)
    content = cell.content.what if cell.method == "POST" else "good"
    if cell.program == "conductor" and passed_on(cell.path):  # its guard bounds what it reads, and codexd's judges
        if content.endswith("anywhere"):
            return int(content[:3]), False
        if cell.body is TOO_MUCH:
            return 413, False
    if cell.path not in OPEN[cell.program]:
        if cell.token.what not in ("read", "drive"):
            return 401, False
        if cell.method == "POST" and cell.token.what == "read":
            return 403, False
    if content != "good":
        return int(content[:3]), False
    if cell.body is TOO_MUCH:
        return 413, False
    return (101 if cell.kind == "websocket" else 200), True


def passed_on(path: str) -> bool:
    """Whether the conductor passes it on to codexd."""
    return path.startswith("/v1/codexd/") or path == EVENTS


def routes_of(tables: dict[Program, RouteTable]) -> dict[Program, set[tuple[str, str, str]]]:
    """Every route as a request would name it. codexd's are the conductor's too, but for what speaks of the program."""
    found: dict[Program, set[tuple[str, str, str]]] = {
        program: {
            (kind, method, "/".join("x1" if part.startswith("{") else part for part in path.split("/")))
            for kind, method, path, _ in tables[program]
        }
        for program in PROGRAMS
    }
    found["conductor"] |= {each for each in found["codexd"] if passed_on(each[2])}
    return found


def targets(known: set[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Every path with every method and as a WebSocket, and the same of paths that there are not."""
    paths = sorted({path for _, _, path in known}) + list(NOWHERE)
    every = [("http", method, path) for path in paths for method in METHODS]
    return every + [("websocket", "GET", path) for path in paths]


def cells(known: dict[Program, set[tuple[str, str, str]]]) -> Iterator[Cell]:
    """The whole matrix."""
    for program in PROGRAMS:
        for kind, method, path in targets(known[program]):
            for host in HOSTS:
                yield Cell(program, kind, method, path, host=host)
            for origin, token in itertools.product(ORIGINS, TOKENS):
                yield Cell(program, kind, method, path, origin=origin, token=token)
            if (kind, method, path) in known[program]:
                yield Cell(program, kind, method, path, token=TOKENS[1], body=SOME if kind != "http" else TOO_MUCH)
                if method == "POST":
                    for content, token in itertools.product(CONTENTS, TOKENS):
                        yield Cell(program, kind, method, path, token=token, content=content)
        for kind, method, path in sorted(known[program])[:: max(1, len(known[program]) // 6)]:
            for host, origin, token in itertools.product(HOSTS, ORIGINS, TOKENS):
                yield Cell(program, kind, method, path, host, origin, token)


async def right(cell: Cell, door: Door, known: set[tuple[str, str, str]]) -> str | None:
    """None if all is as it must be, else what is not. What the door raises is a flaw as well."""
    status, reached = expected(cell, known)
    before, counted = door.reached, door.refused
    try:
        came = await knock(door, cell.kind, cell.method, cell.path, cell.headers, list(cell.body))
    except Exception as raised:  # boundary: a mutant may fail in any way
        return f"raised {raised!r}"
    names = {name for name, _ in came.fields}
    looks = reached and cell.kind == "http" and cell.program != "status-api"
    strange = cell.program == "conductor" and passed_on(cell.path) and cell.token.what not in ("read", "drive")
    wanted = b"" if strange else b"".join(cell.body)
    flaws = {
        f"{came.status} instead of {status}": came.status != status,
        f"reached {door.reached - before} times": door.reached - before != reached,
        f"counted {door.refused - counted} times": door.refused - counted != (not reached),
        "another body reached it": looks and door.body != wanted,
        "a CORS field": any(name.startswith(b"access-control") for name in names),
        "no security fields": came.status != 101 and not {b"x-content-type-options", b"cache-control"} <= names,
        "it repeats what was asked": status >= 400 and b"<script>" in came.body,
    }
    return next((flaw for flaw, there in flaws.items() if there), None)


async def matrix(seed: int, share: float = 1.0) -> tuple[int, list[str]]:
    """How many cells were tried, and each that is not right. `share`: of the matrix, drawn by `seed`."""
    tables = real_tables()
    doors, known, draw = open_doors(tables), routes_of(tables), random.Random(seed)
    tried, wrong = 0, []
    for cell in cells(known):
        if share >= 1 or draw.random() < share:
            tried += 1
            flaw = await right(cell, doors[cell.program], known[cell.program])
            if flaw is not None:
                wrong.append(f"{flaw}: {cell}")
    return tried, wrong


def load(mutant: Mutant) -> Any:
    """The class of a mutant guard. Every substitution of it must meet its text exactly once."""
    assert real.__file__ is not None
    with open(real.__file__, encoding="utf-8") as file:
        source = file.read()
    for old, new in mutant.instead:
        assert source.count(old) == 1, f"{mutant.name}: found {source.count(old)} times: {old}"
        source = source.replace(old, new)
    module = types.ModuleType(f"mutant_of_{real.__name__}")
    exec(compile(source, f"{mutant.name}.py", "exec"), module.__dict__)  # noqa: S102 - our own text
    return module.Guard


async def killed(mutant: Mutant, seed: int, every: list[Cell]) -> str | None:
    """What gave the mutant away, None if nothing did."""
    tables = real_tables()
    doors, known = open_doors(tables, load(mutant)), routes_of(tables)
    order = random.Random(seed).sample(range(len(every)), len(every))
    for number in order:
        cell = every[number]
        flaw = await right(cell, doors[cell.program], known[cell.program])
        if flaw is not None:
            return f"{flaw}: {cell}"
    return None


async def survivors(seed: int) -> list[str]:
    """The mutants that nothing gave away."""
    every = list(cells(routes_of(real_tables())))
    return [mutant.name for mutant in MUTANTS if await killed(mutant, seed, every) is None]


def figures(seed: int) -> list[Figure]:
    """Cells that are not right, and mutants that live."""
    tried, wrong = asyncio.run(matrix(seed))
    for each in wrong[:20]:
        print(each, file=sys.stderr)
    alive = asyncio.run(survivors(seed))
    for each in alive:
        print(f"alive: {each}", file=sys.stderr)
    return [
        Figure("guard_cells_wrong", len(wrong), "cells", tried, seed, must=0),
        Figure("guard_mutants_alive", len(alive), "mutants", len(MUTANTS), seed, must=0),
    ]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="the order of the cells")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    found = figures(given.seed)
    print(told(found, as_json=given.json))
    return 0 if all(figure.holds for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
