"""One life of a node's worker: written down, alive by its heartbeat, and standing aside in time when that fails.

Whether it is still the node's worker is decided by the database. This side only stops renewing its turns' leases once
two thirds of its heartbeat's time have passed since the last one that succeeded was begun, whatever it was frozen by.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from baa.api.conductor import Node, NodeState
from baa.api.errors import EX_TEMPFAIL, CannotStart
from baa.clock import Clock, rfc3339
from baa.engine.store import Engine, EngineFailed

BEATS: Final = 3
"""Heartbeats in the time for which one is good: two may fail."""

STALLED_S: Final = 30.0
"""Seconds without a move of the heartbeat's loop after which the worker is called unhealthy."""

_log = structlog.get_logger("worker")


class Superseded(CannotStart):
    """The node was given up as gone, or another worker runs for it."""

    def __init__(self, node_id: str) -> None:
        super().__init__(
            f"The node {node_id} was given up as gone, or another worker took it over: this one stopped what it ran and"
            " leaves. If two machines have this name, give one of them a BAA_NODE_ID of its own.",
            exit_code=EX_TEMPFAIL,
        )


class Life:
    """This process as the worker of its node. `drain` is set once the operator asked for it."""

    def __init__(self, engine: Engine, node: Node, clock: Clock, *, ttl_ms: int, turn_lease_ms: int) -> None:
        self.node = node
        self.drain = asyncio.Event()
        self._engine = engine
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._turn_lease_ms = turn_lease_ms
        self._state = NodeState.ACTIVE
        self._stamp = clock.monotonic()
        self._good_until = 0.0
        self._trouble = False

    @property
    def beat_s(self) -> float:
        """Seconds between two heartbeats."""
        return self._ttl_ms / 1000 / BEATS

    def healthy(self) -> bool:
        """Whether the heartbeat's loop moved of late."""
        return self._clock.monotonic() - self._stamp < STALLED_S

    def may_renew(self) -> bool:
        """Whether it may still renew the leases of its turns, as the node's worker."""
        return self._clock.monotonic() < self._good_until

    async def register(self) -> None:
        """Write the node down; tries until the engine takes it. An earlier life of it is superseded."""
        while True:
            begun = self._clock.monotonic()
            seen = msgspec.structs.replace(self.node, seen_at=rfc3339(self._clock.utc_ms()))
            try:
                await self._engine.register(seen, ttl_ms=self._ttl_ms, turn_lease_ms=self._turn_lease_ms)
            except EngineFailed as error:
                self._say_trouble(error)
                await asyncio.sleep(self.beat_s)
            else:
                self._succeeded(begun)
                _log.info("node.registered", node_id=self.node.node_id, slots=self.node.slots)
                return

    async def beat(self) -> None:
        """Keep the node alive until cancelled. Raises Superseded."""
        while True:
            await asyncio.sleep(self.beat_s)
            await self.tell(self._state)
            self._stamp = self._clock.monotonic()

    async def tell(self, state: NodeState) -> None:
        """Write `state` down. An engine that is away is logged once. Raises Superseded."""
        begun = self._clock.monotonic()
        if state is not self._state:
            _log.info(f"node.{state}", node_id=self.node.node_id)
        self._state = state
        try:
            beat = await self._engine.heartbeat(self.node.node_id, self.node.incarnation, state, ttl_ms=self._ttl_ms)
        except EngineFailed as error:
            self._say_trouble(error)
            return
        if not beat:
            self._good_until = 0.0
            _log.error("node.superseded", node_id=self.node.node_id)
            raise Superseded(self.node.node_id)
        self._succeeded(begun)
        if beat.drain:
            self.drain.set()

    async def is_mine(self) -> bool:
        """Whether this is still the node's worker, asked now; while the engine is away, as far as this side knows."""
        try:
            return bool(
                await self._engine.heartbeat(self.node.node_id, self.node.incarnation, self._state, ttl_ms=self._ttl_ms)
            )
        except EngineFailed:
            return self.may_renew()

    def _succeeded(self, begun: float) -> None:
        self._good_until = begun + self._ttl_ms * 2 / 3 / 1000
        if self._trouble:
            _log.info("engine.mended")
        self._trouble = False

    def _say_trouble(self, error: EngineFailed) -> None:
        if not self._trouble:
            _log.error("engine.trouble", error=str(error))
        self._trouble = True
