"""Where this node's codexd listens and which token it takes: `endpoint.json` and the token file, read anew each time.

A codexd that was started again may have another port, so an address is never kept longer than its connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from baa.api.endpoint import Endpoint, Program
from baa.api.errors import EX_UNAVAILABLE
from baa.config import Address, Config, loopback_address
from baa.http.tokens import load_token

START_IT: Final = "Start it with `baa up --service codexd`."


def published(config: Config) -> Endpoint:
    """What the programs of this node wrote down of themselves; nothing, if the file is torn or not there."""
    try:
        return msgspec.json.decode(config.endpoint_file.read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError):
        return Endpoint()


def address_of(config: Config, name: Literal["codexd", "conductor", "status_api"]) -> str | None:
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
    """Nobody answers as codexd; `message` says what to do. `maybe_done`: what was asked may have been done."""

    exit_code = EX_UNAVAILABLE

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.maybe_done = maybe_done


@dataclass(frozen=True, slots=True)
class Location:
    """A codexd that runs, or ran until it was killed. The token does not show in a repr, and so not in a log."""

    address: str
    pid: int
    token: str = field(repr=False)


def locate(config: Config, *, scope: Literal["read", "drive"] = "drive") -> Location:
    """The codexd of this node, as it wrote itself down.

    Raises Unreachable if none did, and CannotStart if the token must not be used.
    """
    path = config.endpoint_file
    try:
        program = msgspec.json.decode(path.read_bytes(), type=Endpoint).codexd
    except FileNotFoundError:
        raise Unreachable(f"codexd does not run on {config.home}: there is no {path}. {START_IT}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise Unreachable(f"{path} does not say where codexd is ({error}). Start codexd again.") from None
    if program is None:
        raise Unreachable(f"codexd does not run on {config.home}. {START_IT}")
    loopback_address(program.address, f"The address in {path}")
    return Location(program.address, program.pid, load_token(config.tokens_dir / scope))
