"""What the services of a node are, and how each service manager is told so. Pure: settings in, text out.

One description, two renderers: systemd user units and launchd property lists.
"""

from __future__ import annotations

import math
import plistlib
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from baa.api.errors import CannotStart
from baa.config import Config
from baa.config_file import WORKTREES

SERVICES: Final = ("conductor", "codexd", "status-api", "worker-runner")
DEFAULT_SET: Final = ("conductor", "codexd", "status-api")
MODULES: Final = {
    "conductor": "baa.conductor",
    "codexd": "baa.codexd",
    "status-api": "baa.status_api",
    "worker-runner": "baa.worker",
}
ABOUT: Final = {
    "conductor": "the task queue's leader of baa-conductor",
    "codexd": "Codex, hosted by baa-conductor",
    "status-api": "the read-only view of baa-conductor",
    "worker-runner": "runs queued tasks of baa-conductor",
}

DRAIN_MS: Final = 30_000
"""How long a service lets running turns go on before a stop interrupts them, unless the configuration says more."""

LEAVE_S: Final = 20
"""Seconds for attempts that a stop cancels, and for the queue to let go of them."""

STOP_S: Final = 15
"""Seconds for the other programs to stop; and for codexd beside its own budget."""

WATCHDOG_S: Final = 30
RESTART_S: Final = 2
THROTTLE_S: Final = 10
FINAL_EXITS: Final = (64, 73, 78)
"""Exit codes after which another start would fail alike: the settings or the machine must be changed first."""

OF_THE_SHELL: Final = ("PATH", "LANG", "LC_ALL", "XDG_CONFIG_HOME")
"""What a service takes of the shell that it is installed from: how to find programs, its language, and baa.toml."""

EX_USAGE: Final = 64


class Service(Struct, frozen=True, kw_only=True):
    """One program as a service; all paths are absolute."""

    name: str
    about: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    logs: Path
    stop_seconds: int

    @property
    def unit(self) -> str:
        """The name of its systemd unit's file."""
        return f"baa-{self.name}.service"

    @property
    def label(self) -> str:
        """Its launchd label; the file's name is this and .plist."""
        return f"baa-conductor.{self.name}"


def chosen(names: Iterable[str], *, all_services: bool) -> tuple[str, ...]:
    """What `--service` and `--all-services` mean; without either the default set. Raises CannotStart (64)."""
    asked = tuple(dict.fromkeys(names))
    unknown = [name for name in asked if name not in SERVICES]
    if unknown:
        raise CannotStart(
            f"There is no service {', '.join(unknown)}. There are: {', '.join(SERVICES)}.", exit_code=EX_USAGE
        )
    return SERVICES if all_services else asked or DEFAULT_SET


def describe(
    config: Config,
    names: Iterable[str],
    *,
    python: Path,
    environ: Mapping[str, str],
    config_file: Path | None = None,
    beside: Iterable[str] = (),
) -> tuple[Service, ...]:
    """The services `names` with this configuration. Of `environ` only OF_THE_SHELL is taken.

    `beside` are others that the node has: where worker-runner is one, the conductor runs no tasks itself.

    Raises CannotStart (78) for a database server that only the shell knows of.
    """
    names = tuple(names)
    if "worker-runner" in (*names, *beside):
        config = msgspec.structs.replace(config, worker_embedded=False)
    if environ.get("BAA_ENGINE_URL", "").startswith("postgresql"):
        raise CannotStart(
            "BAA_ENGINE_URL names a server and may hold a password, which a service's description is no place for."
            " Write it as engine_url into baa.toml (readable for you only), unset the variable, and try again."
        )
    return tuple(_service(config, name, python, environ, config_file) for name in names)


def as_service(config: Config) -> Config:
    """The configuration as the services have it: with a drain."""
    return msgspec.structs.replace(
        config, drain_ms=config.drain_ms or DRAIN_MS, worker_drain_ms=config.worker_drain_ms or DRAIN_MS
    )


def _service(config: Config, name: str, python: Path, environ: Mapping[str, str], config_file: Path | None) -> Service:
    config = as_service(config)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "BAA_HOME": str(config.home)}
    environment |= {key: environ[key] for key in OF_THE_SHELL if environ.get(key)}
    if config_file is not None:
        environment["BAA_CONFIG"] = str(config_file.absolute())
    environment["BAA_NODE_ID"] = config.node_id
    environment |= _settings(config, name)
    if config.control_api_base:
        environment["BAA_CONTROL_API_BASE"] = config.control_api_base
    return Service(
        name=name,
        about=ABOUT[name],
        argv=(str(python), "-P", "-m", MODULES[name]),
        environment=environment,
        logs=config.logs_of(name),
        stop_seconds=math.ceil(_stop_seconds(config, name)) + STOP_S,
    )


def _stop_seconds(config: Config, name: str) -> float:
    """How long its stop takes at most."""
    if name == "codexd":
        return config.stop_seconds
    works = name == "worker-runner" or (name == "conductor" and config.worker_embedded)
    return config.worker_drain_ms / 1000 + LEAVE_S if works else 0


def _settings(config: Config, name: str) -> dict[str, str]:
    codexd = {
        "BAA_CODEXD_LOCAL_API_BASE": config.address.url,
        "BAA_CODEXD_EVENT_STREAM_PATH": config.event_stream_path,
    }
    conductor = {"BAA_CONDUCTOR_LOCAL_API_BASE": config.conductor_address.url}
    # A server's address holds its password, and a description is no place for one: it stays in the configuration file.
    engine = {"BAA_ENGINE_URL": config.engine_url} if config.engine_file else {}
    worker = {
        "BAA_WORKER_SLOTS": str(config.worker_slots),
        "BAA_WORKER_NODE_TTL_MS": str(config.node_ttl_ms),
        "BAA_WORKER_EMBEDDED": str(config.worker_embedded).lower(),
        "BAA_WORKER_DRAIN_MS": str(config.worker_drain_ms),
    }
    if config.worker_worktrees != WORKTREES:  # the default follows the ceiling
        worker["BAA_WORKER_WORKTREES"] = config.worker_worktrees
    match name:
        case "codexd":
            return codexd | {
                "BAA_CODEXD_STATE_DIR": str(config.state_dir),
                "BAA_CODEXD_LOGS_DIR": str(config.logs_dir),
                "BAA_CODEXD_CODEX_HOME": str(config.codex_home),
                "BAA_CODEXD_SERVER_COMMAND": config.server_command,
                "BAA_CODEXD_SERVER_ARGS": shlex.join(config.server_args),
                "BAA_CODEXD_ORPHAN_MS": str(config.orphan_ms),
                "BAA_CODEXD_DRAIN_MS": str(config.drain_ms),
                "BAA_CODEXD_IDLE_MS": str(config.idle_ms),
                "BAA_CODEXD_INTERACTION_DEADLINE_MS": str(config.interaction_deadline_ms),
                "BAA_CODEXD_LOG_AGE_MS": str(config.log_age_ms),
                "BAA_CODEXD_LOG_DELTA_MS": str(config.log_delta_ms),
                "BAA_CODEXD_LOG_BYTES": str(config.log_bytes),
                "BAA_CODEXD_ANSWER_MS": str(config.answer_ms),
                "BAA_CODEXD_WATCH_MS": str(config.watch_ms),
                "BAA_CODEXD_CHILD_SOFT_MIB": str(config.child_soft_mib),
                "BAA_CODEXD_CHILD_HARD_MIB": str(config.child_hard_mib),
                "BAA_CODEXD_CONNECTIONS": str(config.connections),
            }
        case "conductor":
            return conductor | codexd | engine | worker | {"BAA_CONDUCTOR_HISTORY_MS": str(config.history_ms)}
        case "status-api":
            return {"BAA_STATUS_API_BASE": config.status_api_address.url} | conductor | codexd
        case _:
            return codexd | engine | worker


# --- systemd


def systemd_unit(service: Service) -> str:
    """The user unit. `KillMode=process`: the keeper must outlive codexd in a hand-over; a stop leaves none.

    Raises CannotStart for what no unit can say.
    """
    if any(char in service.argv[0] for char in "'\"\\"):
        raise CannotStart(
            f"systemd runs no program with a quote or a backslash in its path: {service.argv[0]}. Move it."
        )
    environment = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in service.environment.items())
    program, *arguments = map(_quoted, service.argv)
    # systemd looks for variables in every word but the first.
    command = " ".join((program, *(argument.replace("$", "$$") for argument in arguments)))
    delegate = "Delegate=yes\n" if service.name == "codexd" else ""  # so that the child can have a cgroup of its own
    return f"""\
[Unit]
Description={service.about}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}\
WatchdogSec={WATCHDOG_S}
Restart=always
RestartSec={RESTART_S}
RestartPreventExitStatus={" ".join(map(str, FINAL_EXITS))}
TimeoutStartSec=90
TimeoutStopSec={service.stop_seconds}
KillMode=process
{delegate}OOMPolicy=continue
UMask=0077
LimitNOFILE=8192
LimitCORE=0

[Install]
WantedBy=default.target
"""


def _quoted(text: str) -> str:
    """As systemd reads one word: in double quotes where needed, with its specifiers made harmless."""
    if any(ord(char) < 32 for char in text):
        raise CannotStart(f"{text!r} holds a control character, which no service's description can.")
    text = text.replace("%", "%%")
    if text and not any(char in text for char in " \"'\\;"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def settings_in_unit(text: str) -> tuple[dict[str, str], list[str]]:
    """The variables in a unit of ours, as they were before they were quoted; and all its other lines."""
    lines = text.splitlines()
    words = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    rest = [line for line in lines if not line.startswith("Environment=")]
    return dict(_unquoted(word).partition("=")[::2] for word in words), rest


def _unquoted(word: str) -> str:
    if len(word) > 1 and word[0] == word[-1] == '"':
        word = re.sub(r"\\(.)", r"\1", word[1:-1])
    return word.replace("%%", "%")


# --- launchd


def launchd_plist(service: Service) -> bytes:
    """The LaunchAgent. There is no watchdog in launchd; what a job leaves in its process group is left alone."""
    output = str(service.logs / f"{service.name}.launchd.log")
    job: dict[str, Any] = {
        "Label": service.label,
        "ProgramArguments": list(service.argv),
        "EnvironmentVariables": service.environment,
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": THROTTLE_S,
        "ExitTimeOut": service.stop_seconds,
        "AbandonProcessGroup": True,
        "Umask": 0o077,
        "ProcessType": "Interactive",
        "WorkingDirectory": "/",
        "SoftResourceLimits": {"NumberOfFiles": 8192, "Core": 0},
        "StandardOutPath": output,
        "StandardErrorPath": output,
    }
    return plistlib.dumps(job, sort_keys=False)
