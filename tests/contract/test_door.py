"""The doors of a node's real programs: a part of the guard matrix over real sockets, and what the open reads say.

Whatever is refused changes nothing: codexd's log is where it was.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.proof.guarded import HOSTS, ORIGINS, SOME, TOKENS, Cell, expected, routes_of, targets
from tests.support import doors
from tests.support.faults import saw
from tests.support.house import UPGRADE, status
from tests.support.node import Node, within
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(240)

SEED = int(os.environ.get("BAA_TEST_SEED", random.randrange(2**32)))
CELLS = 100
"""Of each program, of those that must be refused."""

PROMPT, ANSWER, TITLE, FOLDER = "purple-walrus-prompt", "orange-heron-answer", "green-newt-title", "brown-otter-folder"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[dict[str, Node | Program]]:
    scenarios = (when(PROMPT, (Run(f"echo {ANSWER}"), Say(ANSWER))),)
    async with ScriptedModel(scenarios) as model, Node(tmp_path / FOLDER, model.base_url) as node:
        await node.start()
        await node.child()
        async with Program("conductor", node.home) as conductor, Program("status-api", node.home) as api:
            yield {"codexd": node, "conductor": conductor, "status-api": api}


def codexd_of(house: dict[str, Node | Program]) -> Node:
    node = house["codexd"]
    assert isinstance(node, Node)
    return node


async def knock(address: str, cell: Cell, tokens: dict[str, str]) -> int:
    """The status that comes back for a cell whose names are those of the matrix, asked of a real program."""
    real = {
        str(doors.PORT).encode(): str(urlsplit(address).port).encode(),
        doors.READ.encode(): tokens["read"].encode(),
        doors.DRIVE.encode(): tokens["drive"].encode(),
    }
    lines = [f"{cell.method} {cell.path} HTTP/1.1".encode()]
    for name, value in cell.headers:
        asked = value
        for old, new in real.items():
            asked = asked.replace(old, new)
        lines.append(name + b": " + asked)
    head = b"\r\n".join(lines) + b"\r\n"
    head += UPGRADE if cell.kind == "websocket" else b"Content-Length: 2\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection(urlsplit(address).hostname, urlsplit(address).port)
    try:
        writer.write(head + b"\r\n" + (b"" if cell.kind == "websocket" else b"".join(SOME)))
        return status(await within(reader.readuntil(b"\r\n")))
    finally:
        writer.transport.abort()


async def test_what_must_be_refused_is_refused_over_a_socket_and_changes_nothing(
    house: dict[str, Node | Program],
) -> None:
    node, draw = codexd_of(house), random.Random(SEED)
    known = routes_of(doors.tables())
    tokens = {name: node.token(name) for name in ("read", "drive")}
    hosts = [each for each in HOSTS if each.fields != ((b"host", doors.PROXY.encode()),)]  # no proxy was configured
    head = await node.head()
    for program in doors.PROGRAMS:
        # What httptools itself does not take never comes to the guard; test_serve.py has that.
        asked = [each for each in targets(known[program]) if each[2].startswith("/") and each[1] != "CONNECT"]
        asked = [each for each in asked if "<" not in each[2]]
        left = CELLS
        while left:
            cell = Cell(program, *draw.choice(asked), draw.choice(hosts), draw.choice(ORIGINS), draw.choice(TOKENS))
            wanted, reached = expected(cell, known[program])
            if reached or any(value.startswith(b" ") or value.endswith(b" ") for _, value in cell.headers):
                continue
            assert await knock(house[program].address, cell, tokens) == wanted, f"seed {SEED}: {cell}"
            left -= 1
    assert await node.head() == head
    refused = await node.get("/metrics")
    assert 'codexd_refused_total{code="wrong_host"}' in refused.text
    saw("F86", CELLS, f"{CELLS} refused cells of the matrix were tried on each program's socket")


OPEN = {
    "codexd": ("/healthz", "/v1/codexd/status"),
    "conductor": ("/healthz", "/readyz", "/rolez", "/v1/codexd/status"),
    "status-api": ("/healthz", "/v1/status"),
}


async def test_what_is_open_is_what_was_decided_and_says_nothing_of_what_is_done(
    house: dict[str, Node | Program],
) -> None:
    node = codexd_of(house)
    session = await node.session(purpose=TITLE, metadata={"title": TITLE})
    turn = await node.play(session, PROMPT)
    assert turn["status"] == "completed"
    thread = (await node.session_of(session))["threadId"]
    assert thread
    secrets = [
        PROMPT,
        ANSWER,
        TITLE,
        FOLDER,
        session,
        turn["turnId"],
        thread,
        *(node.token(name) for name in ("read", "drive")),
    ]
    tables = doors.tables()
    for program in doors.PROGRAMS:
        known = {(method, path) for kind, method, path, _ in tables[program] if kind == "http"} | {
            ("GET", path) for path in OPEN[program]
        }
        for method, path in sorted(known):
            asked = path.replace("{session_id:str}", session).replace("{turn_id:str}", turn["turnId"])
            answer = await house[program].ask(method, asked, content_type="application/json")
            if method in ("GET", "HEAD") and path in OPEN[program]:
                assert answer.status_code == 200, (program, path, answer.text)
            else:
                assert answer.status_code == 401, (program, method, path)
            told = f"{answer.headers} {answer.text}"
            assert [secret for secret in secrets if secret in told] == [], (program, path)


async def test_an_open_read_says_nothing_of_where_codex_is(tmp_path: Path) -> None:
    missing = tmp_path / FOLDER / "codex"
    async with Node(tmp_path / "node", "http://127.0.0.1:9", server_command=str(missing)) as node:
        await node.start()
        await node.child_is("unavailable")
        async with Program("conductor", node.home) as conductor, Program("status-api", node.home) as api:
            there: dict[str, Node | Program] = {"codexd": node, "conductor": conductor, "status-api": api}
            for program, paths in OPEN.items():
                for path in paths:
                    assert FOLDER not in (await there[program].ask("GET", path)).text, (program, path)
            told = (await node.ask("GET", "/v1/codexd/status")).json()["data"]["child"]["problem"]
            assert "a path" in told
            assert FOLDER in (await node.status())["child"]["problem"], "who has a token is told"
