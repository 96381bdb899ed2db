"""The live checks of a node: what its machine is like and what its programs answer. Gathered first, decided pure."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
from msgspec import Struct

from baa.api.errors import BaaError, CannotStart
from baa.api.status import Support
from baa.client.conductor import Conductor
from baa.client.discovery import Unreachable, address_of
from baa.config import Config
from baa.http.ports import Holder, holder_of
from baa.runtime.checks import Line, is_service
from baa.runtime.services import Service

PROBE_S: Final = 3.0
"""Seconds for an answer: `/readyz` itself may take two."""

DISK_FAIL: Final = 500 * 1024**2
DISK_WARN: Final = 5 * 1024**3

LINGER: Final = Path("/var/lib/systemd/linger")
"""A file for each user whose services outlive the login (`loginctl enable-linger`)."""

EARLIEST: Final = datetime(2026, 3, 23, tzinfo=UTC)
"""No clock that is right says less: nothing of this is older than the commit that it began with."""

PATHS: Final = {
    "conductor": ("/healthz", "/readyz", "/rolez"),
    "codexd": ("/healthz", "/v1/codexd/status"),
    "status-api": ("/healthz", "/v1/status"),
}
"""What is probed of each program, and nothing else."""


class Answer(Struct, frozen=True, kw_only=True):
    """What came back: status 0 = nothing; `data` is the envelope's, or the error of a failure."""

    status: int = 0
    data: dict[str, Any] = {}
    why: str = ""


async def live_checks(config: Config, services: Iterable[Service], *, expect_role: str = "any") -> list[Line]:
    """Ask every program of `services`, all at once. Never asks anything else."""
    names = [service.name for service in services]
    async with httpx2.AsyncClient(trust_env=False, timeout=PROBE_S) as http, asyncio.TaskGroup() as tasks:
        asked = {
            (name, path): tasks.create_task(_ask(http, _address(config, name), path), name=f"{name} {path}")
            for name in names
            for path in PATHS.get(name, ())
        }
        nodes = tasks.create_task(_nodes(config), name="nodes") if "worker-runner" in names else None
    answers = {place: task.result() for place, task in asked.items()}
    lines: list[Line] = []
    for name in names:
        if name == "worker-runner":
            assert nodes is not None
            lines.append(worker(config.node_id, nodes.result()))
            continue
        lines += program(name, _address(config, name), answers, await asyncio.to_thread(_holder, config, name))
        if name == "conductor":
            lines.append(role(answers[name, "/rolez"], expect_role))
        if name == "codexd":
            lines += codex_lines(answers[name, "/v1/codexd/status"])
    return lines


def machine_checks(config: Config, *, linger: Path = LINGER) -> list[Line]:
    """Disk, clock and, on Linux, whether services outlive the login."""
    above = next(path for path in (config.home, *config.home.parents) if path.exists())
    lines = [disk(above, shutil.disk_usage(above).free), clock(datetime.now(UTC))]
    if sys.platform == "linux":
        lines.append(lingers(getpass.getuser(), linger))
    return lines


# --- gathering


async def _ask(http: httpx2.AsyncClient, address: str | None, path: str) -> Answer:
    if address is None:
        return Answer(why="it has not said where it listens")
    try:
        answer = await http.get(f"{address}{path}")
        told = msgspec.json.decode(answer.content, type=dict[str, Any])
        return Answer(status=answer.status_code, data=told["data"] if answer.status_code == 200 else told["error"])
    except httpx2.ConnectError:
        return Answer(why="nobody listens there")
    except httpx2.HTTPError as error:
        return Answer(why=str(error) or type(error).__name__)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError):
        return Answer(why="what answers there is not a program of baa-conductor")


async def _nodes(config: Config) -> Answer:
    try:
        async with asyncio.timeout(PROBE_S), Conductor(config, scope="read") as conductor:
            return Answer(status=200, data={"nodes": msgspec.to_builtins(await conductor.nodes())})
    except (BaaError, CannotStart, Unreachable) as failed:
        return Answer(why=failed.message)
    except TimeoutError:
        return Answer(why="it takes too long")


def _address(config: Config, name: str) -> str | None:
    return address_of(config, "status_api" if name == "status-api" else name)  # type: ignore[arg-type]


def _holder(config: Config, name: str) -> Holder | None:
    configured = {"codexd": config.address, "conductor": config.conductor_address}
    address = configured.get(name, config.status_api_address)
    return None if address.port == 0 else holder_of(address.host, address.port)


# --- deciding, pure


def program(
    name: str, address: str | None, answers: dict[tuple[str, str], Answer], holder: Holder | None
) -> list[Line]:
    """What the answers of one program mean; `holder`: who listens on its port."""
    where = address or "an unknown port"
    if holder is not None and not is_service(holder, name):
        cure = f"{holder.cure}, or configure another port, then baa service restart"
        return [Line("fail", f"{name} port", f"{where} is held by another program: {holder.told}", cure)]
    start = f"baa service start --service {name}"
    healthz = answers[name, "/healthz"]
    if healthz.status == 0 and holder is None:
        return [Line("fail", f"{name} port", f"{name} is not on its port: {where}: {healthz.why}", start)]
    return [_answered(name, path, where, answers[name, path]) for path in PATHS[name]]


def _answered(name: str, path: str, where: str, answer: Answer) -> Line:
    what = f"{name} {path}"
    if answer.status == 200:
        return Line("ok", what, f"{where}{path} answers {_short(path, answer.data)}")
    if answer.status == 0:
        restart = f"baa service logs --service {name}, then baa service restart --service {name}"
        return Line("fail", what, f"{where}{path}: {answer.why}", restart)
    message = str(answer.data.get("message", ""))
    cure = "mend what it names" if message else f"baa service logs --service {name}"
    return Line("fail", what, f"{where}{path} answers {answer.status}: {message}", cure)


def _short(path: str, data: dict[str, Any]) -> str:
    match path:
        case "/rolez":
            return f"{data.get('role')}, term {data.get('term')}"
        case "/v1/codexd/status":
            return f"child {_part(data, 'child').get('state')}"
        case "/v1/status":
            return "stale" if data.get("stale") else "fresh"
        case _:
            return str(data.get("status"))


def _part(data: dict[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    return part if isinstance(part, dict) else {}


def role(answer: Answer, expected: str) -> Line:
    """Whether this conductor leads, where that is expected."""
    found = str(answer.data.get("role", "unknown")) if answer.status == 200 else "unknown"
    if expected == "leader" and found != "leader":
        leader = answer.data.get("leaderId") or "unknown"
        evidence = f"conductor is not the leader: it is {found}; the leader is {leader}"
        return Line("fail", "conductor role", evidence, "stop the other conductor, or check with --expect-role any")
    return Line("ok", "conductor role", f"{found}, expected {expected}")


TESTED: Final[dict[str, str]] = {
    Support.KNOWN: ", a release that codexd is tested with",
    Support.NEWER: ", newer than the releases that codexd is tested with",
    Support.OLDER: ", not among the releases that codexd is tested with",
    Support.UNKNOWN: ", which says nothing of what it can do",
}


def codex_lines(answer: Answer) -> list[Line]:
    """Codex's version and login, as codexd tells them."""
    if answer.status != 200:
        return []
    child, account = _part(answer.data, "child"), _part(answer.data, "codex")
    version, problem = child.get("codexVersion"), child.get("problem")
    if problem:
        lines = [Line("fail", "Codex", str(problem), "do what it says; codexd looks again by itself")]
    elif version:
        tested = TESTED.get(str(child.get("support")), "")
        lines = [Line("ok", "Codex", f"version {version}, {child.get('state')}{tested}")]
    else:
        lines = [Line("warn", "Codex", f"no version yet: the child is {child.get('state')}", "baa service logs")]
    if account.get("loggedIn") is False:
        evidence = "not logged in: a turn is answered codex_not_logged_in"
        lines.append(Line("warn", "Codex login", evidence, "baa login"))
    elif account.get("loggedIn"):
        lines.append(Line("ok", "Codex login", "logged in, or none is needed"))
    else:
        lines.append(Line("ok", "Codex login", "Codex has not said whether it needs one"))
    return lines


def worker(node_id: str, answer: Answer) -> Line:
    """Whether this node's worker-runner is alive in the conductor's table."""
    start = "baa service start --service worker-runner"
    if answer.status != 200:
        evidence = f"the conductor does not tell its nodes: {answer.why or answer.data.get('message')}"
        return Line("fail", "worker-runner", evidence, "baa service start --service conductor")
    found = [node for node in answer.data.get("nodes", []) if node.get("nodeId") == node_id]
    if not found:
        return Line("fail", "worker-runner", f"the node {node_id} never registered", start)
    state, slots = found[0].get("state"), found[0].get("slots")
    if state != "active":
        return Line(
            "fail", "worker-runner", f"the node {node_id} is {state}, last seen {found[0].get('seenAt')}", start
        )
    return Line("ok", "worker-runner", f"the node {node_id} is active with {slots} slots")


def disk(folder: Path, free: int) -> Line:
    """Whether there is room for the log and for work. `free` in bytes."""
    told_free = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < DISK_FAIL:
        return Line("fail", "disk", told_free, "make room: codexd refuses work on a full disk")
    if free < DISK_WARN:
        return Line("warn", "disk", told_free, "make room soon")
    return Line("ok", "disk", told_free)


def clock(now: datetime) -> Line:
    """Whether the clock can be right. No deadline depends on it; the times that people read do."""
    shown = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < EARLIEST:
        return Line(
            "fail", "clock", f"{shown} is before any of this was written", "set the clock: timedatectl set-ntp true"
        )
    return Line("ok", "clock", shown)


def lingers(user: str, folder: Path) -> Line:
    """Whether this user's services run on after a logout, and start with the machine."""
    if (folder / user).exists():
        return Line("ok", "linger", f"services of {user} outlive the login")
    evidence = f"no linger: services of {user} end at logout and do not start with the machine"
    return Line("warn", "linger", evidence, f"loginctl enable-linger {user}")


def supported(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Line:
    """Whether this Python is one that baa runs on."""
    shown = ".".join(map(str, version))
    if version < (3, 11):
        return Line("fail", "Python", f"{shown} is too old", "install Python 3.11 or newer")
    return Line("ok", "Python", f"{shown} at {sys.executable}, as user id {os.getuid()}")
