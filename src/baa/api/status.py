"""What `GET /v1/codexd/status` says: states, counts and versions, and no content."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct


class ChildState(StrEnum):
    """Where the child (`codex app-server`) stands."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    CRASH_LOOP = "crash_loop"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    STOPPED = "stopped"


class Support(StrEnum):
    """What codexd knows of the version of Codex that runs.

    `known`: its tests run on this release. `newer` and `older`: another release than those, and it is used. `too_old`:
    it is refused. `unknown`: no version that can be compared, or no child has told one yet.
    """

    KNOWN = "known"
    NEWER = "newer"
    OLDER = "older"
    TOO_OLD = "too_old"
    UNKNOWN = "unknown"


class DaemonState(StrEnum):
    """Where codexd itself stands: `draining` = it finishes what it accepted and takes nothing new until restarted."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"


class LastExit(Struct, rename="camel", kw_only=True, frozen=True):
    """How the child ended last time: an exit code or a signal, or neither when nobody could see it."""

    generation: int
    at: str
    code: int | None = None
    signal: int | None = None
    reason: str | None = None


class DaemonStatus(Struct, rename="camel", kw_only=True, frozen=True):
    """codexd itself."""

    daemon_id: str
    pid: int
    version: str
    started_at: str
    state: DaemonState
    address: str


class ChildResources(Struct, rename="camel", kw_only=True, frozen=True):
    """What the child takes of the machine, as it was seen `age_ms` ago. `descendants`: the processes below it."""

    rss_bytes: int
    fds: int | None
    threads: int
    descendants: int
    age_ms: int


class ChildStatus(Struct, rename="camel", kw_only=True, frozen=True):
    """The child. `problem` says what is wrong and what to do, when something is.

    `outdated`: it runs another version than the one that is installed now, `installed_version`, and is replaced once
    nothing runs. `support`: whether the version of Codex that told itself last is one that codexd was tested with.
    """

    state: ChildState
    generation: int
    pid: int | None
    codex_version: str | None
    started_at: str | None
    restarts: int
    last_exit: LastExit | None
    problem: str | None
    installed_version: str | None = None
    outdated: bool = False
    resources: ChildResources | None = None
    support: Support = Support.UNKNOWN


class Counts(Struct, rename="camel", kw_only=True, frozen=True):
    """How many there are of each."""

    sessions: int
    turns_queued: int
    turns_running: int
    turns_ended: int
    open_interactions: int
    subscribers: int


class LogState(StrEnum):
    """Whether the event log can be written: `full` = it lacks space, reads go on and what would write is 507."""

    OK = "ok"
    FULL = "full"


class LogStatus(Struct, rename="camel", kw_only=True, frozen=True):
    """Where the event log stands: `head` and `oldest` are seqs, `bytes` are those of all events that are kept.

    `bytes` is null while they are still being counted, at the start of codexd. `problem` says what is wrong and what to
    do, when something is.
    """

    state: LogState = LogState.OK
    problem: str | None = None
    epoch: str
    head: int
    oldest: int
    bytes: int | None = None


class RecentEvent(Struct, frozen=True):
    """One of the last events, without its content."""

    seq: int
    at: str
    type: str


class CodexStatus(Struct, rename="camel", kw_only=True, frozen=True):
    """What Codex says of its account. Null = it has not said."""

    logged_in: bool | None
    limits: dict[str, Any] | None


class Status(Struct, rename="camel", kw_only=True, frozen=True):
    """The whole answer."""

    daemon: DaemonStatus
    child: ChildStatus
    counts: Counts
    log: LogStatus
    recent_events: list[RecentEvent]
    codex: CodexStatus


class AnnounceHandover(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/status/handover`."""

    expires_in_ms: Annotated[int, Meta(ge=1, le=600_000)] = 60_000


class RestartChild(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/status/child/restart`. `force`: at once, and what runs is interrupted."""

    force: bool = False


class MakeBackup(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Body of `POST /v1/codexd/status/backup`. `to`: the folder to make, as an absolute path; it must not exist yet."""

    to: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None


class Manifest(Struct, rename="camel", kw_only=True, frozen=True):
    """What a backup's `manifest.json` says of it: of which log it is, how far that was, and what its file must be.

    `head` and `oldest` are seqs, `schema` is the tables' version, `bytes` and `sha256` are the file's.
    """

    epoch: str
    head: int
    oldest: int
    schema: int
    bytes: int
    sha256: str
    version: str
    at: str


class Backup(Struct, rename="camel", kw_only=True, frozen=True):
    """A backup that was made and verified: its folder, and its manifest."""

    path: str
    manifest: Manifest


class Handover(Struct, rename="camel", kw_only=True, frozen=True):
    """Until when SIGTERM is a hand-over: codexd ends then, and leaves its child and all turns to the next codexd."""

    expires_at: str
    expires_in_ms: int
