"""`baa service`: the programs of this node as services of systemd (Linux) or launchd (macOS)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import httpx2
import msgspec
from cyclopts import App, Parameter

from baa import config as configuration
from baa.api.errors import CannotStart
from baa.cli import lines, service_log
from baa.cli.options import File, Json
from baa.cli.plain import plain
from baa.cli.remote import failure
from baa.client.discovery import address_of
from baa.config import Config
from baa.runtime import services as described
from baa.runtime.checks import static_checks
from baa.runtime.hosts import Host, Launchd, Systemd, this_host
from baa.runtime.operate import Operator
from baa.runtime.services import Service
from baa.runtime.verify import PATHS

app = App(name="service", help_format="markdown")

PROBE_S: Final = 2.0

Names: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--service",
        negative=(),
        show_default=False,
        help="A service, once for each: conductor, codexd, status-api, worker-runner.",
    ),
]
All: TypeAlias = Annotated[bool, Parameter(name="--all-services", negative=(), help="All four: with worker-runner.")]
DryRun: TypeAlias = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only say what would be done.")]
ControlBase: TypeAlias = Annotated[
    str | None,
    Parameter(
        name="--control-api-base",
        show_default=False,
        help="Written as BAA_CONTROL_API_BASE, for compatibility; nothing depends on it.",
    ),
]


class Chosen:
    """What a command works on: configuration, service manager, and the services that were named."""

    def __init__(
        self,
        names: tuple[str, ...],
        all_services: bool,
        file: Path | None,
        control_api_base: str | None = None,
        host: Host | None = None,
        *,
        follow: bool = False,
    ) -> None:
        """`follow`: with worker-runner the conductor is meant too, where it is installed."""
        chosen = described.chosen(names, all_services=all_services)
        environ = dict(os.environ)
        if control_api_base:
            environ["BAA_CONTROL_API_BASE"] = control_api_base
        named = file or (Path(environ["BAA_CONFIG"]) if environ.get("BAA_CONFIG") else None)
        self.config: Config = described.as_service(configuration.load(file, environ))
        self.host = host or this_host()

        def describe(names: tuple[str, ...], beside: tuple[str, ...] = ()) -> tuple[Service, ...]:
            python = Path(sys.executable)
            return described.describe(
                self.config, names, python=python, environ=environ, config_file=named, beside=beside
            )

        found = describe(described.SERVICES) if host is None else ()  # with a host it is for another machine
        self.installed = tuple(each.name for each in found if self.host.path(each).exists())
        if follow and "worker-runner" in chosen and "conductor" in self.installed and "conductor" not in chosen:
            chosen = (*chosen, "conductor")  # it leaves the tasks to worker-runner
        self.services: tuple[Service, ...] = describe(chosen, self.installed)


def operator(chosen: Chosen, *, as_json: bool, dry_run: bool, steps: list[str]) -> Operator:
    """Does things to `chosen`, and says each step at once, or collects it for JSON."""

    def say(step: str) -> None:
        steps.append(step)
        if not as_json:
            print(plain(step), flush=True)

    return Operator(chosen.config, chosen.host, say=say, dry_run=dry_run)


Deed: TypeAlias = Literal["install", "uninstall", "reload", "restart", "start", "stop"]


def _operate(deed: Deed, chosen: Chosen, *, as_json: bool, dry_run: bool) -> int:
    steps: list[str] = []
    does = operator(chosen, as_json=as_json, dry_run=dry_run, steps=steps)
    try:
        getattr(does, deed)(chosen.services)
    except CannotStart as refused:
        if not as_json:
            raise
        print(msgspec.json.encode({"ok": False, "steps": steps, "error": failure(refused)}).decode())
        return refused.exit_code
    if as_json:
        print(msgspec.json.encode({"ok": True, "steps": steps}).decode())
    return 0


@app.command
def install(
    *,
    service: Names = (),
    all_services: All = False,
    control_api_base: ControlBase = None,
    config: File = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> int:
    """Write the services' descriptions, and start them. It may be done again: what is as it should be stays.

    Where worker-runner is installed, the conductor runs no tasks itself. codexd alone needs no shared token. Running
    turns go on when codexd is restarted by this.

    Example: `baa service install --service codexd`
    """
    chosen = Chosen(service, all_services, config, control_api_base, follow=True)
    return _operate("install", chosen, as_json=json, dry_run=dry_run)


@app.command
def uninstall(
    *, service: Names = (), all_services: All = False, config: File = None, json: Json = False, dry_run: DryRun = False
) -> int:
    """Stop the services and remove their descriptions. State and logs stay.

    Example: `baa service uninstall --all-services`
    """
    chosen = Chosen(service, all_services, config)
    code = _operate("uninstall", chosen, as_json=json, dry_run=dry_run)
    left = set(chosen.installed) - {each.name for each in chosen.services}
    if not json and "worker-runner" in set(chosen.installed) - left and "conductor" in left:
        print("The conductor left tasks to worker-runner. To let it run them: baa service install --service conductor")
    return code


@app.command
def reload(
    *, service: Names = (), all_services: All = False, config: File = None, json: Json = False, dry_run: DryRun = False
) -> int:
    """Take changed descriptions and programs, without interrupting a turn; waits for codexd's /healthz only.

    Example: `baa service reload`
    """
    return _operate("reload", Chosen(service, all_services, config), as_json=json, dry_run=dry_run)


@app.command
def restart(
    *, service: Names = (), all_services: All = False, config: File = None, json: Json = False, dry_run: DryRun = False
) -> int:
    """Restart the services. codexd is told beforehand, so that its running turns go on.

    Example: `baa service restart --service codexd`
    """
    return _operate("restart", Chosen(service, all_services, config), as_json=json, dry_run=dry_run)


@app.command
def start(
    *, service: Names = (), all_services: All = False, config: File = None, json: Json = False, dry_run: DryRun = False
) -> int:
    """Start the services that do not run.

    Example: `baa service start`
    """
    return _operate("start", Chosen(service, all_services, config), as_json=json, dry_run=dry_run)


@app.command
def stop(
    *, service: Names = (), all_services: All = False, config: File = None, json: Json = False, dry_run: DryRun = False
) -> int:
    """Stop the services. codexd lets running turns go on for its drain time, then interrupts them, and leaves nothing.

    Example: `baa service stop --service codexd`
    """
    return _operate("stop", Chosen(service, all_services, config), as_json=json, dry_run=dry_run)


@app.command
def check(
    *,
    service: Names = (),
    all_services: All = False,
    control_api_base: ControlBase = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Check what is installed, without asking a program: each line names what was checked, and what mends it.

    The exit code is 0 if nothing failed. The programs themselves are asked by `baa node check`.

    Example: `baa service check --service codexd`
    """
    chosen = Chosen(service, all_services, config, control_api_base)
    return lines.show(static_checks(chosen.config, chosen.services, chosen.host), as_json=json)


@app.command
def render(
    *,
    output: Annotated[Path, Parameter(help="The folder to write to.")],
    manager: Annotated[
        Literal["launchd", "systemd"] | None, Parameter(show_default=False, help="For which; default: this system's.")
    ] = None,
    service: Names = (),
    all_services: All = False,
    control_api_base: ControlBase = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Write the services' descriptions to a folder, to be read or installed by other means.

    Example: `baa service render --manager launchd --output ./launchd`
    """
    hosts: dict[str, type[Host]] = {"launchd": Launchd, "systemd": Systemd}
    chosen = Chosen(service, all_services, config, control_api_base, host=hosts[manager]() if manager else None)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for each in chosen.services:
        path = output / chosen.host.path(each).name
        path.write_bytes(chosen.host.render(each))
        written.append(str(path))
    print(msgspec.json.encode({"ok": True, "files": written}).decode() if json else "\n".join(map(plain, written)))
    return 0


@app.command
def status(
    *,
    service: Names = (),
    all_services: All = False,
    skip_http: Annotated[bool, Parameter(negative=(), help="Do not ask the programs.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """What the service manager says of each service, and what the program answers: for codexd /healthz and its status.

    Example: `baa service status --skip-http`
    """
    chosen = Chosen(service, all_services, config)
    told: dict[str, Any] = {}
    for each in chosen.services:
        state = chosen.host.state(each)
        http = {} if skip_http else {path: _probe(chosen.config, each.name, path) for path in PATHS.get(each.name, ())}
        told[each.name] = {"manager": state, "http": http}
        if json:
            continue
        pid = "" if state.pid is None else f"pid {state.pid}"
        restarts = "" if state.restarts is None else f"restarts {state.restarts}"
        installed = "installed" if state.installed else "not installed"
        print(plain("  ".join(part for part in (each.name, installed, state.active, pid, restarts) if part)))
        lines.as_rows((f"  {path}", answer) for path, answer in http.items())
    if json:
        print(msgspec.json.encode({"ok": True, "services": told}).decode())
    return 0


def _probe(config: Config, name: str, path: str) -> str:
    address = address_of(config, "status_api" if name == "status-api" else name)  # type: ignore[arg-type]
    if address is None:
        return "unknown address"
    try:
        answer = httpx2.get(f"{address}{path}", timeout=PROBE_S, trust_env=False)
    except httpx2.HTTPError as error:
        return f"no answer at {address} ({type(error).__name__})"
    return f"{answer.status_code} {answer.text[:2000]}"


@app.command
def logs(
    *,
    service: Names = (),
    all_services: All = False,
    number: Annotated[int, Parameter(name="--lines", help="How many of each program's last lines.")] = 50,
    follow: Annotated[bool, Parameter(negative=(), help="Go on with what is written, until Ctrl-C.")] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """The programs' logs: time, program, what happened; `--json` gives the lines as they were written.

    Example: `baa service logs --service codexd --follow`
    """
    chosen = Chosen(service, all_services, config)
    files = {each.name: chosen.config.logs_of(each.name) / f"{each.name}.jsonl" for each in chosen.services}
    return service_log.show(files, number=number, follow=follow, as_json=json)
