"""Who leads: one conductor of those on an engine holds the lease, and renews it; the others wait for it to expire.

The engine decides. This side only stops calling itself leader in time: when two thirds of the lease's time have passed
since its last successful renewal was begun, it says standby, whatever it was frozen by.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from baa import __version__
from baa.api.conductor import Role, RoleName
from baa.clock import Clock
from baa.engine.store import Engine, EngineFailed, Lease

LEASE: Final = "leader"
TTL_MS: Final = 6000
RENEW_MS: Final = 2000

_log = structlog.get_logger("leader")


class Leader:
    """One conductor's part in it. `stamp` is the monotonic time at which its loop last moved."""

    def __init__(
        self,
        engine: Engine,
        *,
        holder: str,
        node_id: str,
        clock: Clock,
        ttl_ms: int = TTL_MS,
        renew_ms: int = RENEW_MS,
    ) -> None:
        if ttl_ms <= 2 * renew_ms:
            raise ValueError("a lease must outlast two renewals: one may fail")
        self.stamp = clock.monotonic()
        self._engine = engine
        self._holder = holder
        self._node_id = node_id
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._renew_ms = renew_ms
        self._lease: Lease | None = None
        self._mine_until = 0.0
        self._said: tuple[RoleName, int] | None = None
        self._trouble: str | None = None

    def leads(self) -> bool:
        """Whether this conductor may act as leader now."""
        lease = self._lease
        return lease is not None and lease.holder == self._holder and self._clock.monotonic() < self._mine_until

    def term(self) -> int | None:
        """The term in which this conductor may act as leader now; None: it may not."""
        return self._lease.term if self._lease is not None and self.leads() else None

    def step_down(self, term: int) -> None:
        """Stand by until the lease is acquired again: the engine said that this term is over."""
        if self._lease is not None and self._lease.term == term:
            self._mine_until = 0.0
        self._say()

    def role(self) -> Role:
        """The answer of `/rolez`. A leader is named only while its lease was seen to be good."""
        lease = self._lease
        mine = lease is not None and lease.holder == self._holder
        known = lease is not None and (self.leads() if mine else lease.valid)
        return Role(
            role=RoleName.LEADER if self.leads() else RoleName.STANDBY,
            node_id=self._node_id,
            leader_id=lease.node_id if lease is not None and known else None,
            term=0 if lease is None else lease.term,
            expires_at=lease.expires_at if lease is not None and known else None,
            version=__version__,
        )

    async def run(self) -> None:
        """Hold the lease or try for it, until cancelled."""
        while True:
            await self.try_once()
            self.stamp = self._clock.monotonic()
            await asyncio.sleep(self._renew_ms / 1000)

    async def try_once(self) -> None:
        """Renew or acquire. Trouble with the engine is logged when it begins and when it is over."""
        begun = self._clock.monotonic()
        try:
            lease = await self._engine.acquire(LEASE, holder=self._holder, node_id=self._node_id, ttl_ms=self._ttl_ms)
        except EngineFailed as error:
            if self._trouble is None:
                _log.error("lease.trouble", error=str(error))
            self._trouble = str(error)
        else:
            if self._trouble is not None:
                _log.info("lease.mended")
            self._trouble = None
            self._lease = lease
            if lease.holder == self._holder:
                self._mine_until = begun + self._ttl_ms * 2 / 3 / 1000
        self._say()

    async def release(self) -> None:
        """Let go of the lease, so that a standby takes over at its next try. What cannot be released expires."""
        lease = self._lease
        self._mine_until = 0.0
        if lease is not None and lease.holder == self._holder:
            with suppress(EngineFailed):
                await self._engine.release(LEASE, holder=self._holder, term=lease.term)
        self._say()

    def _say(self) -> None:
        role = self.role()
        said = (role.role, role.term)
        if said != self._said:
            _log.info(f"role.{role.role}", term=role.term, leader=role.leader_id)
        self._said = said
