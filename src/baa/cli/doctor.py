"""`baa doctor`: what is wrong with this node, and what mends it; and a bundle of that for a report, without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import re
import stat
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from baa import __version__, codex
from baa import config as configuration
from baa.api.errors import BaaError, CannotStart
from baa.api.status import Status
from baa.cli import lines
from baa.cli.demo_sandbox import probe
from baa.cli.plain import json_line, plain
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable, published
from baa.codexd.leftovers import keeper_of
from baa.config import Config, settings
from baa.http.ports import holder_of
from baa.runtime import checks, verify
from baa.runtime.checks import Line

LOG_LINES: Final = 200
SECRET_WORDS: Final = re.compile(r"token|secret|key|password|authorization", re.IGNORECASE)
HIDDEN: Final = "(hidden)"


def doctor(*, bundle: Path | None, config: Path | None, json: bool) -> int:
    """Look at everything; the exit code is 0 only if nothing failed."""
    try:
        found = configuration.load(config)
    except CannotStart as refused:
        return lines.show(
            [Line("fail", "configuration", refused.message, "mend the file, or the variable")], as_json=json
        )
    place, _ = settings(config)
    there = str(place) if place.exists() else f"no file ({place}): all is the default"
    told = [Line("ok", "configuration", there), verify.supported(), checks.child(found), *_sandbox(found)]
    told += [*_permissions(found), *_ports(found), *verify.machine_checks(found), *asyncio.run(_codexd(found))]
    if bundle is not None:
        written = _bundle(bundle, found, config, told)
        told.append(Line("ok", "bundle", f"{written}: look into it before you send it"))
    return lines.show(told, as_json=json)


async def _codexd(config: Config) -> list[Line]:
    """What a running codexd says of its child, its login and what was left."""
    try:
        async with asyncio.timeout(verify.PROBE_S), Codexd(config, scope="read", patience_s=0) as asked:
            status = await asked.status()
    except Unreachable as away:
        return [Line("warn", "codexd", away.message, "baa up, or baa service start"), _left(config)]
    except (BaaError, CannotStart) as refused:
        return [Line("fail", "codexd", refused.message, "do what it says")]
    except TimeoutError:
        return [Line("fail", "codexd", "it does not answer in time", "baa logs --service codexd")]
    told = msgspec.to_builtins(status)
    answer = verify.Answer(status=200, data=told)
    return [_daemon(status), *verify.codex_lines(answer)]


def _daemon(status: Status) -> Line:
    daemon, counts = status.daemon, status.counts
    evidence = f"pid {daemon.pid}, {daemon.version}, {daemon.state.value}; {counts.sessions} sessions"
    return Line(
        "ok", "codexd", f"{evidence}, {counts.turns_running} turns running, {counts.open_interactions} questions"
    )


def _left(config: Config) -> Line:
    """Whether keepers run although no codexd answers; only then is it asked, for asking touches their locks."""
    folders = sorted((config.state_dir / "keepers").glob("*"))
    held = [keeper for folder in folders if folder.is_dir() and (keeper := keeper_of(folder)) is not None]
    if not held:
        return Line("ok", "leftovers", "nothing runs that a codexd left")
    pids = ", ".join(str(keeper.pid) for keeper in held)
    evidence = f"Codex runs on without codexd (keeper {pids}): the next codexd takes it over"
    return Line("warn", "leftovers", evidence, "start codexd; or end it: python -m baa.codexd --end-leftovers")


def _sandbox(config: Config) -> list[Line]:
    """Whether Codex can confine a command here; tried in folders that are gone afterwards."""
    try:
        program = codex.find(config.server_command)
    except codex.NoProgram:
        return []  # the line of the child says so
    with tempfile.TemporaryDirectory(prefix="baa-doctor-") as folder:
        environment = os.environ | {"CODEX_HOME": folder}
        try:
            missing = asyncio.run(probe(program, environment, Path(folder)))
        except OSError as error:
            return [Line("fail", "sandbox", f"it cannot be tried: {error}", "run `codex sandbox -- true` by hand")]
    if missing is None:
        return [Line("ok", "sandbox", "Codex can confine a command")]
    return [Line("fail", "sandbox", missing.cause, missing.cure)]


def _permissions(config: Config) -> list[Line]:
    """Whether others can read what is this user's only."""
    told = [checks.tokens(config)] if config.tokens_dir.exists() else []
    for name, folder in (("state folder", config.state_dir), ("CODEX_HOME", config.codex_home)):
        try:
            mode = stat.S_IMODE(folder.stat().st_mode)
        except FileNotFoundError:
            continue
        if mode & 0o077:
            told.append(
                Line("fail", name, f"{folder} has mode {mode:04o}: others can look into it", f"chmod 700 '{folder}'")
            )
        else:
            told.append(Line("ok", name, f"{folder}, for this user only"))
    return told


def _ports(config: Config) -> list[Line]:
    """Who listens where the programs do, or would."""
    where = published(config)
    told = []
    for name, address, program in (
        ("codexd", config.address, where.codexd),
        ("conductor", config.conductor_address, where.conductor),
        ("status-api", config.status_api_address, where.status_api),
    ):
        if address.port == 0:
            told.append(Line("ok", f"{name} port", "any free one, chosen at its start"))
            continue
        holder = holder_of(address.host, address.port)
        if holder is None:
            told.append(Line("ok", f"{name} port", f"{address.url}: nobody listens"))
        elif program is not None and holder.pid == program.pid:
            told.append(Line("ok", f"{name} port", f"{address.url}: {name} itself, {holder.told}"))
        elif checks.is_service(holder, name):
            evidence = f"{address.url}: another {name}, {holder.told}, not of {config.home}"
            told.append(Line("warn", f"{name} port", evidence, "stop it, or give this node other ports"))
        else:
            told.append(Line("fail", f"{name} port", f"{address.url} is held by {holder.told}", holder.cure))
    return told


# --- the bundle


def _bundle(path: Path, config: Config, file: Path | None, told: list[Line]) -> Path:
    """Write what helps whoever reads a bug report: versions, settings, the lines above, and logs without content."""
    parts = {
        "about.json": json_line(
            {
                "baa": __version__,
                "python": sys.version,
                "platform": platform.platform(),
                "settings": [_hidden_setting(each) for each in settings(file)[1]],
            }
        ),
        "doctor.json": json_line([msgspec.to_builtins(line) for line in told]),
    }
    for program in ("codexd", "conductor", "status-api", "worker-runner"):
        log = config.logs_of(program) / f"{program}.jsonl"
        if log.is_file():
            last = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
            parts[f"{program}.jsonl"] = "\n".join(map(_hidden_line, last))
    target = path if path.suffix else path.with_suffix(".tar.gz")
    secrets = _secrets(config)
    try:
        with tarfile.open(target, "x:gz") as archive:
            for name, text in parts.items():
                data = _without(text, secrets).replace(os.path.expanduser("~"), "~").encode()
                entry = tarfile.TarInfo(f"baa-doctor/{name}")
                entry.size, entry.mode = len(data), 0o600
                archive.addfile(entry, io.BytesIO(data))
        target.chmod(0o600)
    except OSError as error:
        raise CannotStart(f"{target} cannot be written: {error.strerror}.", exit_code=73) from None
    return target


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _hidden_setting(setting: configuration.Setting) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(setting)
    if SECRET_WORDS.search(setting.key) or setting.key == "engine_url":
        told["value"] = HIDDEN if setting.value else setting.value
    return told


def _hidden_line(line: str) -> str:
    """A line of a log: our own fields, and of texts only how long they are."""
    try:
        entry = json.loads(line)
    except ValueError:
        return plain(line)
    if not isinstance(entry, dict):
        return HIDDEN
    return json_line({key: HIDDEN if SECRET_WORDS.search(key) else value for key, value in entry.items()})


def _secrets(config: Config) -> list[str]:
    """What must stand nowhere in a bundle, whatever wrote it there."""
    found = []
    for name in ("read", "drive"):
        try:
            found.append((config.tokens_dir / name).read_text().strip())
        except OSError:
            continue
    found.append(os.environ.get("BAA_SHARED_TOKEN", ""))
    try:
        auth = json.loads((config.codex_home / "auth.json").read_text())
        found += [value for value in _strings(auth) if len(value) >= 16]
    except (OSError, ValueError):
        pass
    return [secret for secret in found if secret]


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [each for below in value.values() for each in _strings(below)]
    if isinstance(value, list):
        return [each for below in value for each in _strings(below)]
    return []
