"""worker-runner: this node in the engine's table, alive by its heartbeat for as long as the process moves."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from baa import __version__, notify
from baa.api.conductor import Node, NodeState
from baa.api.errors import EX_TEMPFAIL, CannotStart
from baa.clock import Clock, SystemClock, rfc3339
from baa.config import Config
from baa.engine.store import Engine, EngineFailed, open_engine
from baa.process import Stop

STALLED_S: Final = 10.0

_log = structlog.get_logger("worker-runner")


class Superseded(CannotStart):
    """Another worker runs for this node."""

    def __init__(self, node_id: str) -> None:
        super().__init__(
            f"Another worker-runner took over the node {node_id}. Stop one of the two, or give this machine a"
            " BAA_NODE_ID of its own.",
            exit_code=EX_TEMPFAIL,
        )


async def run(config: Config, stop: Stop, on_started: Callable[[str], None]) -> None:
    """Run until told to stop; `on_started` is given the node's id once the node is registered.

    Raises CannotStart: 75 when another worker took the node over.
    """
    clock = SystemClock()
    engine = await open_engine(config.engine_url, clock=clock, patience_ms=config.node_ttl_ms * 2 // 3)
    now = rfc3339(clock.utc_ms())
    worker = Worker(
        engine,
        Node(
            node_id=config.node_id,
            incarnation=secrets.token_hex(8),
            version=__version__,
            slots=config.worker_slots,
            state=NodeState.ACTIVE,
            pid=os.getpid(),
            started_at=now,
            seen_at=now,
        ),
        clock,
        ttl_ms=config.node_ttl_ms,
    )
    try:
        await _serve(worker, stop, on_started)
    except* Superseded as superseded:
        raise Superseded(config.node_id) from superseded
    finally:
        await engine.close()


async def _serve(worker: Worker, stop: Stop, on_started: Callable[[str], None]) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(stop.asked.wait(), name="stop")
        registering = tasks.create_task(worker.register(), name="register")
        await asyncio.wait((asked, registering), return_when=asyncio.FIRST_COMPLETED)
        if not registering.done():
            registering.cancel()
            return
        on_started(worker.node.node_id)
        beating = tasks.create_task(worker.beat(), name="heartbeat")
        watching = tasks.create_task(notify.watch(worker.healthy), name="watchdog")
        await asked
        beating.cancel()
        # Nothing runs here yet, so that a drain is over when it is told.
        await worker.tell(NodeState.DRAINING)
        await worker.tell(NodeState.GONE)
        watching.cancel()
    _log.info("stopped")


class Worker:
    """One incarnation of a node."""

    def __init__(self, engine: Engine, node: Node, clock: Clock, *, ttl_ms: int) -> None:
        self.node = node
        self._ttl_ms = ttl_ms
        self._beat_s = ttl_ms / 3 / 1000
        self._engine = engine
        self._clock = clock
        self._stamp = clock.monotonic()
        self._trouble = False

    def healthy(self) -> bool:
        """Whether the heartbeat's loop moved of late."""
        return self._clock.monotonic() - self._stamp < max(STALLED_S, self._ttl_ms / 1000)

    async def register(self) -> None:
        """Write the node down; tries until the engine takes it."""
        while True:
            try:
                seen = msgspec.structs.replace(self.node, seen_at=rfc3339(self._clock.utc_ms()))
                await self._engine.register(seen, ttl_ms=self._ttl_ms)
            except EngineFailed as error:
                self._say_trouble(error)
                await asyncio.sleep(self._beat_s)
            else:
                _log.info("node.registered", node_id=self.node.node_id, slots=self.node.slots)
                return

    async def beat(self) -> None:
        """Keep the node alive until cancelled. Raises Superseded."""
        while True:
            await self.tell(NodeState.ACTIVE)
            self._stamp = self._clock.monotonic()
            await asyncio.sleep(self._beat_s)

    async def tell(self, state: NodeState) -> None:
        """Write `state` down. An engine that is away is logged once. Raises Superseded."""
        try:
            mine = await self._engine.heartbeat(self.node.node_id, self.node.incarnation, state, ttl_ms=self._ttl_ms)
        except EngineFailed as error:
            self._say_trouble(error)
            return
        if self._trouble:
            self._trouble = False
            _log.info("engine.mended")
        if not mine:
            _log.error("node.superseded", node_id=self.node.node_id)
            raise Superseded(self.node.node_id)
        if state is not NodeState.ACTIVE:
            _log.info(f"node.{state}", node_id=self.node.node_id)

    def _say_trouble(self, error: EngineFailed) -> None:
        if not self._trouble:
            _log.error("engine.trouble", error=str(error))
        self._trouble = True
