"""A node whose child is the real Codex with somebody who writes in between (noisy_codex.py)."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from codex_cli_bin import bundled_codex_path

from baa.scripted import Scenario, ScriptedModel
from tests.support.node import Json, Node, within
from tests.support.oracle import Oracle, flaws_of

NOISY = Path(__file__).with_name("noisy_codex.py")


class House(NamedTuple):
    """A node with a noisy child, the model behind its Codex, a reader of its events, and the way in."""

    node: Node
    model: ScriptedModel
    oracle: Oracle
    fifo: Path

    async def child_writes(self, data: bytes, verb: str = "say") -> None:
        """Have it written between two lines of Codex's."""
        await within(asyncio.to_thread(self.fifo.write_bytes, verb.encode() + b"\n" + data))

    async def unreadable(self, count: int) -> list[Json]:
        """What was told of lines that could not be read, once there are so many."""
        await self.oracle.saw("codex.warning", count=count, where=_is_unreadable)
        await self.oracle.caught_up()
        return [event["payload"]["params"] for event in self.oracle.events if _is_unreadable(event)]


def _is_unreadable(event: Json) -> bool:
    told: bool = event["type"] == "codex.warning" and event["payload"]["method"] == "unreadable"
    return told


class Noisy(NamedTuple):
    """A node with a noisy child, the model behind its Codex, and the way in."""

    node: Node
    model: ScriptedModel
    fifo: Path


@asynccontextmanager
async def noisy_node(folder: Path, scenarios: Sequence[Scenario]) -> AsyncIterator[Noisy]:
    """It serves inside."""
    fifo, program = folder / "fifo", folder / "codex"
    os.mkfifo(fifo)
    noisy = [sys.executable, "-I", "-S", str(NOISY), str(fifo), str(bundled_codex_path())]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(noisy)} "$@"\n')
    program.chmod(0o700)
    async with (
        ScriptedModel(scenarios) as model,
        Node(folder / "node", model.base_url, server_command=str(program)) as node,
    ):
        await node.start()
        yield Noisy(node, model, fifo)


@asynccontextmanager
async def noisy_house(folder: Path, scenarios: Sequence[Scenario]) -> AsyncIterator[House]:
    """It serves inside; in the end the events have no flaw."""
    async with noisy_node(folder, scenarios) as (node, model, fifo), Oracle(node) as oracle:
        yield House(node, model, oracle, fifo)
        await oracle.caught_up()
        assert flaws_of(oracle.events) == []
