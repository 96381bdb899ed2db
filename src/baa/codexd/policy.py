"""What a request may ask for: the ceiling, and the folders in which work may be done."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import msgspec

from baa.api.errors import Code, Rejected
from baa.api.sessions import (
    PROMPT_MAX,
    ApprovalPolicy,
    CreateSession,
    InputPart,
    LocalImage,
    Sandbox,
    SessionSettings,
    StartTurn,
    TextInput,
    TurnRequest,
    networked,
)
from baa.codexd.machines.inputs import HandTurn

_POWER = {Sandbox.READ_ONLY: 0, Sandbox.WORKSPACE_WRITE: 1, Sandbox.DANGER_FULL_ACCESS: 2}
_AS_THE_SESSION = TurnRequest(prompt="")

_Identity: TypeAlias = tuple[int, int]
"""Which folder of which file system."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The ceiling of this node. `private` are our state, logs and configuration, and Codex's login.

    `models`: those that may be asked for, the first one where none is; empty = any, and Codex's own choice.
    """

    sandbox: Sandbox
    roots: tuple[Path, ...]
    private: tuple[Path, ...]
    network: bool = False
    approval: tuple[ApprovalPolicy, ...] = tuple(ApprovalPolicy)
    models: tuple[str, ...] = ()

    def settings(self, asked: CreateSession, cwd: str) -> SessionSettings:
        """The settings of a new session: what was asked, with the defaults, under the ceiling.

        Raises Rejected: 403 `policy_ceiling`, or 422 `invalid_request` for a `cwd` that is no folder.
        """
        sandbox = asked.sandbox or self._lower(Sandbox.WORKSPACE_WRITE)
        self._refuse_above(sandbox)
        self._refuse_network(sandbox, asked.network_access, asked.network_access)
        approval = asked.approval_policy or self._usual_approval
        model = self._model(asked.model)
        self._refuse_other(approval, model)
        return SessionSettings(
            cwd=str(self.folder(cwd)),
            sandbox=sandbox,
            network_access=bool(asked.network_access),
            approval_policy=approval,
            purpose=asked.purpose,
            model=model,
            model_provider=asked.model_provider,
            writable_roots=tuple(str(self.folder(root, "writableRoots")) for root in asked.writable_roots),
            base_instructions=asked.base_instructions,
            developer_instructions=asked.developer_instructions,
            personality=asked.personality,
            service_tier=asked.service_tier,
            ephemeral=asked.ephemeral,
            metadata=asked.metadata,
        )

    def fork(self, settings: SessionSettings) -> SessionSettings:
        """The settings of a session that begins with the history of one with these: they may be above the ceiling.

        Where no model was asked for it is that of a new session. Raises Rejected (403).
        """
        self.go_on(settings)
        return msgspec.structs.replace(settings, model=self._model(settings.model))

    def go_on(self, settings: SessionSettings, turn: StartTurn | TurnRequest = _AS_THE_SESSION) -> None:
        """Whether the session may have this turn: it may have been registered under a higher ceiling.

        What the turn asks for itself stands in place of the session's. Raises Rejected (403, 422).
        """
        sandbox = turn.sandbox or settings.sandbox
        self._refuse_above(sandbox)
        network = settings.network_access if turn.network_access is None else turn.network_access
        wanted = turn.network_access or (network and sandbox is Sandbox.WORKSPACE_WRITE)
        self._refuse_network(sandbox, turn.network_access, wanted)
        named = turn.model or settings.model
        self._refuse_other(turn.approval_policy or settings.approval_policy, named, unnamed=named is None)
        self._same_folders(settings)

    def opened(self, settings: SessionSettings) -> SessionSettings:
        """The settings with which Codex opens a session's thread: those of before, lowered to the ceiling of now.

        Each turn says its own, and is judged by those. Raises Rejected (403) for folders that are not allowed any more.
        """
        self._same_folders(settings)
        kept = settings.approval_policy in self.approval
        allowed = not self.models or settings.model in self.models
        return msgspec.structs.replace(
            settings,
            sandbox=self._lower(settings.sandbox),
            network_access=settings.network_access and self.network,
            approval_policy=settings.approval_policy if kept else self._usual_approval,
            model=settings.model if allowed else self.models[0],
        )

    def handed(self, hand: HandTurn) -> HandTurn:
        """The turn as Codex may have it: it may have waited since the ceiling was higher. Raises Rejected (403)."""
        self.go_on(hand.settings, hand.request)
        if not self.models or hand.model in self.models:
            return hand
        return msgspec.structs.replace(hand, model=self.models[0])  # none was named, and Codex's own is not allowed

    @property
    def _usual_approval(self) -> ApprovalPolicy:
        return ApprovalPolicy.NEVER if ApprovalPolicy.NEVER in self.approval else self.approval[0]

    def _lower(self, sandbox: Sandbox) -> Sandbox:
        return min(sandbox, self.sandbox, key=lambda mode: _POWER[mode])

    def _model(self, asked: str | None) -> str | None:
        return asked or (self.models[0] if self.models else None)

    def _same_folders(self, settings: SessionSettings) -> None:
        self._same(settings.cwd, "cwd")
        for root in settings.writable_roots:
            self._same(root, "writableRoots")

    def _same(self, registered: str, field: str) -> None:
        """Whether a folder is still the one that was registered, by its real path then, and still allowed."""
        real = Path(os.path.realpath(registered))
        self._allow(real, field)
        if str(real) != registered:
            raise Rejected(
                Code.POLICY_CEILING,
                f"`{field}` is another folder than when the session was registered: a symbolic link has taken its"
                " place. Register a session for where it leads.",
                details={"field": field},
            )

    def request(self, asked: StartTurn) -> TurnRequest:
        """What a turn will be asked to do, under the ceiling. Raises Rejected: 403, or 422 for input that cannot be."""
        if asked.sandbox is not None:
            self._refuse_above(asked.sandbox)
        if asked.network_access and not self.network:
            raise self._no_network()
        self._refuse_other(asked.approval_policy, asked.model, unnamed=asked.model is None)
        parts = self.input(asked.prompt, asked.input)
        return TurnRequest(
            prompt=prompt_of(parts),
            input=() if asked.input is None else parts,
            model=asked.model,
            effort=asked.effort,
            sandbox=asked.sandbox,
            network_access=asked.network_access,
            approval_policy=asked.approval_policy,
            output_schema=asked.output_schema,
            deadline_ms=asked.deadline_ms,
            stall_ms=asked.stall_ms,
            lease_ms=asked.lease_ms,
            metadata=asked.metadata,
        )

    def input(self, prompt: str | None, parts: list[InputPart] | None) -> tuple[InputPart, ...]:
        """The input of a turn, images by their real paths. Raises Rejected."""
        if (prompt is None) == (parts is None):
            raise Rejected(Code.INVALID_REQUEST, "Say either `prompt` or `input`.", details={"field": "prompt"})
        given = tuple(parts) if parts is not None else (TextInput(prompt or ""),)
        if not given:
            raise Rejected(Code.INVALID_REQUEST, "`input` is empty.", details={"field": "input"})
        characters = sum(len(part.text) for part in given if isinstance(part, TextInput))
        if characters > PROMPT_MAX:
            raise Rejected(
                Code.INVALID_REQUEST,
                f"The input has {characters} characters, and Codex takes {PROMPT_MAX}. Put long input in a file, and"
                " name the file in the prompt.",
                details={"field": "prompt", "maximum": PROMPT_MAX},
            )
        return tuple(LocalImage(str(self.image(part.path))) if isinstance(part, LocalImage) else part for part in given)

    def image(self, path: str) -> Path:
        """The real path of an image that Codex may read. Raises Rejected."""
        try:
            real = Path(os.path.realpath(path, strict=True))
            if not os.path.isabs(path) or not real.is_file():
                raise FileNotFoundError
            str(real).encode()
        except (OSError, ValueError):
            raise Rejected(
                Code.INVALID_REQUEST,
                "The path of an image must be the absolute path of a file that exists.",
                details={"field": "input"},
            ) from None
        self._allow(real, "input")
        return real

    def _refuse_above(self, sandbox: Sandbox) -> None:
        if _POWER[sandbox] > _POWER[self.sandbox]:
            raise Rejected(
                Code.POLICY_CEILING,
                f"The ceiling of this node is sandbox {self.sandbox.value!r}. Ask for no more, or raise"
                " `ceiling.sandbox` in baa.toml and restart codexd.",
                details={"field": "sandbox", "ceiling": self.sandbox.value},
            )

    def _refuse_network(self, sandbox: Sandbox, asked: bool | None, wanted: bool | None) -> None:
        """Refuse a network above the ceiling, and a request for what the sandbox is not."""
        if wanted and not self.network:
            raise self._no_network()
        if asked is not None and asked != networked(sandbox, asked):
            raise Rejected(
                Code.INVALID_REQUEST,
                f"`networkAccess` cannot be {str(asked).lower()} with the sandbox {sandbox.value!r}: `read-only` has no"
                " network, `danger-full-access` has no sandbox. Ask for `workspace-write`.",
                details={"field": "networkAccess"},
            )

    @staticmethod
    def _no_network() -> Rejected:
        return Rejected(
            Code.POLICY_CEILING,
            "The ceiling of this node is a sandbox without a network. Ask for none, or set `ceiling.network` to true in"
            " baa.toml and restart codexd.",
            details={"field": "networkAccess", "ceiling": False},
        )

    def _refuse_other(self, approval: ApprovalPolicy | None, model: str | None, *, unnamed: bool = False) -> None:
        """Refuse what is not among what may be asked for; `unnamed`: without a model it is the first of them."""
        if approval is not None and approval not in self.approval:
            raise _above("approvalPolicy", "approval", [policy.value for policy in self.approval])
        if self.models and model not in self.models and not (unnamed and model is None):
            raise _above("model", "models", list(self.models))

    def folder(self, cwd: str, field: str = "cwd") -> Path:
        """The real path of a folder, if work may be done there; `field` is its name in the request. Raises Rejected."""
        try:
            real = Path(os.path.realpath(cwd, strict=True))
            if not os.path.isabs(cwd) or not real.is_dir():
                raise NotADirectoryError
            str(real).encode()  # a name that is no UTF-8 could neither be stored nor told to Codex
        except (OSError, ValueError):
            raise Rejected(
                Code.INVALID_REQUEST,
                f"`{field}` must be the absolute path of a folder that exists.",
                details={"field": field},
            ) from None
        self._allow(real, field)
        return real

    def _allow(self, real: Path, field: str) -> None:
        root = next((root for root in self.roots if real.is_relative_to(root)), None)
        if root is None or _hidden(real, root):
            raise Rejected(
                Code.POLICY_CEILING,
                f"`{field}` lies outside the folders in which this node works. Use another, or add it to"
                " `ceiling.roots` in baa.toml and restart codexd.",
                details={"field": field},
            )
        here, identity = _way(real), cache(_identity)  # many of the folders on the ways are the same
        if any(_holds(way, here, identity) or _holds(here, way, identity) for way in map(_way, self.private)):
            raise Rejected(
                Code.POLICY_CEILING,
                f"`{field}` holds codexd's own state, logs or configuration, or Codex's login: an agent there could"
                " read or change them.",
                details={"field": field},
            )


def _above(field: str, key: str, allowed: list[str]) -> Rejected:
    return Rejected(
        Code.POLICY_CEILING,
        f"This node does not allow that `{field}`. Ask for one of those in `details`, or add it to `ceiling.{key}` in"
        " baa.toml and restart codexd.",
        details={"field": field, "ceiling": allowed},
    )


def prompt_of(parts: tuple[InputPart, ...]) -> str:
    """The words of an input, as one text."""
    return "\n".join(part.text for part in parts if isinstance(part, TextInput))


def _way(path: Path) -> list[str]:
    """The path, and all folders in which it lies."""
    way = [str(path)]
    while (parent := os.path.dirname(way[-1])) != way[-1]:
        way.append(parent)
    return way


def _holds(folder: list[str], path: list[str], identity: Callable[[str], _Identity | None]) -> bool:
    """Whether `path` is the folder or lies in it, by its name or by what it is: where case does not count, or folders
    are mounted twice, one of them has many names. Both are ways.
    """
    if folder[0] in path:
        return True
    known = identity(folder[0])
    return known is not None and any(identity(each) == known for each in path)


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _hidden(folder: Path, root: Path) -> bool:
    """Whether a dot folder (keys, configuration of other programs) lies on the way from the root to the folder."""
    return any(part.startswith(".") for part in folder.relative_to(root).parts)
