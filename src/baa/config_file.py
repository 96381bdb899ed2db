"""baa.toml as it is written: its tables, its keys, and what holds where one is not there. `config.py` reads it."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from baa.api.sessions import ApprovalPolicy, Sandbox

CODEXD_API: Final = "http://127.0.0.1:4319"
CONDUCTOR_API: Final = "http://127.0.0.1:4317"
STATUS_API: Final = "http://127.0.0.1:4318"
WORKTREES: Final = "~/baa-worktrees"


class Ceiling(Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a request may ask for: of `approval` and `models` the first is the default.

    (Of `approval`, `never` where that is among them.) No model: any. `network`: in the sandbox `workspace-write`.
    """

    sandbox: Sandbox = Sandbox.WORKSPACE_WRITE
    network: bool = False
    roots: tuple[str, ...] = ("~",)
    approval: Annotated[tuple[ApprovalPolicy, ...], Meta(min_length=1)] = tuple(ApprovalPolicy)
    models: tuple[str, ...] = ()


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
    idle_ms: int = 60_000
    interaction_deadline_ms: int = 900_000
    log_age_ms: int = 2_592_000_000
    log_delta_ms: int = 86_400_000
    log_bytes: int = 2_147_483_648
    answer_ms: int = 60_000
    watch_ms: int = 10_000
    child_soft_mib: int = 1024
    child_hard_mib: int = 4096
    connections: int = 256


class ConductorFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[conductor]`; each key is also a variable, `BAA_CONDUCTOR_` and the key in capitals."""

    local_api_base: str = CONDUCTOR_API
    history_ms: int = 30 * 86_400_000


class StatusApiFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[status_api]`; each key is also a variable, `BAA_STATUS_API_` and the key in capitals."""

    base: str = STATUS_API


class WorkerFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[worker]`; each key is also a variable, `BAA_WORKER_` and the key in capitals."""

    slots: int = 2
    node_ttl_ms: int = 15_000
    worktrees: str = WORKTREES
    embedded: bool = True
    drain_ms: int = 0


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """baa.toml. `node_id`, `engine_url` and `control_api_base` are also variables, `BAA_` and the key in capitals."""

    home: str | None = None
    node_id: str = ""
    engine_url: str = ""
    control_api_base: str = ""
    allowed_hosts: list[str] = []
    codexd: CodexdFile = CodexdFile()
    conductor: ConductorFile = ConductorFile()
    status_api: StatusApiFile = StatusApiFile()
    worker: WorkerFile = WorkerFile()
    ceiling: Ceiling = Ceiling()
