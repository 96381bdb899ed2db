"""`baa node`: this machine as a node: install it whole, and check it; and the nodes of the fleet."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import App, Parameter

from baa.api.conductor import Node
from baa.api.errors import EX_UNAVAILABLE, CannotStart
from baa.cli import lines
from baa.cli.options import File, Json
from baa.cli.plain import plain
from baa.cli.remote import ask_conductor, failure
from baa.cli.service import All, Chosen, ControlBase, DryRun, Names, operator
from baa.client.discovery import Server, address_of
from baa.http.tokens import ensure_tokens, load_token
from baa.runtime import checks, verify
from baa.runtime.attack import attack as attack_node
from baa.runtime.checks import Line, failed
from baa.runtime.hosts import Systemd

app = App(name="node", help_format="markdown")

INSTALLED_WAIT_S: Final = 60
"""Seconds that the programs are given after an install: a lease of a leader that was killed must expire first."""

AGAIN_S: Final = 0.5

Role = Literal["leader", "any"]


@app.command
def check(
    *,
    expect_role: Annotated[Role, Parameter(help="What the conductor must be: leader, or any.")] = "any",
    wait: Annotated[float, Parameter(help="Seconds to look again until all is well.")] = 0,
    attack: Annotated[bool, Parameter(negative=(), help="Try to get in instead, and report each attempt.")] = False,
    linger_dir: Annotated[Path, Parameter(help="Where systemd notes users that linger.", show=False)] = verify.LINGER,
    service: Names = (),
    all_services: All = False,
    control_api_base: ControlBase = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Check this node: what is installed, and what the programs answer. Each line says what mends what is wrong.

    conductor is asked for /healthz, /readyz and /rolez, codexd for /healthz and /v1/codexd/status, status-api for
    /healthz and /v1/status. The exit code is 0 only if nothing failed.

    With --attack it tries what a stranger would, harmlessly: rebinding, requests of web pages, cross-site WebSockets,
    wrong and missing tokens, the read token where only drive may, routes that there are not. All must be refused.

    Example: `baa node check --expect-role leader`
    """
    chosen = Chosen(service, all_services, config, control_api_base)
    if attack:
        return lines.show(_attacked(chosen), as_json=json)
    return lines.show(look(chosen, expect_role, wait=wait, linger=linger_dir), as_json=json)


def _attacked(chosen: Chosen) -> list[Line]:
    """The lines of every attempt at the programs that listen."""
    try:
        read = load_token(chosen.config.tokens_dir / "read")
    except CannotStart as unusable:
        return [Line("fail", "tokens", unusable.message, "baa service start")]
    names: dict[str, Server] = {"codexd": "codexd", "conductor": "conductor", "status-api": "status_api"}
    listening = [each.name for each in chosen.services if each.name in names]
    there = [(name, address_of(chosen.config, names[name])) for name in listening]
    return asyncio.run(attack_node(there, read=read, events=chosen.config.event_stream_path))


def look(chosen: Chosen, expect_role: Role, *, wait: float, linger: Path = verify.LINGER) -> list[Line]:
    """All lines; as long as one fails and `wait` seconds have not passed, anew."""
    until = time.monotonic() + wait
    while True:
        found = checks.static_checks(chosen.config, chosen.services, chosen.host)
        found += verify.machine_checks(chosen.config, linger=linger)
        found += asyncio.run(verify.live_checks(chosen.config, chosen.services, expect_role=expect_role))
        if not failed(found) or time.monotonic() >= until:
            return found
        time.sleep(AGAIN_S)


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
    """Make this machine a node: look at what is needed, write the services, start them, and check that all is well.

    It may be done again. What it did is undone by `baa service uninstall`.

    Example: `baa node install`
    """
    chosen = Chosen(service, all_services, config, control_api_base, follow=True)
    steps: list[str] = []
    does = operator(chosen, as_json=json, dry_run=dry_run, steps=steps)
    needed = prerequisites(chosen)
    if failed(needed):
        lines.show(needed, as_json=json)
        return EX_UNAVAILABLE
    try:
        if not dry_run:
            ensure_tokens(chosen.config.tokens_dir)
        does.install(chosen.services)
    except CannotStart as refused:
        if not json:
            raise
        print(msgspec.json.encode({"ok": False, "steps": steps, "error": failure(refused)}).decode())
        return refused.exit_code
    if dry_run:
        if json:
            print(msgspec.json.encode({"ok": True, "steps": steps}).decode())
        return 0
    if not json:
        print(plain("check that all is well"), flush=True)
    return lines.show(look(chosen, "any", wait=INSTALLED_WAIT_S), as_json=json)


@app.command(name="list")
def list_nodes(*, config: File = None, json: Json = False) -> int:
    """List the nodes of the fleet: what each may run at once, and when it was last heard of.

    Example: `baa node list`
    """

    def show(nodes: list[Node]) -> None:
        rows = [
            (each.node_id, each.state.value, str(each.slots), each.version, each.seen_at[:19].replace("T", " "))
            for each in nodes
        ]
        lines.as_rows([("node", "state", "slots", "version", "seen"), *rows] if rows else [("No nodes yet.",)])

    return ask_conductor(
        lambda conductor: conductor.nodes(), show, config=config, json=json, told=lambda nodes: {"nodes": nodes}
    )


@app.command
def drain(
    node_id: Annotated[str, Parameter(help="A node, as `baa node list` names it.")],
    /,
    *,
    config: File = None,
    json: Json = False,
) -> int:
    """Give a node no further task; what runs there is finished. It ends when the node's worker is started again.

    Example: `baa node drain mac-mini`
    """
    return ask_conductor(
        lambda conductor: conductor.drain(node_id),
        lambda node: print(plain(f"{node.node_id} {node.state.value}")),
        config=config,
        json=json,
        told=lambda node: {"node": node},
    )


def prerequisites(chosen: Chosen) -> list[Line]:
    """What must hold before anything is written."""
    config, found = chosen.config, [verify.supported()]
    if isinstance(chosen.host, Systemd):
        try:
            chosen.host.reachable()
            found.append(Line("ok", "service manager", "systemd, as this user's"))
        except CannotStart as refused:
            found.append(Line("fail", "service manager", refused.message, "baa up"))
    for each in chosen.services:
        match each.name:
            case "codexd":
                found.append(checks.child(config))
                found.append(checks.folder("codexd state folder", config.state_dir, private=True))
                found.append(checks.tokens(config))
                found.append(checks.port("codexd address", config.address, "codexd"))
            case "conductor":
                found.append(checks.port("conductor address", config.conductor_address, "conductor"))
            case "status-api":
                found.append(checks.interface(config))
                found.append(checks.port("status-api address", config.status_api_address, "status-api"))
            case _:
                found.append(checks.engine(config, "worker-runner"))
    return [*found, *verify.machine_checks(config)]
