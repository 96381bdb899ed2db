"""The conductor, put together. It is alive without codexd, and never starts it."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from baa import notify
from baa.api.endpoint import Program
from baa.clock import Clock, SystemClock, rfc3339
from baa.conductor import http
from baa.conductor.carrier import Carrier
from baa.conductor.dispatch import Dispatch
from baa.conductor.http_events import Events
from baa.conductor.leader import Leader
from baa.config import Config
from baa.engine.queue import library_url
from baa.engine.store import Engine, open_engine
from baa.http import published, serve
from baa.http.guard import Guard, loopback_hosts
from baa.http.keyring import TokenFiles
from baa.http.patience import Patience
from baa.http.tokens import ensure_tokens
from baa.process import Stop
from baa.worker.life import Superseded
from baa.worker.runner import work

STALLED_S: Final = 10.0
"""Seconds without a move of the leader's loop after which the conductor is called unhealthy: five of its rounds."""

_log = structlog.get_logger("conductor")


@dataclass(slots=True)
class Conductor:
    """The conductor put together: what its HTTP side speaks to."""

    config: Config
    conductor_id: str
    engine: Engine
    leader: Leader
    clock: Clock
    events: Events
    patience: Patience

    def healthy(self) -> bool:
        """Whether the leader's loop, which writes to the engine, moved of late."""
        return self.clock.monotonic() - self.leader.stamp < STALLED_S


async def run(config: Config, stop: Stop, on_started: Callable[[str], None]) -> None:
    """Run the conductor until it is told to stop; `on_started` is given its address. Raises CannotStart."""
    clock = SystemClock()
    config.endpoint_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_tokens(config.tokens_dir)
    tokens = TokenFiles(config.tokens_dir)
    sock = serve.bind(config.conductor_address.host, config.conductor_address.port)
    conductor_id = f"cdr_{secrets.token_hex(8)}"
    engine = await open_engine(config.engine_url, clock=clock, patience_ms=config.node_ttl_ms * 2 // 3)
    carrier = Carrier(library_url(config.engine_url, config.home))
    try:
        leader = Leader(engine, holder=conductor_id, node_id=config.node_id, clock=clock)
        dispatch = Dispatch(
            engine, leader, carrier, clock, node_ttl_ms=config.node_ttl_ms, history_ms=config.history_ms
        )
        patience = Patience()
        conductor = Conductor(config, conductor_id, engine, leader, clock, Events(engine, patience), patience)
        refused: Counter[str] = Counter()
        app, routes = http.application(conductor, tokens, refused)
        hosts = loopback_hosts(sock.getsockname()[1]) | set(config.allowed_hosts)
        guard = Guard(app, program="conductor", allowed_hosts=hosts, routes=routes, tokens=tokens, refused=refused)
        server = serve.HttpServer(guard, sock, refused=refused)
        address = serve.base_url(sock)
        await leader.try_once()  # so that the first answer of /rolez is a true one
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(), name="http")
            looking = tasks.create_task(tokens.watch(), name="tokens")
            leading = tasks.create_task(leader.run(), name="leader")
            warming = tasks.create_task(carrier.warm(), name="queue")
            dispatching = tasks.create_task(dispatch.run(), name="dispatch")
            await server.started.wait()
            started = Program(address, os.getpid(), conductor_id, rfc3339(clock.utc_ms()))
            published.publish(config.endpoint_file, "conductor", started)
            watching = tasks.create_task(notify.watch(conductor.healthy), name="watchdog")
            _log.info("serving", address=address, conductor_id=conductor_id)
            on_started(address)
            if config.worker_embedded:
                await work(config, engine, stop, clock, watchdog=False)  # until the stop, and what ran has ended
            await stop.asked.wait()
            patience.end()
            warming.cancel()
            dispatching.cancel()
            leading.cancel()
            await leader.release()
            server.stop()
            watching.cancel()
            looking.cancel()
        published.forget(config.endpoint_file, "conductor", os.getpid())
    except* Superseded as superseded:
        await leader.release()
        published.forget(config.endpoint_file, "conductor", os.getpid())
        raise Superseded(config.node_id) from superseded
    finally:
        await carrier.close()
        await engine.close()
    _log.info("stopped")
