"""What a request may ask for: the ceiling, and the folders in which work may be done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from baa.api.errors import Code, Rejected
from baa.api.sessions import ApprovalPolicy, CreateSession, Sandbox, SessionSettings

_POWER = {Sandbox.READ_ONLY: 0, Sandbox.WORKSPACE_WRITE: 1, Sandbox.DANGER_FULL_ACCESS: 2}


@dataclass(frozen=True, slots=True)
class Policy:
    """The ceiling of this node. `private` are the folders that hold our state and Codex's login."""

    sandbox: Sandbox
    roots: tuple[Path, ...]
    private: tuple[Path, ...]

    def settings(self, asked: CreateSession) -> SessionSettings:
        """The settings of a new session: what was asked, with the defaults, under the ceiling.

        Raises Rejected: 403 `policy_ceiling`, or 422 `invalid_request` for a `cwd` that is no folder.
        """
        sandbox = asked.sandbox or min(Sandbox.WORKSPACE_WRITE, self.sandbox, key=lambda mode: _POWER[mode])
        if _POWER[sandbox] > _POWER[self.sandbox]:
            raise Rejected(
                Code.POLICY_CEILING,
                f"The ceiling of this node is sandbox {self.sandbox.value!r}. Ask for no more, or raise"
                " `ceiling.sandbox` in baa.toml and restart codexd.",
                details={"field": "sandbox", "ceiling": self.sandbox.value},
            )
        return SessionSettings(
            cwd=str(self.folder(asked.cwd)),
            sandbox=sandbox,
            approval_policy=asked.approval_policy or ApprovalPolicy.NEVER,
            purpose=asked.purpose,
            model=asked.model,
            model_provider=asked.model_provider,
            base_instructions=asked.base_instructions,
            developer_instructions=asked.developer_instructions,
            metadata=asked.metadata,
        )

    def folder(self, cwd: str) -> Path:
        """The real path of `cwd`, if work may be done there. Raises Rejected."""
        try:
            real = Path(os.path.realpath(cwd, strict=True))
            if not os.path.isabs(cwd) or not real.is_dir():
                raise NotADirectoryError
        except (OSError, ValueError):
            raise Rejected(
                Code.INVALID_REQUEST,
                "`cwd` must be the absolute path of a folder that exists.",
                details={"field": "cwd"},
            ) from None
        root = next((root for root in self.roots if real.is_relative_to(root)), None)
        if root is None or _hidden(real, root):
            raise Rejected(
                Code.POLICY_CEILING,
                "`cwd` lies outside the folders in which this node works. Use another, or add it to `ceiling.roots` in"
                " baa.toml and restart codexd.",
                details={"field": "cwd"},
            )
        if any(folder.is_relative_to(real) or real.is_relative_to(folder) for folder in self.private):
            raise Rejected(
                Code.POLICY_CEILING,
                "`cwd` holds codexd's own state or Codex's login: an agent that works there could read or change them.",
                details={"field": "cwd"},
            )
        return real


def _hidden(folder: Path, root: Path) -> bool:
    """Whether a dot folder (keys, configuration of other programs) lies on the way from the root to the folder."""
    return any(part.startswith(".") for part in folder.relative_to(root).parts)
