"""Configuration: defaults, then baa.toml, then `BAA_*` variables; the last one wins.

The file is `--config`, else `BAA_CONFIG`, else `baa.toml` in the user's config folder: never one of the working folder,
because a cloned repository must not steer what runs on its owner's machine. A key that is not known is an error.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Struct

from baa.api.errors import CannotStart
from baa.api.sessions import Sandbox

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")

CODEXD_API: Final = "http://127.0.0.1:4319"


class Address(Struct, frozen=True):
    """Where a program listens: a loopback address; port 0 = any free one."""

    host: str
    port: int


class Ceiling(Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a request may ask for. `roots`: the folders in which work may be done."""

    sandbox: Sandbox = Sandbox.WORKSPACE_WRITE
    roots: tuple[str, ...] = ("~",)


class CodexdFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[codexd]` of baa.toml; each key is also a variable, `BAA_CODEXD_` and the key in capitals."""

    local_api_base: str = CODEXD_API
    event_stream_path: str = "/v1/codexd/events"
    state_dir: str = "state/codexd"
    logs_dir: str = "logs/codexd"
    codex_home: str = "state/codexd/codex-home"
    server_command: str = "codex"
    server_args: tuple[str, ...] = ("app-server",)
    orphan_ms: int = 600_000
    drain_ms: int = 0


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """baa.toml."""

    home: str | None = None
    allowed_hosts: list[str] = []
    codexd: CodexdFile = CodexdFile()
    ceiling: Ceiling = Ceiling()


class Config(Struct, frozen=True):
    """What codexd runs with; all paths are absolute."""

    home: Path
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
    ceiling: Ceiling

    @property
    def endpoint_file(self) -> Path:
        """What clients read to find the programs of this node."""
        return self.home / "state" / "endpoint.json"

    @property
    def tokens_dir(self) -> Path:
        """The folder of the node's two tokens."""
        return self.home / "state" / "tokens"


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of this node; `path` is the file given on the command line.

    Raises CannotStart (78) for a file that cannot be read, an unknown key or a value that cannot be, with its place.
    """
    named = path or (Path(environ["BAA_CONFIG"]) if environ.get("BAA_CONFIG") else None)
    found = named or platformdirs.user_config_path("baa-conductor", appauthor=False) / "baa.toml"
    return resolve(_with_environment(_read(found, must_exist=named is not None), environ), environ)


def resolve(file: File, environ: Mapping[str, str]) -> Config:
    """The configuration that `file` means. Raises CannotStart (78)."""
    codexd = file.codexd
    default_home = platformdirs.user_data_path("baa-conductor", appauthor=False)
    home = Path(environ.get("BAA_HOME") or file.home or default_home).expanduser().absolute()
    if not _PATH.fullmatch(codexd.event_stream_path):
        raise CannotStart(f"event_stream_path must be a path like /v1/codexd/events, not {codexd.event_stream_path!r}.")
    if codexd.orphan_ms < 0 or codexd.drain_ms < 0:
        raise CannotStart("orphan_ms and drain_ms are milliseconds: 0 or more.")
    return Config(
        home=home,
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
        ceiling=file.ceiling,
    )


def loopback_address(base: str, name: str) -> Address:
    """The address in an API base such as `http://127.0.0.1:4319`. `name` is the setting's, for the error.

    Raises CannotStart (78) for anything that is not plain HTTP on a loopback address.
    """
    cure = (
        f"{name} must be http://127.0.0.1:PORT (or localhost, or [::1]), and is {base!r}: Codex is never offered to a"
        " network."
    )
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:
        raise CannotStart(cure) from error
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme != "http" or port is None or not loopback or extra:
        raise CannotStart(cure)
    return Address(host, port)


def _read(path: Path, *, must_exist: bool) -> File:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if must_exist:
            raise CannotStart(f"The configuration file {path} does not exist.") from None
        return File()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"The configuration file {path} cannot be read: {error}") from error
    try:
        return msgspec.convert(tomllib.loads(text), File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CannotStart(f"{path}: {error}") from error


def _with_environment(file: File, environ: Mapping[str, str]) -> File:
    """`file` with the variables that are set; an empty variable counts as not set."""
    changed: dict[str, Any] = {}
    for field in msgspec.structs.fields(CodexdFile):
        name = f"BAA_CODEXD_{field.name.upper()}"
        value = environ.get(name)
        if value:
            changed[field.name] = _parsed(name, value, field.type)
    return msgspec.structs.replace(file, codexd=msgspec.structs.replace(file.codexd, **changed))


def _parsed(name: str, value: str, type_: Any) -> Any:
    try:
        if type_ is int:
            return int(value)
        if type_ == tuple[str, ...]:
            return msgspec.json.decode(value, type=type_) if value.startswith("[") else tuple(shlex.split(value))
    except (ValueError, msgspec.DecodeError) as error:
        raise CannotStart(f"{name} cannot be {value!r}: {error}") from error
    return value
