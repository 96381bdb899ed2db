"""status-api, put together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from typing import Final

import structlog

from baa import notify
from baa.api.endpoint import Program
from baa.api.errors import CannotStart
from baa.clock import SystemClock, rfc3339
from baa.config import Config
from baa.http import published, serve
from baa.http.guard import Guard, loopback_hosts
from baa.http.keyring import TokenFiles
from baa.http.tokens import load_token
from baa.process import Stop
from baa.status_api import http
from baa.status_api.watch import Watch

STALLED_S: Final = 20.0
"""Seconds without a look at the programs after which status-api is called unhealthy: four of its rounds."""

_log = structlog.get_logger("status-api")


async def run(config: Config, stop: Stop, on_started: Callable[[str], None]) -> None:
    """Run status-api until it is told to stop; `on_started` is given its address. Raises CannotStart."""
    clock = SystemClock()
    config.endpoint_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sock = _bind(config)
    watch = Watch(config, clock)

    def healthy() -> bool:
        return clock.monotonic() - watch.stamp < STALLED_S

    app, routes = http.application(watch, healthy)
    hosts = _hosts(sock) | set(config.allowed_hosts)
    tokens = TokenFiles(config.tokens_dir, ("read",))  # none of its routes asks for one; but it proves that it is ours
    guard = Guard(app, program="status-api", allowed_hosts=hosts, routes=routes, tokens=tokens, has_pages=True)
    server = serve.HttpServer(guard, sock, refused=guard.refused)
    address = serve.base_url(sock)
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(watch.run(), name="watch")
        tasks.create_task(server.serve(), name="http")
        await server.started.wait()
        started = Program(address, os.getpid(), f"sta_{secrets.token_hex(8)}", rfc3339(clock.utc_ms()))
        published.publish(config.endpoint_file, "status_api", started)
        watching = tasks.create_task(notify.watch(healthy), name="watchdog")
        _log.info("serving", address=address)
        on_started(address)
        await stop.asked.wait()
        server.stop()
        looking.cancel()
        watching.cancel()
    published.forget(config.endpoint_file, "status_api", os.getpid())
    _log.info("stopped")


def _bind(config: Config) -> socket.socket:
    """A private address only where detail is behind a token; on loopback it is waited for."""
    address = config.status_api_address
    beyond = not ipaddress.ip_address(address.host).is_loopback
    if beyond:
        try:
            load_token(config.tokens_dir / "read")
        except CannotStart as missing:
            raise CannotStart(f"status-api takes {address.host} only with a read token. {missing.message}") from None
    return serve.bind(address.host, address.port, beyond_loopback=beyond)


def _hosts(sock: socket.socket) -> frozenset[str]:
    """The Host values by which it is reached: the address itself, and on loopback the other names of that."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_loopback:
        return loopback_hosts(port)
    return frozenset({f"[{host}]:{port}" if ":" in host else f"{host}:{port}"})
