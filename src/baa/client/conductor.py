"""The conductor as a Python object. codexd behind it is `Codexd(through="conductor")`."""

from __future__ import annotations

from msgspec import Struct

from baa import config as configuration
from baa.api.answers import Healthy
from baa.api.conductor import Node, Readiness, Role
from baa.client.discovery import locate
from baa.client.peer import PATIENCE_S, Peer
from baa.config import Config
from baa.http.tokens import Name


class _Nodes(Struct, frozen=True):
    nodes: list[Node]


class Conductor(Peer):
    """This node's conductor. An async context manager; every method raises BaaError, Unreachable or CannotStart."""

    def __init__(self, config: Config | None = None, *, scope: Name = "drive", patience_s: float = PATIENCE_S) -> None:
        """Without `config`: the configuration that `baa` itself has here."""
        found = configuration.load() if config is None else config
        super().__init__(lambda: locate(found, scope=scope, name="conductor"), patience_s=patience_s)

    async def health(self) -> str:
        """`ok` while the conductor makes progress."""
        return str((await self._get("/healthz", Healthy)).status)

    async def ready(self) -> Readiness:
        """Whether a task could run now. Raises Unavailable (`not_ready`), whose message says what is missing."""
        return await self._get("/readyz", Readiness)

    async def role(self) -> Role:
        """Whether it leads, and who does."""
        return await self._get("/rolez", Role)

    async def nodes(self) -> list[Node]:
        """The nodes that were heard of."""
        return (await self._get("/v1/nodes", _Nodes)).nodes
