"""codexd, put together: what is made in which order at start, and taken down in which at a stop.

A stop (SIGTERM, SIGINT) ends the child and leaves nothing behind. Any other end is a hand-over, and so is a signal that
a hand-over was announced for: the keeper and its child go on, and the next codexd meets them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import apsw
import structlog

from baa import __version__, notify
from baa.api import events as e
from baa.api.endpoint import Program
from baa.api.errors import EX_CONFIG, EX_TEMPFAIL, CannotStart
from baa.api.events import EventType
from baa.api.status import ChildState
from baa.clock import Clock, SystemClock, rfc3339
from baa.codexd import http, leftovers, lifecycle, opening, presence, reading, restore, schema
from baa.codexd.aftermath import Aftermath, Whose
from baa.codexd.appserver.keeper_link import KeeperNewer
from baa.codexd.attaching import Attaching
from baa.codexd.backup import Backups
from baa.codexd.commands import Commands
from baa.codexd.eventlog import EventLog, LogFailed, Transaction
from baa.codexd.generation import Generation
from baa.codexd.handover import Announcement
from baa.codexd.keepers import Setting
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import ChildChange
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.machines.session import Session
from baa.codexd.machines.turn import StopWish, TurnChange
from baa.codexd.main_loop import MainLoop
from baa.codexd.policy import Policy
from baa.codexd.retention import Limits, Retention
from baa.codexd.status import Daemon
from baa.codexd.subscriptions import Subscriptions
from baa.codexd.supervisor import Supervisor
from baa.codexd.timers import Periods
from baa.codexd.watch import Watching
from baa.config import INTERRUPT_S, KILLED_S, LADDER_S, Config
from baa.http import published, serve
from baa.http.guard import Guard, loopback_hosts
from baa.http.keyring import TokenFiles
from baa.http.limits import Allowance
from baa.http.patience import Patience
from baa.http.tokens import ensure_tokens
from baa.known_secrets import KnownSecrets
from baa.process import Stop
from baa.sqlite import open_reader

EX_CANTCREAT: Final = 73
EX_IOERR: Final = 74

_log = structlog.get_logger("codexd")


async def run(config: Config, stop: Stop, on_started: Callable[[str], None]) -> None:
    """Run codexd until it is told to stop; `on_started` is given its address once it serves.

    Raises CannotStart, also when the log can no longer be written.
    """
    clock = SystemClock()
    umask = _make_folders(config)
    lock = hold(config.state_dir / "daemon.lock")
    try:
        sock = serve.bind(config.address.host, config.address.port)
        async with _started(config, sock, clock, umask) as (daemon, left), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(presence.watch(config.state_dir / "daemon.lock", lock), name="presence")
            handed_over = await _serve(daemon, left, config, sock, stop, on_started)
            watching.cancel()
        _log.info("handed over" if handed_over else "stopped")  # behind all that the log had to put down
    except _StoppedFull as full:
        raise CannotStart(str(full), exit_code=EX_IOERR) from None
    except LogFailed as failed:
        raise CannotStart(
            f"{failed}. Codex goes on; start codexd again once that is mended.", exit_code=EX_IOERR
        ) from failed
    finally:
        os.close(lock)


class _StoppedFull(LogFailed):
    """codexd was told to stop while its log could not be written."""


@asynccontextmanager
async def _started(
    config: Config, sock: socket.socket, clock: Clock, umask: int
) -> AsyncIterator[tuple[Daemon, Generation | None]]:
    """codexd but for its child and its door, and the child that the last codexd left."""
    log = _open_log(config, clock)
    log.on_events = lifecycle.write
    try:
        connection = open_reader(log.path)
        daemon = _put_together(config, log, connection, sock, clock, umask)
        main_loop, supervisor = daemon.loop, daemon.supervisor
        left = restore.living(connection, config.state_dir / "keepers", clock)
        connection.close()
        async with asyncio.TaskGroup() as tasks:
            looping = tasks.create_task(main_loop.run(), name="main_loop")
            failing = tasks.create_task(_fail_with(log), name="log")
            aftermath = Aftermath(lambda whose, evidence: _told_left(main_loop, whose, evidence))
            main_loop.on_look = lambda wanted: _look(main_loop, supervisor, aftermath, wanted)
            looking = tasks.create_task(aftermath.run(), name="aftermath")
            try:
                # Fed as long as the loop runs, so also while codexd drains: that takes longer than a watchdog waits.
                keeping = tasks.create_task(daemon.retention.run(), name="retention")
                watching = tasks.create_task(notify.watch(daemon.healthy), name="watchdog")
                yield daemon, left
                watching.cancel()
                keeping.cancel()
            finally:
                looking.cancel()
                looping.cancel()
                failing.cancel()
    except* KeeperNewer as newer:
        raise CannotStart(
            f"{_leaf(newer)}: start that release again, or end its keeper first.", exit_code=EX_CONFIG
        ) from None
    except* apsw.CorruptError as corrupt:
        opening.put_down_damage(log.path, str(_leaf(corrupt)))
        raise LogFailed(f"the event log is damaged ({_leaf(corrupt)}), and is set aside at the next start") from None
    except* CannotStart as cannot:
        raise _leaf(cannot) from None
    except* LogFailed as failed:
        raise _leaf(failed) from None
    finally:
        await asyncio.to_thread(log.close)


def _put_together(
    config: Config, log: EventLog, connection: apsw.Connection, sock: socket.socket, clock: Clock, umask: int
) -> Daemon:
    """All parts of codexd, in the state that the log holds; nothing runs yet."""
    periods = Periods(config.idle_ms, config.interaction_deadline_ms, config.answer_ms)
    main_loop = MainLoop(log, restore.restore(connection, clock, log.seal), clock=clock, periods=periods)
    setting = Setting(
        keepers=config.state_dir / "keepers",
        daemon_lock=config.state_dir / "daemon.lock",
        codex_home=config.codex_home,
        server_command=config.server_command,
        server_args=config.server_args,
        orphan_ms=config.orphan_ms,
        umask=umask,
        version=__version__,
    )
    looks = Watching(config.watch_ms, config.child_soft_mib, config.child_hard_mib)
    patience = Patience()
    supervisor = Supervisor(main_loop, setting, looks, clock=clock)
    return Daemon(
        daemon_id=log.daemon_id,
        pid=os.getpid(),
        version=__version__,
        started_at=rfc3339(clock.utc_ms()),
        address=serve.base_url(sock),
        clock=clock,
        log=log,
        loop=main_loop,
        commands=Commands(main_loop, clock=clock),
        supervisor=supervisor,
        subscriptions=Subscriptions(log),
        handover=Announcement(clock),
        patience=patience,
        retention=Retention(log, _limits(config), clock=clock),
        backups=Backups(log.path, config.backups_dir, patience),
    )


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of what was really raised."""
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


async def _serve(
    daemon: Daemon,
    left: Generation | None,
    config: Config,
    sock: socket.socket,
    stop: Stop,
    on_started: Callable[[str], None],
) -> bool:
    """Serve until codexd is told to stop, and stop. Whether another codexd was to go on with what runs."""
    policy = _policy(config)
    daemon.loop.may_open, daemon.loop.may_hand = policy.opened, policy.handed
    attaching = Attaching(
        daemon.loop,
        daemon.commands,
        policy,
        clock=daemon.clock,
        path=config.state_dir / "attach.sock",
        codex_home=config.codex_home,
    )
    refused: Counter[str] = Counter()
    app, routes = http.application(daemon, policy, attaching, config.event_stream_path, refused)
    hosts = loopback_hosts(sock.getsockname()[1]) | set(config.allowed_hosts)
    ensure_tokens(config.tokens_dir)
    tokens = TokenFiles(config.tokens_dir)
    guard = Guard(app, program="codexd", allowed_hosts=hosts, routes=routes, tokens=tokens, refused=refused)
    server = serve.HttpServer(guard, sock, refused=refused, allowance=Allowance(connections=config.connections))
    async with attaching.serving(), asyncio.TaskGroup() as tasks:
        child = tasks.create_task(_look_after_child(daemon, left), name="supervisor")
        # So that nobody is answered before it is known if there is a Codex; reads do not wait for space.
        await _or_stuck(daemon, tasks.create_task(daemon.supervisor.decided.wait(), name="decided"))
        serving = tasks.create_task(server.serve(), name="http")
        looking = tasks.create_task(tokens.watch(), name="tokens")
        await server.started.wait()
        published.publish(config.endpoint_file, "codexd", _as_published(daemon))
        _log.info("serving", address=daemon.address, daemon_id=daemon.daemon_id)
        on_started(daemon.address)
        checking = tasks.create_task(_check(daemon.log), name="check")
        await stop.asked.wait()
        checking.cancel()
        looking.cancel()
        if handed_over := daemon.handover.holds and not stop.stdin_ended:
            stopping = tasks.create_task(_hand_over(daemon, child, server, serving), name="hand-over")
        else:
            stopping = tasks.create_task(_stop(daemon, stop, config.drain_ms, child, server), name="stop")
        if not await _or_stuck(daemon, stopping):
            keepers = config.state_dir / "keepers"
            await _stop_full(daemon, None if handed_over else keepers)
    published.forget(config.endpoint_file, "codexd", daemon.pid)
    return handed_over


async def _look_after_child(daemon: Daemon, left: Generation | None) -> None:
    """Take over what the last codexd left, and from there on see to it that there is a child."""
    await daemon.loop.change(lambda transaction: _say(daemon, EventType.DAEMON_STARTED, transaction))
    await daemon.supervisor.take_over(left)
    daemon.loop.start_clocks()
    await daemon.supervisor.run()


async def _or_stuck(daemon: Daemon, task: asyncio.Task[Any]) -> bool:
    """Wait for the task, or until the log waits for space: then the task goes on, and this is False."""
    async with asyncio.TaskGroup() as tasks:
        stuck = tasks.create_task(daemon.log.stuck.wait(), name="stuck")
        await asyncio.wait((task, stuck), return_when=asyncio.FIRST_COMPLETED)
        stuck.cancel()
    return task.done()


async def _check(log: EventLog) -> None:
    """Read all of the log's file once: a part that nobody reads may be damaged long before it is missed."""
    flaw = await opening.check(log.path)
    if flaw is not None:
        raise apsw.CorruptError(flaw)


async def _stop_full(daemon: Daemon, keepers: Path | None) -> None:
    """Stop without another word in the log: what is missing there is in the spool, and is read at the next start.

    `keepers`: end the ones in this folder, and so the child.
    """
    if keepers is not None:
        await leftovers.end_all(keepers)
    raise _StoppedFull(
        f"{daemon.log.problem} codexd has stopped without it; what Codex said last is read at the next start."
    )


async def _hand_over(
    daemon: Daemon, child: asyncio.Task[None], server: serve.HttpServer, serving: asyncio.Task[None]
) -> None:
    """Stop serving, and let go of the keeper: what it and its child do goes on, and nothing was sent to either."""

    def drain(transaction: Transaction) -> None:
        daemon.loop.draining = True  # a child that dies now is not followed by another one of this codexd's
        _say(daemon, EventType.DAEMON_STOPPING, transaction, handover=True)

    await daemon.loop.change(drain)
    daemon.patience.end()
    server.stop()
    await asyncio.wait((serving,))
    child.cancel()


async def _stop(daemon: Daemon, stop: Stop, drain_ms: int, child: asyncio.Task[None], server: serve.HttpServer) -> None:
    await _stop_child(daemon, stop, drain_ms)
    await _until_child_ended(daemon, stop, child)
    daemon.patience.end()
    server.stop()


async def _stop_child(daemon: Daemon, stop: Stop, drain_ms: int) -> None:
    """Drain, interrupt, end the child: each step has its time, and a second signal skips to the last."""
    loop = daemon.loop

    def drain(transaction: Transaction) -> None:
        loop.draining = True
        if loop.child.state in (ChildState.STARTING, ChildState.READY):
            loop.change_child(ChildChange.DRAIN)
        _say(daemon, EventType.DAEMON_STOPPING, transaction)

    await loop.change(drain)
    await _until_idle(daemon, stop, drain_ms / 1000)
    if loop.running() and not stop.hurried.is_set():
        await loop.change(lambda transaction: loop.step_open(_stopping, transaction))
        await _until_idle(daemon, stop, INTERRUPT_S)
    await daemon.supervisor.stop(at_once=stop.hurried.is_set())


async def _until_child_ended(daemon: Daemon, stop: Stop, child: asyncio.Task[None]) -> None:
    """Wait for the end of the ladder. A second signal skips it; a keeper that does not obey is ended."""
    async with asyncio.TaskGroup() as tasks:
        hurry = tasks.create_task(stop.hurried.wait(), name="second signal")
        await asyncio.wait((child, hurry), timeout=LADDER_S, return_when=asyncio.FIRST_COMPLETED)
        if not child.done():
            await daemon.supervisor.stop(at_once=True)
            await asyncio.wait((child,), timeout=KILLED_S)
        hurry.cancel()
    if not child.done():
        await daemon.supervisor.end_keeper()
    await child


async def _until_idle(daemon: Daemon, stop: Stop, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            hurry = tasks.create_task(stop.hurried.wait(), name="second signal")
            while not stop.hurried.is_set():
                generation = daemon.supervisor.generation
                waiting = [
                    session for session in daemon.loop.running() if session.running and not session.running.unresolved
                ]
                if not waiting or generation is None:
                    break
                woken = tasks.create_task(daemon.log.wait_past(daemon.log.head), name="log")
                await asyncio.wait((hurry, woken), return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
            hurry.cancel()


def _say(daemon: Daemon, type_: EventType, transaction: Transaction, *, handover: bool = False) -> None:
    payload = e.Daemon(daemon_id=daemon.daemon_id, pid=daemon.pid, version=daemon.version, handover=handover)
    transaction.events.append(NewEvent(type_, None, None, payload))


STOPPED: Final = StopWish(TurnChange.INTERRUPTED, "daemon_stopped")


def _stopping(session: Session) -> i.Input:
    """codexd stops: what runs is interrupted, what waits goes on waiting for the next codexd."""
    running = session.running
    return i.StopTurn("" if running is None else running.turn_id, STOPPED)


def _look(loop: MainLoop, supervisor: Supervisor, aftermath: Aftermath, wanted: i.LookForLeft) -> None:
    """Have it looked for what a turn left running. Without a child there is nothing that it could be told by."""
    session = loop.sessions.get(wanted.session_id)
    generation = supervisor.generation
    if session is None or session.running is None or generation is None or generation.child_pid is None:
        return  # the turn ends with its child
    turn = reading.turn(loop.log.reader(), wanted.turn_id, ledger=False)
    keeper = leftovers.keeper_of(generation.folder)
    assert turn is not None
    assert turn.accepted_at is not None
    aftermath.look(
        Whose(
            session_id=wanted.session_id,
            turn_id=wanted.turn_id,
            thread_id=session.thread_id or "",
            cwd=session.settings.cwd,
            began=datetime.fromisoformat(turn.accepted_at).timestamp(),
            child=leftovers.Recorded(generation.child_pid, generation.child_start),
            keeper_pid=0 if keeper is None else keeper.pid,
            only_turn=len(loop.running()) == 1,
        )
    )


async def _told_left(loop: MainLoop, whose: Whose, evidence: dict[str, Any]) -> None:
    def decide(transaction: Transaction) -> None:
        session = loop.sessions.get(whose.session_id)
        if session is not None:
            loop.step(session, i.LeftLooked(whose.turn_id, evidence), transaction)

    await loop.change(decide)


async def _fail_with(log: EventLog) -> None:
    await log.failed


def _open_log(config: Config, clock: Clock) -> EventLog:
    path = config.state_dir / "codexd.sqlite3"
    try:
        return EventLog(path, clock=clock, secrets=KnownSecrets(config.tokens_dir, config.codex_home))
    except schema.NewerSchema as newer:
        raise CannotStart(f"{path}: {newer}. Install that release again.", exit_code=EX_CONFIG) from None
    except (apsw.Error, OSError) as error:
        raise CannotStart(
            f"The event log {path} cannot be opened: {error}. Nothing was changed; mend that and start codexd again."
            " A log of an older release needs as much free space as it has bytes, for a copy beside it.",
            exit_code=EX_IOERR,
        ) from error


def _limits(config: Config) -> Limits:
    return Limits(age_ms=config.log_age_ms, delta_ms=config.log_delta_ms, size=config.log_bytes)


def _policy(config: Config) -> Policy:
    roots = tuple(Path(os.path.realpath(os.path.expanduser(root))) for root in config.ceiling.roots)
    ours = (config.home, config.state_dir, config.logs_dir, config.codex_home, config.config_file)
    private = tuple(Path(os.path.realpath(place)) for place in ours if place is not None)
    ceiling = config.ceiling
    return Policy(
        ceiling.sandbox, roots, private, network=ceiling.network, approval=ceiling.approval, models=ceiling.models
    )


def _make_folders(config: Config) -> int:
    """Make what is missing, for nobody else to read. The umask that was the user's, for what Codex writes."""
    umask = os.umask(0o077)
    try:
        for folder in (config.state_dir / "keepers", config.logs_dir, config.codex_home, config.endpoint_file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"A folder of codexd's cannot be made: {error}", exit_code=EX_CANTCREAT) from error
    return umask


def hold(path: Path) -> int:
    """Hold the state folder: one daemon each. A POSIX lock, because the keeper asks who holds it.

    The file must not be opened again in this process: closing it anywhere would let go of the lock. Raises CannotStart.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(
            f"codexd cannot write into its state folder: {path}: {error.strerror}. Make the folder writable, or name"
            " another by BAA_CODEXD_STATE_DIR.",
            exit_code=EX_CANTCREAT,
        ) from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise CannotStart(
            f"Another codexd runs on {path.parent}. Stop it, or give this one a BAA_HOME of its own.",
            exit_code=EX_TEMPFAIL,
        ) from None
    return lock


def _as_published(daemon: Daemon) -> Program:
    return Program(daemon.address, daemon.pid, daemon.daemon_id, daemon.started_at)
