"""Where a program of this node listens and which token it takes: `endpoint.json` and the token file, always read anew.

One that was started again may have another port, so an address is never kept longer than its connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from baa.api.endpoint import Endpoint, Program
from baa.api.errors import EX_UNAVAILABLE
from baa.config import Address, Config, loopback_address
from baa.http.tokens import Name, load_token

START_IT: Final = "Start it with `baa up --service codexd`."

Server: TypeAlias = Literal["codexd", "conductor", "status_api"]


def published(config: Config) -> Endpoint:
    """What the programs of this node wrote down of themselves; nothing, if the file is torn or not there."""
    try:
        return msgspec.json.decode(config.endpoint_file.read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError):
        return Endpoint()


def address_of(config: Config, name: Server) -> str | None:
    """The base URL of a program of this node, running or not; None if its port is chosen at its start and unknown."""
    configured: dict[str, Address] = {
        "codexd": config.address,
        "conductor": config.conductor_address,
        "status_api": config.status_api_address,
    }
    address = configured[name]
    if address.port != 0:
        return address.url
    program: Program | None = getattr(published(config), name)
    return None if program is None else program.address


class Unreachable(Exception):
    """Nobody answers as this program; `message` says what to do. `maybe_done`: what was asked may have been done."""

    exit_code = EX_UNAVAILABLE

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.maybe_done = maybe_done


@dataclass(frozen=True, slots=True)
class Location:
    """A program that runs, or ran until it was killed. The token does not show in a repr, and so not in a log."""

    address: str
    pid: int
    token: str = field(repr=False)
    scope: Name = "drive"
    name: str = "codexd"


def locate(config: Config, *, scope: Name = "drive", name: Literal["codexd", "conductor"] = "codexd") -> Location:
    """The codexd or the conductor of this node, as it wrote itself down.

    Raises Unreachable if none did, and CannotStart if the token must not be used.
    """
    path = config.endpoint_file
    start = START_IT if name == "codexd" else "Start it with `baa up`."
    try:
        program: Program | None = getattr(msgspec.json.decode(path.read_bytes(), type=Endpoint), name)
    except FileNotFoundError:
        raise Unreachable(f"{name} does not run on {config.home}: there is no {path}. {start}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise Unreachable(f"{path} does not say where {name} is ({error}). Start {name} again.") from None
    if program is None:
        raise Unreachable(f"{name} does not run on {config.home}. {start}")
    loopback_address(program.address, f"The address in {path}")
    return Location(program.address, program.pid, load_token(config.tokens_dir / scope), scope, name)
