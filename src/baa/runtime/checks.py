"""The static checks: what can be said of a node without asking a program of ours anything.

Each line names the thing that was checked, says what was found, and, where it is not well, what mends it.
"""

from __future__ import annotations

import os
import plistlib
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal
from xml.parsers.expat import ExpatError

import psutil
from msgspec import Struct

from baa import codex
from baa.api.errors import CannotStart
from baa.config import Address, Config
from baa.http.ports import Holder, holder_of
from baa.http.tokens import load_tokens
from baa.runtime.hosts import Host
from baa.runtime.services import MODULES, OF_THE_SHELL, Service, settings_in_unit

Level = Literal["ok", "warn", "fail"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warn", "fail")


class Line(Struct, frozen=True):
    """One thing that was checked. `cure`: the command, or the deed, that mends it; None where nothing is wrong."""

    level: Level
    name: str
    evidence: str
    cure: str | None = None


def failed(lines: Iterable[Line]) -> bool:
    """Whether anything that must hold does not."""
    return any(line.level == "fail" for line in lines)


def static_checks(config: Config, services: Iterable[Service], host: Host) -> list[Line]:
    """All lines for `services` as they are installed with `host`."""
    return [line for service in services for line in _service(config, service, host)]


def _service(config: Config, service: Service, host: Host) -> Iterator[Line]:
    yield _description(service, host)
    yield _interpreter(service)
    match service.name:
        case "codexd":
            yield port("codexd address", config.address, "codexd")
            yield Line("ok", "codexd event stream path", f"{config.event_stream_path} (page, server-sent events, WS)")
            yield folder("codexd logs folder", config.logs_dir, private=False)
            yield folder("codexd state folder", config.state_dir, private=True)
            yield child(config, _installed(service, host).get("PATH"))
            yield tokens(config)
        case "conductor":
            yield port("conductor address", config.conductor_address, "conductor")
            yield engine(config, "conductor")
        case "status-api":
            yield interface(config)
            yield port("status-api address", config.status_api_address, "status-api")
        case _:
            yield engine(config, "worker-runner")
    yield _control_api_base(config, service, host)


def engine(config: Config, program: str) -> Line:
    """Where the engine's database is; a server is asked by the program itself, and `/readyz` tells its answer."""
    file = config.engine_file
    if file is None:
        return Line("ok", f"{program} engine", f"{config.engine_place}, which `baa node check` asks for by /readyz")
    return folder(f"{program} engine folder", file.parent, private=False)


def _install(service: Service) -> str:
    return f"baa service install --service {service.name}"


def _description(service: Service, host: Host) -> Line:
    """The installed description against the one that would be written now."""
    name, path = f"{service.name} description", host.path(service)
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return Line("fail", name, f"{path} is not there", _install(service))
    except OSError as error:
        return Line("fail", name, f"{path} cannot be read: {error.strerror}", f"chmod 600 '{path}'")
    wanted = host.render(service)
    if found == wanted:
        return Line("ok", name, str(path))
    theirs, ours = _settings(found), _settings(wanted)
    if theirs is None or ours is None or theirs[1] != ours[1]:
        return Line(
            "fail", name, f"{path} is not as baa writes it: it was edited, or another release's", _install(service)
        )
    differ = {key for key in theirs[0] | ours[0] if theirs[0].get(key) != ours[0].get(key)}
    shown = ", ".join(sorted(differ)) or "the order of its lines"
    if "BAA_CONTROL_API_BASE" not in ours[0]:
        differ -= {"BAA_CONTROL_API_BASE"}
    differ -= set(OF_THE_SHELL)
    if not differ:
        return Line("ok", name, f"{path}, as it was installed (from here it would differ in {shown})")
    return Line("warn", name, f"{path} holds other settings than the configuration: {shown}", _install(service))


def _settings(description: bytes) -> tuple[dict[str, str], Any] | None:
    """The variables in a description, and all the rest of it; None if it cannot be read."""
    if not description.startswith(b"<?xml"):
        return settings_in_unit(description.decode("utf-8", "replace"))
    try:
        job: dict[str, Any] = plistlib.loads(description)
        variables = job.pop("EnvironmentVariables", {})
    except (plistlib.InvalidFileException, ExpatError, ValueError, AttributeError):
        return None
    return dict(variables), job


def _installed(service: Service, host: Host) -> dict[str, str]:
    """The variables with which it is installed; none, if it is not."""
    try:
        settings = _settings(host.path(service).read_bytes())
    except OSError:
        settings = None
    return settings[0] if settings else {}


def _interpreter(service: Service) -> Line:
    python = Path(service.argv[0])
    if os.access(python, os.X_OK):
        return Line("ok", f"{service.name} program", " ".join(service.argv))
    return Line("fail", f"{service.name} program", f"{python} is gone or not executable", "install baa-conductor again")


def port(name: str, address: Address, service: str) -> Line:
    """Whether the port is free, or held by the service itself."""
    if address.port == 0:
        return Line("fail", name, "port 0 is taken anew at each start", "configure a port for an installed service")
    holder = holder_of(address.host, address.port)
    if holder is None:
        return Line("ok", name, f"{address.url}, free")
    if is_service(holder, service):
        return Line("ok", name, f"{address.url}, held by {service} (pid {holder.pid})")
    cure = f"{holder.cure}, or configure another port"
    return Line("fail", name, f"port {address.port} is held by another program: {holder.told}", cure)


def is_service(holder: Holder, service: str) -> bool:
    """Whether that process is the program of `service`."""
    return MODULES[service] in holder.argv


def interface(config: Config) -> Line:
    """Whether this machine has status-api's address."""
    name, host = "status-api interface", config.status_api_address.host
    found = {address.address.partition("%")[0] for every in psutil.net_if_addrs().values() for address in every}
    if host in found or host.startswith("127.") or host == "::1":
        return Line("ok", name, f"{host} is an address of this machine")
    cure = (
        "bring that network up (for a tailnet: tailscale up), or set BAA_STATUS_API_BASE to an address of this machine"
    )
    return Line("fail", name, f"status-api address missing on this machine: {host}", cure)


def folder(name: str, path: Path, *, private: bool) -> Line:
    """Whether the folder is there, or can be made, for its owner only if it is `private`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        above = next(parent for parent in path.parents if parent.exists())
        if os.access(above, os.W_OK | os.X_OK):
            return Line("ok", name, f"{path} will be made at the first start")
        return Line(
            "fail", name, f"{path} cannot be made: {above} is not yours to write", f"sudo chown $USER '{above}'"
        )
    except OSError as error:
        return Line("fail", name, f"{path}: {error.strerror}", f"ls -ld '{path}'")
    if not stat.S_ISDIR(found.st_mode):
        return Line("fail", name, f"{path} is not a folder", f"mv '{path}' '{path}.old'")
    if not os.access(path, os.W_OK | os.X_OK):
        return Line("fail", name, f"{path} cannot be written", f"sudo chown -R $USER '{path}'")
    if private and found.st_mode & 0o077:
        return Line(
            "warn", name, f"{path} is open to others ({stat.S_IMODE(found.st_mode):04o})", f"chmod 700 '{path}'"
        )
    return Line("ok", name, str(path))


def child(config: Config, path: str | None = None) -> Line:
    """The configuration of codexd's child: a program that is there (by the PATH `path`), run as an app-server."""
    name = "codexd app-server child"
    if config.server_args[:1] != ("app-server",):
        shown = " ".join(config.server_args) or "nothing"
        return Line("fail", name, f"the child's arguments are {shown}", "set BAA_CODEXD_SERVER_ARGS=app-server")
    try:
        program = codex.find(config.server_command, path)
    except codex.NoProgram as missing:
        return Line("fail", name, f"binary gone: {missing}", "pip install 'baa-conductor[codex]'")
    return Line("ok", name, f"{program} {' '.join(config.server_args)}, CODEX_HOME {config.codex_home}")


def tokens(config: Config) -> Line:
    """The token files: there, whole, and nobody else's."""
    if not config.tokens_dir.exists():
        return Line("ok", "tokens", f"{config.tokens_dir} will be made at the first start")
    try:
        load_tokens(config.tokens_dir)
    except CannotStart as wrong:
        return Line("fail", "tokens", wrong.message, f"rm -r '{config.tokens_dir}', then baa service restart")
    return Line("ok", "tokens", f"{config.tokens_dir}: read and drive, for this user only")


def _control_api_base(config: Config, service: Service, host: Host) -> Line:
    """What is installed against what is asked for; without either there is nothing to compare."""
    name = f"{service.name} control API base"
    installed = _installed(service, host).get("BAA_CONTROL_API_BASE", "")
    if config.control_api_base and installed != config.control_api_base:
        evidence = f"BAA_CONTROL_API_BASE is {installed or 'not set'}, and {config.control_api_base} was asked for"
        return Line("fail", name, evidence, f"{_install(service)} --control-api-base {config.control_api_base}")
    return Line("ok", name, installed or "not set (nothing depends on it)")
