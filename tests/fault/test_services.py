"""The node as it is installed, on a real systemd: checked, killed, reloaded, upgraded, stopped, uninstalled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import psutil
import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.support import systemd
from tests.support.node import Json, within
from tests.support.oracle import Oracle, deltas, flaws_of, numbered
from tests.support.programs import Program
from tests.support.systemd import InstalledNode

pytestmark = [
    pytest.mark.skipif(systemd.missing() is not None, reason=f"no systemd --user: {systemd.missing()}"),
    pytest.mark.timeout(400),
]

SCENARIOS = (
    when("plain", Say("Fine.")),
    *(when(word, (Say.numbered(20), Hold(word), Say.numbered(20, start=20))) for word in ("one", "two", "three")),
)
DEFAULT_SET = ("conductor", "codexd", "status-api")


class House(NamedTuple):
    """A node to be installed, and the model behind its Codex."""

    node: InstalledNode
    model: ScriptedModel


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, InstalledNode(tmp_path, model.base_url) as node:
        yield House(node, model)


async def held(node: InstalledNode, oracle: Oracle, word: str) -> str:
    """A turn that waits in the middle of its answer."""
    turn_id = await node.turn(await node.session(), word)
    await oracle.saw("item.delta", turn_id, count=20)
    return turn_id


async def completes(house: House, oracle: Oracle, turn_id: str, word: str) -> None:
    """The held turn goes on to its end, with every delta once."""
    house.model.release(word)
    await oracle.saw("turn.completed", turn_id)
    assert deltas(oracle.events, turn_id) == numbered(40)


async def test_every_service_comes_back_and_the_running_turn_ends_well(house: House) -> None:
    node = house.node
    said = await node.baa("node", "install")
    assert "To undo this: baa service uninstall" in said
    assert "0 fail" in said
    pids = {name: await node.main_pid(name) for name in DEFAULT_SET}
    again = await node.baa("service", "install")
    assert again.count("is as it should be") == 3
    assert {name: await node.main_pid(name) for name in DEFAULT_SET} == pids

    async with Oracle(node) as oracle:
        turn_id = await held(node, oracle, "one")
        for name in DEFAULT_SET:
            await within(node.kill_service(name))
        await node.baa("node", "check", "--expect-role", "leader", "--wait", "60")
        await completes(house, oracle, turn_id, "one")
        assert flaws_of(oracle.events) == []

    status = await node.baa("service", "status")
    assert "/healthz" in status
    assert "/v1/codexd/status" in status
    assert "/v1/codexd/runs" not in status
    await node.baa("service", "stop")
    await node.gone()


async def test_turns_go_on_through_reload_restart_and_upgrade_until_a_stop(house: House) -> None:
    node = house.node
    await node.baa("service", "install")
    async with Oracle(node) as oracle:
        turn_id = await held(node, oracle, "one")
        first = await node.main_pid("codexd")
        await node.baa("service", "reload")
        second = await node.main_pid("codexd")
        assert second != first
        await completes(house, oracle, turn_id, "one")

        turn_id = await held(node, oracle, "two")
        await node.baa("service", "restart", "--service", "codexd")
        assert await node.main_pid("codexd") != second
        await completes(house, oracle, turn_id, "two")

        turn_id = await held(node, oracle, "three")
        differs = await node.lines("service", "check", BAA_CODEXD_ORPHAN_MS="700000")
        assert differs["codexd description"]["level"] == "warn"
        assert "BAA_CODEXD_ORPHAN_MS" in differs["codexd description"]["evidence"]
        said = await node.baa("service", "install", BAA_CODEXD_ORPHAN_MS="700000")
        assert "announce the hand-over" in said
        assert "BAA_CODEXD_ORPHAN_MS=700000" in (node.units / "baa-codexd.service").read_text()
        await completes(house, oracle, turn_id, "three")
        assert flaws_of(oracle.events) == []

    await node.baa("service", "uninstall")
    await node.gone()
    assert list(node.units.rglob("baa-*")) == []
    assert (node.state / "codexd.sqlite3").exists()


async def test_a_stop_also_ends_what_a_crash_of_codexd_left(house: House) -> None:
    node = house.node
    await node.baa("service", "install", "--service", "codexd", BAA_CODEXD_DRAIN_MS="1")
    async with Oracle(node) as oracle:
        turn_id = await held(node, oracle, "one")
        unit = node.units / "baa-codexd.service.d"
        unit.mkdir()
        (unit / "slow.conf").write_text("[Service]\nRestartSec=600\n")
        await asyncio.to_thread(node.systemd.run, "systemctl", "--user", "daemon-reload")
        pid = await node.main_pid("codexd")
        await asyncio.to_thread(node.systemd.run, "kill", "-9", str(pid))
        while await node.main_pid("codexd"):
            pass
        assert node.left(), "the keeper and its child go on"
        said = await node.baa("service", "stop", "--service", "codexd")
        assert "Ended what a codexd had left" in said
        await node.gone()
        (unit / "slow.conf").unlink()
        await node.baa("service", "start", "--service", "codexd")
        ended = await oracle.saw("turn.interrupted", turn_id)
        assert ended["payload"]["reason"] == "child_exited"
        house.model.release("one")

        turn_id = await held(node, oracle, "two")
        await node.baa("service", "stop", "--service", "codexd")
        await node.gone()
        await node.baa("service", "start", "--service", "codexd")
        ended = await oracle.saw("turn.interrupted", turn_id)
        assert ended["payload"]["reason"] == "daemon_stopped"
        house.model.release("two")
    await node.baa("service", "stop", "--service", "codexd")
    await node.gone()


async def test_the_worker_is_installed_with_all_services_and_drains(house: House) -> None:
    """Where the conductor leaves the work to it; without that the first of the two takes it, and the other waits."""
    node = house.node
    with (node.folder / "baa.toml").open("a") as file:
        file.write("[worker]\nembedded = false\n")
    await node.baa("node", "install", "--all-services")
    found = await node.lines("node", "check", "--all-services", "--expect-role", "leader")
    assert found["worker-runner"]["evidence"] == "the node here is active with 2 slots"
    while (await status(node))["nodes"]["active"] != 1:  # what it answers may be a second old
        pass
    await node.baa("service", "stop", "--service", "worker-runner")
    log = (node.home / "logs" / "worker-runner" / "worker-runner.jsonl").read_text()
    assert "node.draining" in log
    assert "node.gone" in log
    found = await node.lines("node", "check", "--all-services", code=1)
    assert "the node here is gone" in found["worker-runner"]["evidence"]
    while (await status(node))["nodes"]["gone"] != 1:
        pass
    await node.baa("service", "uninstall", "--all-services")
    await node.gone()


async def test_what_is_broken_is_named(house: House) -> None:
    node = house.node
    await node.baa("node", "install")

    unit = node.units / "baa-codexd.service"
    good = unit.read_text()
    unit.write_text(good.replace("KillMode=process", "KillMode=mixed"))
    found = await node.lines("service", "check", code=1)
    assert found["codexd description"]["level"] == "fail"
    assert found["codexd description"]["cure"] == "baa service install --service codexd"
    unit.write_text(good)

    found = await node.lines("service", "check", code=1, BAA_CODEXD_SERVER_COMMAND="/nowhere/codex")
    assert "binary gone" in found["codexd app-server child"]["evidence"]

    token = node.home / "state" / "tokens" / "read"
    token.chmod(0o644)
    found = await node.lines("node", "check", code=1)
    assert "0644" in found["tokens"]["evidence"]
    token.chmod(0o600)

    await node.baa("service", "stop", "--service", "codexd")
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(node.ports["codexd"])]
    other = await asyncio.to_thread(_serving, node, serve)
    try:
        found = await node.lines("service", "check", code=1)
        assert "is held by another program" in found["codexd address"]["evidence"]
        found = await node.lines("node", "check", code=1)
        assert "is held by another program" in found["codexd port"]["evidence"]
        assert "python" in found["codexd port"]["evidence"]
    finally:
        for process in psutil.Process(other.pid).children():
            process.kill()
        other.kill()
        other.wait()
    found = await node.lines("node", "check", code=1)
    assert "codexd is not on its port" in found["codexd port"]["evidence"]
    await node.baa("service", "start", "--service", "codexd")
    await node.baa("node", "check", "--expect-role", "leader", "--wait", "60")
    await node.baa("service", "uninstall")
    await node.gone()


async def test_a_standby_a_missing_address_and_a_binary_that_is_gone_are_known_by_name(
    house: House, tmp_path: Path
) -> None:
    node = house.node
    link = tmp_path / "my-codex"
    link.symlink_to(bundled_codex_path())
    node.systemd.environment["BAA_CODEXD_SERVER_COMMAND"] = str(link)
    await node.baa("node", "install")

    await node.baa("service", "stop", "--service", "conductor")
    engine = f"sqlite://{node.home}/state/engine.sqlite3"
    async with Program("conductor", tmp_path / "other", BAA_ENGINE_URL=engine, BAA_NODE_ID="other") as other:
        await other.becomes("/rolez", lambda role: role["role"] == "leader")
        await node.baa("service", "start", "--service", "conductor")
        found = await node.lines("node", "check", "--expect-role", "leader", code=1)
        assert found["conductor role"]["level"] == "fail"
        assert found["conductor role"]["evidence"] == (
            "conductor is not the leader: it is standby; the leader is other"
        )
        assert [name for name, line in found.items() if line["level"] == "fail"] == ["conductor role"]
    await node.baa("node", "check", "--expect-role", "leader", "--wait", "60")

    found = await node.lines("service", "check", code=1, BAA_STATUS_API_BASE="http://100.64.3.2:4318")
    assert found["status-api interface"]["evidence"] == "status-api address missing on this machine: 100.64.3.2"

    link.unlink()
    found = await node.lines("service", "check", code=1)
    assert [name for name, line in found.items() if line["level"] == "fail"] == ["codexd app-server child"]
    assert f"binary gone: BAA_CODEXD_SERVER_COMMAND is '{link}'" in found["codexd app-server child"]["evidence"]
    await node.baa("service", "uninstall")
    await node.gone()


async def status(node: InstalledNode) -> Json:
    """What status-api says to anybody."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        data: Json = (await http.get(f"{node.addresses['status-api']}/v1/status")).json()["data"]
    return data


def _serving(node: InstalledNode, command: list[str]) -> subprocess.Popen[bytes]:
    """Another program on codexd's port, among the services."""
    inside = ["nsenter", "--target", str(node.systemd.processes()[0].pid), "--mount", "--pid", "--", *command]
    process = subprocess.Popen(inside, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while node.ports["codexd"] not in node.listening():
        assert process.poll() is None
    return process
