"""The answer of `GET /v1/codexd/status`: put together from what each part knows of itself. States, no content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from baa.api.status import (
    ChildStatus,
    CodexStatus,
    Counts,
    DaemonState,
    DaemonStatus,
    LogState,
    LogStatus,
    Status,
)
from baa.clock import Clock
from baa.codexd import reading
from baa.codexd.appserver.versions import support
from baa.codexd.backup import Backups
from baa.codexd.commands import Commands
from baa.codexd.eventlog import EventLog
from baa.codexd.handover import Announcement
from baa.codexd.main_loop import MainLoop
from baa.codexd.retention import Retention
from baa.codexd.subscriptions import Subscriptions
from baa.codexd.supervisor import Supervisor
from baa.http.patience import Patience

RECENT_EVENTS = 50

STALLED_S = 5.0
"""Seconds after which a loop or a writer that shows no progress is called unhealthy; both move twice a second."""

_PATH: Final = re.compile(r"""(?<=['"])/[^'"\n]*(?=['"])|(?<![\w/.])~?/(?!v1/)[^\s'",;)]+""")
"""A path of the machine in a text for people, also one with spaces in quotes; routes are none."""


@dataclass(slots=True)
class Daemon:
    """codexd put together: what its HTTP side speaks to."""

    daemon_id: str
    pid: int
    version: str
    started_at: str
    address: str
    clock: Clock
    log: EventLog
    loop: MainLoop
    commands: Commands
    supervisor: Supervisor
    subscriptions: Subscriptions
    handover: Announcement
    patience: Patience
    retention: Retention
    backups: Backups

    def healthy(self) -> bool:
        """Whether the main loop and the log's writer both moved of late."""
        now = self.clock.monotonic()
        return now - self.loop.stamp < STALLED_S and now - self.log.stamp < STALLED_S

    def _state(self) -> DaemonState:
        if self.loop.draining:
            return DaemonState.STOPPING
        return DaemonState.DRAINING if self.loop.drained else DaemonState.RUNNING

    def status(self) -> Status:
        """The whole answer."""
        loop, log, generation = self.loop, self.log, self.supervisor.generation
        succession, watch = self.supervisor.succession, self.supervisor.watch
        connection = log.reader()
        sessions, queued, running, ended = reading.counts(connection)
        return Status(
            daemon=DaemonStatus(
                daemon_id=self.daemon_id,
                pid=self.pid,
                version=self.version,
                started_at=self.started_at,
                state=self._state(),
                address=self.address,
            ),
            child=ChildStatus(
                state=loop.child.state,
                generation=loop.child.generation,
                pid=None if generation is None else generation.child_pid,
                codex_version=None if generation is None else generation.version,
                started_at=None if generation is None else self.supervisor.child_started_at,
                restarts=succession.restarts,
                last_exit=succession.last_exit,
                problem=succession.problem,
                installed_version=None if generation is None else watch.installed_version or generation.version,
                outdated=generation is not None and watch.outdated,
                resources=None if generation is None else watch.resources,
                support=support(self.supervisor.refused_version if generation is None else generation.version),
            ),
            counts=Counts(
                sessions=sessions,
                turns_queued=queued,
                turns_running=running,
                turns_ended=ended,
                open_interactions=loop.sessions.questions,
                subscribers=self.subscriptions.count,
            ),
            log=LogStatus(
                state=LogState.FULL if log.full else LogState.OK,
                problem=log.problem,
                epoch=log.epoch,
                head=log.head,
                oldest=log.oldest,
                bytes=self.retention.bytes,
            ),
            recent_events=reading.recent(connection, RECENT_EVENTS),
            codex=CodexStatus(logged_in=loop.logged_in, limits=loop.limits),
        )


def without_paths(told: Status) -> Status:
    """The same for anybody on this machine: what is wrong, but not where. Whoever has a token is told that too."""
    last = told.child.last_exit
    if last is not None:
        last = msgspec.structs.replace(last, reason=_pathless(last.reason))
    child = msgspec.structs.replace(told.child, problem=_pathless(told.child.problem), last_exit=last)
    log = msgspec.structs.replace(told.log, problem=_pathless(told.log.problem))
    return msgspec.structs.replace(told, child=child, log=log)


def _pathless(text: str | None) -> str | None:
    return None if text is None else _PATH.sub("(a path; `baa doctor` names it)", text)
