"""What is done to services beside a real codexd, with a service manager that only notes what it was told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baa import config
from baa.api.errors import CannotStart
from baa.config import Config
from baa.runtime.hosts import State
from baa.runtime.operate import Operator
from baa.runtime.services import Service, describe, systemd_unit
from tests.support.node import Node
from tests.support.systemd import free_ports

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the node's tests look at /proc"),
    pytest.mark.timeout(120),
]


class Notebook:
    """A service manager by whose account every service runs as the process `pid`."""

    name = "systemd"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.pid: int | None = 1

    def path(self, service: Service) -> Path:
        return self.folder / service.unit

    def render(self, service: Service) -> bytes:
        return systemd_unit(service).encode()

    def reread(self, service: Service) -> None:
        self.told.append(f"reread {service.name}")

    def start(self, service: Service) -> None:
        self.told.append(f"start {service.name}")

    def stop(self, service: Service) -> None:
        self.told.append(f"stop {service.name}")

    def restart(self, service: Service) -> None:
        self.told.append(f"restart {service.name}")

    def forget(self, service: Service) -> None:
        self.told.append(f"forget {service.name}")

    def state(self, service: Service) -> State:
        return State(installed=True, active="active", pid=self.pid, restarts=0)


class Desk:
    """An operator of codexd and status-api, both installed, its notebook, and what it said."""

    def __init__(self, node: Node) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        node.settings["local_api_base"] = self.address
        environ = node.environment()
        self.config: Config = config.load(node.folder / "baa.toml", environ)
        self.services = describe(
            self.config,
            ("codexd", "status-api"),
            python=Path(sys.executable),
            environ=environ,
            config_file=node.folder / "baa.toml",
        )
        self.host = Notebook(node.folder)
        self.said: list[str] = []
        self.operator = Operator(self.config, self.host, say=self.said.append)
        self.dry = Operator(self.config, self.host, say=self.said.append, dry_run=True)
        for service in self.services:
            self.host.path(service).write_bytes(self.host.render(service))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node without Codex, of which no codexd was started."""
    async with Node(tmp_path, "http://127.0.0.1:1", server_command=str(tmp_path / "codex")) as made:
        yield made


async def test_a_reload_announces_restarts_and_waits_for_codexds_healthz_only(node: Node) -> None:
    desk = Desk(node)
    await node.start()
    await asyncio.to_thread(desk.operator.reload, desk.services)
    assert desk.host.told == ["reread codexd", "restart codexd", "reread status-api", "restart status-api"]
    announced, restarted, waited = (
        next(number for number, step in enumerate(desk.said) if word in step)
        for word in ("announce", "codexd: restart", "wait for /healthz")
    )
    assert announced < restarted < waited
    assert sum("wait for" in step for step in desk.said) == 1
    assert await node.stop() == 0
    assert '"event":"handed over"' in node.log


async def test_a_dry_run_tells_of_the_announcement_where_codexd_runs_and_does_nothing(node: Node) -> None:
    desk = Desk(node)
    codexd, status_api = desk.services
    announce = "would codexd: announce the hand-over, so that running turns go on"
    rest = ["would codexd: restart", "would codexd: wait for /healthz"]
    desk.dry.restart((codexd, status_api))
    assert desk.said == [announce, *rest, "would status-api: restart"]
    desk.said.clear()
    desk.host.path(codexd).write_text("another description")
    desk.dry.install((codexd,))
    assert desk.said[2:5] == [announce, *rest]
    desk.said.clear()
    desk.host.pid = None
    desk.dry.restart((codexd,))
    assert desk.said == rest
    desk.dry.install((codexd,))
    assert "would codexd: start" in desk.said
    assert desk.host.told == []


async def test_a_codexd_that_takes_no_announcement_is_not_restarted(node: Node) -> None:
    desk = Desk(node)
    await node.start()
    await node.kill()
    with pytest.raises(CannotStart, match="A restart now would end its running turns") as refused:
        await asyncio.to_thread(desk.operator.restart, desk.services)
    assert refused.value.exit_code == 69
    assert desk.host.told == []


async def test_a_codexd_that_is_no_services_is_told_and_holds_up_no_uninstall(node: Node) -> None:
    desk = Desk(node)
    await node.start()
    with pytest.raises(CannotStart, match="codexd runs here, so nothing is left over") as refused:
        await asyncio.to_thread(desk.operator.uninstall, desk.services)
    assert refused.value.exit_code == 75
    assert desk.host.told == ["stop codexd", "forget codexd", "stop status-api", "forget status-api"]
    assert not any(desk.host.path(service).exists() for service in desk.services)
    assert (await node.get("/healthz")).status_code == 200


async def test_what_is_not_installed_is_neither_started_nor_restarted(node: Node) -> None:
    desk = Desk(node)
    for service in desk.services:
        desk.host.path(service).unlink()
    for deed in (desk.operator.start, desk.operator.restart, desk.operator.reload):
        with pytest.raises(CannotStart, match="codexd is not installed"):
            deed(desk.services)
    assert desk.host.told == []
