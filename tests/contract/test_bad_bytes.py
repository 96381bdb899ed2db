"""Bytes that no client of ours sends, to every program on a real socket: an answer of ours or a close, and no more.

Nothing of it makes an event, a session, a line in a log that says that something broke, or a program that is not there
for the next client.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import bad_http, bad_websocket
from tests.support.faults import saw
from tests.support.node import Node
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(240)


class House(NamedTuple):
    """The three programs that listen, and their logs."""

    node: Node
    conductor: Program
    api: Program

    @property
    def logs(self) -> str:
        """Everything that they logged."""
        return self.node.log + self.conductor.log + self.api.log

    @property
    def broken(self) -> list[str]:
        """Lines that say that something broke. This node has no Codex: that is one of them."""
        lines = [json.loads(line) for line in self.logs.splitlines()]
        bad = [line for line in lines if line["level"] in ("error", "critical") or "exception" in line]
        return [str(line) for line in bad if line["event"] != "child.unavailable"]

    async def unmoved(self, head: str) -> None:
        """Everybody still answers, and the log of events stands where it stood."""
        for program in (self.conductor, self.api):
            assert await program.get("/healthz") == {"status": "ok"}
        assert (await self.node.get("/healthz")).status_code == 200
        assert await self.node.head() == head
        assert self.broken == []


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder: Path = tmp_path_factory.mktemp("bytes")
    async with Node(folder, "http://127.0.0.1:9", server_command="/nowhere/codex") as node:
        await node.start()
        async with Program("conductor", node.home) as conductor, Program("status-api", node.home) as api:
            yield House(node, conductor, api)


async def test_no_bytes_are_read_in_two_ways(house: House) -> None:
    head, flaws = await house.node.head(), []
    for program in house:
        for case in bad_http.CASES:
            raw = bad_http.filled(case.raw, program.address, house.node.token())
            came = await bad_http.exchange(program.address, raw, half=case.half)
            flaw = bad_http.flaw(case, came, sessions=program is not house.api)
            flaws += [] if flaw is None else [f"{program.address} {flaw}"]
    assert flaws == []
    await house.unmoved(head)
    saw("F79", True, "TLS, HTTP/2, mail and redis were spoken to every port")
    saw("F85", len(bad_http.CASES) >= 60, f"{len(bad_http.CASES)} heads and bodies were sent to three programs")


async def test_frames_that_are_none_end_their_own_socket(house: House) -> None:
    head, flaws = await house.node.head(), []
    token = house.node.token("read")
    for address in (house.node.address, house.conductor.address):
        for case in bad_websocket.CASES:
            close = await bad_websocket.close_of(address, token, case)
            flaws += [] if close == case.close else [f"{address} {case.name}: {close} and not {case.close}"]
    assert flaws == []
    await house.unmoved(head)
    saw("F87", len(bad_websocket.CASES) >= 50, f"{len(bad_websocket.CASES)} sequences of frames were sent")


@pytest.mark.parametrize("name", ["text", "text without a mask", "a close"])
async def test_what_comes_with_the_handshake_is_no_frame(house: House, name: str) -> None:
    (case,) = (case for case in bad_websocket.CASES if case.name == name)
    head, token = await house.node.head(), house.node.token("read")
    for address in (house.node.address, house.conductor.address):
        assert await bad_websocket.close_of(address, token, case, early=True) is None
    await house.unmoved(head)
