"""Configuration: defaults, then baa.toml, then `BAA_*` variables; the last one wins.

The file is `--config`, else `BAA_CONFIG`, else `baa.toml` in the user's config folder: never one of the working folder,
because a cloned repository must not steer what runs on its owner's machine. A key that is not known is an error.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Struct

from baa.api.errors import CannotStart
from baa.config_file import WORKTREES, Ceiling, File

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
NODE_ID: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")

FILE_MAX: Final = 64 << 10  # Characters; ours have 2000, the parser takes minutes for a megabyte made for it.

PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
"""The networks in which status-api may be seen: RFC 1918, RFC 6598 (a tailnet's) and RFC 4193."""

INTERRUPT_S: Final = 5.0
"""Seconds that running turns are given to end after turn/interrupt (Codex needs 0.02) before their child is ended."""

LADDER_S: Final = 15.0
"""Seconds for the keeper to end its child by the ladder (5 s, 3 s), to sweep and to put down how it ended."""

KILLED_S: Final = 5.0
"""Seconds for the same once it was told to kill."""


class Address(Struct, frozen=True):
    """Where a program listens; port 0 = any free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """As clients write it."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


TABLES: Final = ("codexd", "conductor", "status_api", "worker")
OWN_KEYS: Final = ("node_id", "engine_url", "control_api_base")
"""The tables and the single keys of baa.toml that are also variables."""


class Config(Struct, frozen=True, kw_only=True):
    """What the programs of a node run with; all paths are absolute. What has no prefix is codexd's or everybody's.

    `config_file` is the file that was read, or would have been: work is never done in a folder that holds it.
    `control_api_base` is kept for what was installed long ago: it is written and checked, and nothing depends on it.
    """

    home: Path
    node_id: str
    engine_url: str
    control_api_base: str
    conductor_address: Address
    status_api_address: Address
    worker_slots: int
    node_ttl_ms: int
    worker_worktrees: str
    worker_embedded: bool
    history_ms: int
    worker_drain_ms: int
    address: Address
    allowed_hosts: tuple[str, ...]
    event_stream_path: str
    state_dir: Path
    logs_dir: Path
    codex_home: Path
    server_command: str
    server_args: tuple[str, ...]
    orphan_ms: int
    drain_ms: int
    idle_ms: int
    interaction_deadline_ms: int
    log_age_ms: int
    log_delta_ms: int
    log_bytes: int
    answer_ms: int
    watch_ms: int
    child_soft_mib: int
    child_hard_mib: int
    connections: int
    ceiling: Ceiling
    config_file: Path | None = None

    @property
    def endpoint_file(self) -> Path:
        """What clients read to find the programs of this node."""
        return self.home / "state" / "endpoint.json"

    @property
    def engine_file(self) -> Path | None:
        """The file of the engine's database; None where it is on a server."""
        return Path(self.engine_url.removeprefix("sqlite://")) if self.engine_url.startswith("sqlite://") else None

    @property
    def engine_place(self) -> str:
        """The engine's database in words, without what is secret."""
        file = self.engine_file
        if file is not None:
            return f"The engine's file {file.name}"
        return f"The engine's database at {urlsplit(self.engine_url).hostname}"

    @property
    def turn_lease_ms(self) -> int:
        """How long a task's turn goes on at codexd when its worker renews it no more."""
        return 2 * self.node_ttl_ms

    @property
    def tokens_dir(self) -> Path:
        """The folder of the node's two tokens."""
        return self.home / "state" / "tokens"

    @property
    def backups_dir(self) -> Path:
        """Where backups go for which nobody names another place."""
        return self.home / "state" / "backups"

    def logs_of(self, program: str) -> Path:
        """The folder of a program's log, `program`.jsonl."""
        return self.logs_dir if program == "codexd" else self.home / "logs" / program

    @property
    def worktrees_dir(self) -> Path:
        """Where worktrees of tasks are made: codexd works in no folder outside its roots."""
        named, roots = Path(self.worker_worktrees).expanduser(), [Path(r).expanduser() for r in self.ceiling.roots]
        if self.worker_worktrees != WORKTREES or not roots or any(named.is_relative_to(root) for root in roots):
            return named
        return roots[0] / named.name

    @property
    def stop_seconds(self) -> float:
        """The longest that a stop of codexd takes: draining, interrupting, and both ladders."""
        return self.drain_ms / 1000 + INTERRUPT_S + LADDER_S + KILLED_S


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of this node; `path` is the file given on the command line.

    Raises CannotStart (78) for a file that cannot be read, an unknown key or a value that cannot be, with its place.
    """
    place, file = _file(path, environ)
    resolved = resolve(_with_environment(file, environ), environ)
    return msgspec.structs.replace(resolved, config_file=place.absolute())


class Setting(Struct, frozen=True):
    """One value that is in force, by its key in baa.toml, and where it came from: a variable, the file, or neither."""

    key: str
    value: Any
    origin: str


def settings(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> tuple[Path, list[Setting]]:
    """The file that is read, there or not, and every setting. Raises CannotStart (78)."""
    place, file = _file(path, environ)
    resolved = resolve(_with_environment(file, environ), environ)
    given = _given(place)

    def setting(key: str, value: Any, variable: str | None) -> Setting:
        there: Any = given
        for part in key.split("."):
            there = there.get(part, {}) if isinstance(there, dict) else {}
        in_file = there != {}
        origin = variable if variable and environ.get(variable) else str(place) if in_file else "default"
        return Setting(key, value, origin)

    told = _with_environment(file, environ)
    found = [setting("home", str(resolved.home), "BAA_HOME")]
    told = msgspec.structs.replace(told, engine_url=without_password(told.engine_url))
    found += [setting(name, getattr(told, name), f"BAA_{name.upper()}") for name in OWN_KEYS]
    found.append(setting("allowed_hosts", told.allowed_hosts, None))
    for table in (*TABLES, "ceiling"):
        prefix = None if table == "ceiling" else f"BAA_{table.upper()}_"
        for name, value in msgspec.structs.asdict(getattr(told, table)).items():
            found.append(setting(f"{table}.{name}", value, prefix and f"{prefix}{name.upper()}"))
    return place, found


def _file(path: Path | None, environ: Mapping[str, str]) -> tuple[Path, File]:
    """The configuration file: that of the command line, of BAA_CONFIG, or the user's, which need not be there."""
    named = path or (Path(environ["BAA_CONFIG"]) if environ.get("BAA_CONFIG") else None)
    found = named or platformdirs.user_config_path("baa-conductor", appauthor=False) / "baa.toml"
    return found, _read(found, must_exist=named is not None)


def _given(path: Path) -> dict[str, Any]:
    """What stands in the file itself."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}


def resolve(file: File, environ: Mapping[str, str]) -> Config:
    """The configuration that `file` means. Raises CannotStart (78)."""
    codexd = file.codexd
    default_home = platformdirs.user_data_path("baa-conductor", appauthor=False)
    home = Path(environ.get("BAA_HOME") or file.home or default_home).expanduser().absolute()
    if not _PATH.fullmatch(codexd.event_stream_path):
        raise CannotStart(f"event_stream_path must be a path like /v1/codexd/events, not {codexd.event_stream_path!r}.")
    if min(codexd.orphan_ms, codexd.drain_ms, codexd.idle_ms) < 0:
        raise CannotStart("orphan_ms, drain_ms and idle_ms are milliseconds: 0 or more.")
    if min(codexd.log_age_ms, codexd.log_delta_ms, codexd.log_bytes) < 0:
        raise CannotStart("log_age_ms and log_delta_ms are milliseconds, log_bytes is bytes: 0 (no limit) or more.")
    if codexd.interaction_deadline_ms < 1:
        raise CannotStart("interaction_deadline_ms is milliseconds: 1 or more. A question cannot wait for ever.")
    if min(codexd.watch_ms, codexd.answer_ms) < 1:
        raise CannotStart("watch_ms and answer_ms are milliseconds: 1 or more. A child that hangs must be found.")
    if min(codexd.child_soft_mib, codexd.child_hard_mib) < 0:
        raise CannotStart("child_soft_mib and child_hard_mib are MiB: 0 (no limit) or more.")
    if codexd.connections < 1:
        raise CannotStart("connections must be 1 or more: how many clients codexd takes at once.")
    if file.worker.node_ttl_ms < 1000:
        raise CannotStart("BAA_WORKER_NODE_TTL_MS is milliseconds: 1000 or more. A heartbeat must have time to arrive.")
    if min(file.worker.drain_ms, file.conductor.history_ms) < 0:
        raise CannotStart("BAA_WORKER_DRAIN_MS and BAA_CONDUCTOR_HISTORY_MS are milliseconds: 0 or more.")
    if file.worker.slots < 1:
        raise CannotStart("BAA_WORKER_SLOTS must be 1 or more: how many tasks a worker runs at once.")
    return Config(
        home=home,
        node_id=_node_id(file.node_id),
        engine_url=_engine_url(file.engine_url, home),
        control_api_base=_control_api_base(file.control_api_base),
        conductor_address=loopback_address(file.conductor.local_api_base, "BAA_CONDUCTOR_LOCAL_API_BASE"),
        status_api_address=private_address(file.status_api.base, "BAA_STATUS_API_BASE"),
        worker_slots=file.worker.slots,
        node_ttl_ms=file.worker.node_ttl_ms,
        worker_worktrees=_worktrees(file.worker.worktrees),
        worker_embedded=file.worker.embedded,
        history_ms=file.conductor.history_ms,
        worker_drain_ms=file.worker.drain_ms,
        address=loopback_address(codexd.local_api_base, "BAA_CODEXD_LOCAL_API_BASE"),
        allowed_hosts=tuple(file.allowed_hosts),
        event_stream_path=codexd.event_stream_path,
        state_dir=home / Path(codexd.state_dir).expanduser(),
        logs_dir=home / Path(codexd.logs_dir).expanduser(),
        codex_home=home / Path(codexd.codex_home).expanduser(),
        server_command=codexd.server_command,
        server_args=codexd.server_args,
        orphan_ms=codexd.orphan_ms,
        drain_ms=codexd.drain_ms,
        idle_ms=codexd.idle_ms,
        interaction_deadline_ms=codexd.interaction_deadline_ms,
        log_age_ms=codexd.log_age_ms,
        log_delta_ms=codexd.log_delta_ms,
        log_bytes=codexd.log_bytes,
        answer_ms=codexd.answer_ms,
        watch_ms=codexd.watch_ms,
        child_soft_mib=codexd.child_soft_mib,
        child_hard_mib=codexd.child_hard_mib,
        connections=codexd.connections,
        ceiling=file.ceiling,
    )


def loopback_address(base: str, name: str) -> Address:
    """The address in an API base such as `http://127.0.0.1:4319`. `name` is the setting's, for the error.

    Raises CannotStart (78) for anything that is not plain HTTP on a loopback address.
    """
    found = _address(base)
    if found is None or not ipaddress.ip_address(found.host).is_loopback:
        raise CannotStart(
            f"{name} must be http://127.0.0.1:PORT (or localhost, or [::1]), and is {base!r}: Codex is never offered to"
            " a network."
        )
    return found


def private_address(base: str, name: str) -> Address:
    """Like `loopback_address`, but a private address of this machine's (such as its tailnet's) passes too."""
    found = _address(base)
    address = None if found is None else ipaddress.ip_address(found.host)
    if found is None or address is None or not (address.is_loopback or any(address in net for net in PRIVATE)):
        raise CannotStart(
            f"{name} must be http://ADDRESS:PORT with a loopback or a private address (10/8, 172.16/12, 192.168/16,"
            f" 100.64/10, fc00::/7), and is {base!r}: it is not for the whole world."
        )
    return found


def _address(base: str) -> Address | None:
    """The address in plain `http://HOST:PORT`; None if it is anything else. `localhost` is 127.0.0.1."""
    try:
        parts = urlsplit(base)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        ipaddress.ip_address(host)
        port = parts.port
    except ValueError:
        return None
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    return None if parts.scheme != "http" or port is None or extra else Address(host, port)


def _node_id(given: str) -> str:
    if not given:
        name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().partition(".")[0].lower()).strip("-")[:63].strip("-")
        return name or "node"
    if not NODE_ID.fullmatch(given):
        raise CannotStart(f"BAA_NODE_ID must be 1 to 63 of a-z, 0-9, dot, dash and underscore, and is {given!r}.")
    return given


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(?<=://)([^:/@]*):[^@/]*(?=@)", r"\1:***", url)


def _engine_url(url: str, home: Path) -> str:
    """`sqlite://` and the absolute path of a file, or a server's address as it was given."""
    if not url:
        return f"sqlite://{home / 'state' / 'engine.sqlite3'}"
    kind, _, rest = url.partition("://")
    if kind == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return f"sqlite:///{rest.lstrip('/')}"  # some write an absolute path with four slashes
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and len(parts.path) > 1 and parts.port != 0
    except ValueError:
        good = False
    if kind != "postgresql" or not good or not url.isprintable() or " " in url:
        # The address may hold a password: it is not repeated.
        raise CannotStart(
            "BAA_ENGINE_URL must be empty, sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and is"
            " something else."
        )
    return url


def _worktrees(given: str) -> str:
    if not Path(given).expanduser().is_absolute():
        raise CannotStart(f"BAA_WORKER_WORKTREES must be an absolute path, or begin with ~/, and is {given!r}.")
    return given


def _control_api_base(given: str) -> str:
    try:
        parts = urlsplit(given)
        good = not given or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        good = False
    if not good or not given.isprintable() or " " in given:
        raise CannotStart(f"BAA_CONTROL_API_BASE must be an http:// or https:// address, and is {given!r}.")
    return given


def _read(path: Path, *, must_exist: bool) -> File:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(FILE_MAX + 1)
        if len(text) > FILE_MAX:
            raise CannotStart(f"The configuration file {path} has more than {FILE_MAX} characters.")
    except FileNotFoundError:
        if must_exist:
            raise CannotStart(f"The configuration file {path} does not exist.") from None
        return File()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"The configuration file {path} cannot be read: {error}") from error
    try:
        return msgspec.convert(tomllib.loads(text), File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise CannotStart(f"{path}: {str(error)[:500]}") from error


def _with_environment(file: File, environ: Mapping[str, str]) -> File:
    """`file` with the variables that are set; an empty variable counts as not set."""
    tables = {name: _set_by(environ, f"BAA_{name.upper()}_", getattr(file, name)) for name in TABLES}
    own = {name: environ[variable] for name in OWN_KEYS if environ.get(variable := f"BAA_{name.upper()}")}
    return msgspec.structs.replace(file, **tables, **own)


def _set_by(environ: Mapping[str, str], prefix: str, table: Any) -> Any:
    changed: dict[str, Any] = {}
    for field in msgspec.structs.fields(table):
        name = f"{prefix}{field.name.upper()}"
        value = environ.get(name)
        if value:
            changed[field.name] = _parsed(name, value, field.type)
    return msgspec.structs.replace(table, **changed)


def variables() -> list[str]:
    """Every `BAA_*` variable that is a setting, as the services' environment and the documents name them."""
    named = ["BAA_HOME", "BAA_CONFIG", *(f"BAA_{name.upper()}" for name in OWN_KEYS)]
    for name in TABLES:
        table = getattr(File(), name)
        named += [f"BAA_{name.upper()}_{field.name.upper()}" for field in msgspec.structs.fields(table)]
    return named


def _parsed(name: str, value: str, type_: Any) -> Any:
    try:
        if type_ is int:
            return int(value)
        if type_ is bool:
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if type_ == tuple[str, ...]:
            return msgspec.json.decode(value, type=type_) if value.startswith("[") else tuple(shlex.split(value))
    except KeyError:
        raise CannotStart(f"{name} must be true or false, and is {value!r}.") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise CannotStart(f"{name} cannot be {value!r}: {error}") from error
    return value
