"""One attempt at a task, from its claim to its end: the doing. What is done next, `decisions` says.

Every step is written down before the next one is begun, and asks first whether it was done already: the process may
die at any await, and the next one goes on from what is committed, with the same workspace, session and turn. Nothing
here outlives a claim that was lost: then it stops, and touches neither the turn nor the workspace.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import structlog

from baa.api.errors import BaaError, Unavailable
from baa.api.sessions import CreateSession, OnBusy, StartTurn, Turn, TurnStatus
from baa.api.tasks import (
    Attempt,
    AttemptState,
    AttemptTurn,
    CheckResult,
    Evidence,
    QueueEventType,
    SubmitTask,
    Task,
)
from baa.api.tasks import Workspace as Kind
from baa.client.pauses import pauses
from baa.clock import Clock
from baa.engine.store import Engine, EngineFailed, Lost
from baa.worker import checks, committing, decisions, prompts
from baa.worker.decisions import Await, End, Facts, RunCheck, Spent, Start, Why
from baa.worker.git import WorkspaceFailed
from baa.worker.turns import KEY, Turns, tokens_of
from baa.worker.workspace import Workspace, Workspaces

T = TypeVar("T")

MESSAGE_MAX: Final = 65_536
"""Characters of a turn's last message that are kept with the attempt; codexd keeps all of it."""

NOT_NOW_MS: Final = 300_000
"""For how long a task waits where the node's codexd cannot work: no login, no child, a full disk."""

GIVE_UP_S: Final = 3.0
"""Seconds that codexd is given to begin something, once the end of the task was asked for."""

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Executor:
    """What runs attempts for one incarnation (`owner`) of a node. `chance` gives numbers in [0, 1)."""

    engine: Engine
    turns: Turns
    workspaces: Workspaces
    clock: Clock
    node_id: str
    owner: str
    chance: Callable[[], float] = random.random

    async def run(self, task_id: str, number: int, cancel: asyncio.Event) -> None:
        """Run the attempt to its end, or until it is not ours any more. `cancel` is set once its end is asked for.

        Cancelled as a coroutine it leaves all as it is, for the next incarnation to go on.
        """
        log = _log.bind(task_id=task_id, attempt=number)
        try:
            claimed = await _while_away(
                lambda: self.engine.claim(task_id, number, node_id=self.node_id, owner=self.owner)
            )
            if claimed is None:
                log.info("attempt.not_ours")
                return
            log.info("attempt.claimed")
            await Attempting(self, *claimed, cancel).through()
        except Lost as lost:
            log.warning("attempt.lost", why=str(lost))


@dataclass
class Attempting:
    """One attempt in progress. `evidence` is always what is committed."""

    by: Executor
    task: Task
    attempt: Attempt
    cancel: asyncio.Event
    evidence: Evidence = field(init=False)
    session_id: str | None = field(init=False)
    workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = self.attempt.evidence
        self.session_id = self.attempt.session_id
        self._began = self.by.clock.monotonic() - self.attempt.time_ms / 1000
        self._cursor: str | None = None
        self._waited_for = 0
        if self.task.cancel_asked:
            self.cancel.set()

    @property
    def request(self) -> SubmitTask:
        """What was asked for."""
        return self.task.request

    @property
    def attempt_id(self) -> str:
        """`TASK:NUMBER`."""
        return self.attempt.attempt_id

    @property
    def previous(self) -> Attempt | None:
        """The attempt before this one."""
        earlier = [each for each in self.task.attempts or () if each.number < self.attempt.number]
        return earlier[-1] if earlier else None

    async def through(self) -> None:
        """Run it to its end. Raises Lost."""
        try:
            await self._in_its_folder()
        except WorkspaceFailed as failed:
            await self._finish(End(state=AttemptState.FAILED, reason=str(failed.code)), failed.message)
        except Unavailable as away:
            until = self.by.clock.utc_ms() + NOT_NOW_MS
            end = End(state=AttemptState.FAILED, reason=str(away.code), park_until_ms=until)
            await self._finish(end, away.message)
        except BaaError as refused:
            await self._finish(End(state=AttemptState.FAILED, reason=str(refused.code)), refused.message)
        except Lost:
            raise
        except Exception as error:  # boundary: attempt. A mistake of ours must not run the task again and again.
            _log.error("attempt.failed", attempt_id=self.attempt_id, exc_info=error)
            note = f"A mistake of baa's own ended the attempt: {type(error).__name__}: {error}"
            await self._finish(End(state=AttemptState.FAILED, reason="internal_error"), note)

    async def _in_its_folder(self) -> None:
        kind, folder = await self.by.workspaces.place(self.request)
        held = folder if kind is Kind.INPLACE else self.by.workspaces.root / self.task.task_id
        async with self.by.workspaces.hold(held, self.cancel) as free:
            if not free:
                await self._finish(End(state=AttemptState.CANCELED, reason="canceled"))
                return
            self.workspace = await self.by.workspaces.prepare(self.task.task_id, self.request)
            await self._record(
                workspace=str(self.workspace.folder),
                repository=None if self.workspace.home is None else str(self.workspace.home),
                branch=self.workspace.branch,
                base_commit=self.workspace.base,
                notes=self._with_notes(self.workspace.notes),
            )
            await self._work()

    async def _work(self) -> None:
        while True:
            action = decisions.following(self._facts())
            match action:
                case Start(delay_ms=delay_ms, number=number) if delay_ms and self._waited_for != number:
                    await self._unless_canceled(asyncio.sleep(delay_ms / 1000))
                    self._waited_for = number
                case Start():
                    await self._start(action)
                case Await():
                    await self._await_turn()
                case RunCheck():
                    await self._check(action)
                case End():
                    await self._finish(action)
                    return

    # --- facts

    def _facts(self) -> Facts:
        return Facts(
            request=self.request,
            turns=self.evidence.turns,
            checks=self.evidence.checks,
            canceled=self.cancel.is_set(),
            elapsed_ms=self._elapsed_ms(),
            earlier=Spent(
                tokens=self.task.tokens - self.attempt.tokens,
                turns=self.task.turns - len(self.attempt.evidence.turns),
                time_ms=self.task.time_ms,
            ),
            resets_at=self.evidence.resets_at,
            now_utc_ms=self.by.clock.utc_ms(),
            chance=self.by.chance(),
        )

    def _elapsed_ms(self) -> int:
        return round((self.by.clock.monotonic() - self._began) * 1000)

    def _with_notes(self, notes: Sequence[str]) -> list[str]:
        return [*self.evidence.notes, *(note for note in notes if note not in self.evidence.notes)]

    # --- turns

    async def _start(self, action: Start) -> None:
        """Begin the turn, or find that it was begun before its number was written down."""
        found = await self._unless_canceled(self._session(), GIVE_UP_S)
        if found is None:
            return
        session_id, goes_on = found
        key = f"{self.attempt_id}:{action.number}"
        asked = StartTurn(
            session_id=session_id,
            prompt=self._prompt(action.why, goes_on=goes_on),
            on_busy=OnBusy.ENQUEUE,  # a person may have a turn of their own in it
            effort=self.request.effort,
            output_schema=self.request.output_schema,
            deadline_ms=action.deadline_ms,
            stall_ms=self.request.stall_ms,
            lease_ms=self.by.turns.lease_ms,
            metadata={"taskId": self.task.task_id, KEY: key},
        )
        begun = await self._unless_canceled(self.by.turns.start(asked, key), GIVE_UP_S)
        if begun is None:  # codexd is away; if it took the turn before, the turn ends with its lease
            return
        turn_id, self._cursor = begun
        began = AttemptTurn(number=action.number, turn_id=turn_id, why=str(action.why))
        await self._record(
            told=[(QueueEventType.ATTEMPT_TURN, {"number": began.number, "turnId": turn_id, "why": began.why})],
            session_id=session_id,
            turn_id=turn_id,
            turns=[*self.evidence.turns, began],
        )

    async def _session(self) -> tuple[str, bool]:
        """The session to work in, and whether it knows of the attempt before this one."""
        previous = self.previous
        earlier = None
        if previous is not None and previous.reason == "usage_limit" and previous.node_id == self.by.node_id:
            earlier = previous.session_id
        asked = CreateSession(
            cwd=str(self.workspace.cwd),
            purpose=self.attempt_id,
            writable_roots=self._writable(),
            model=self.request.model,
            sandbox=self.request.sandbox,
            approval_policy=self.request.approval_policy,
            metadata={"taskId": self.task.task_id},
        )
        found, which = await self.by.turns.session(asked, self.session_id, earlier)
        if found != self.session_id:
            await self._record(session_id=found)
        return found, earlier is not None and which == earlier

    def _writable(self) -> list[str]:
        """A worktree is the task's own, also above the folder that the agent begins in."""
        whole = self.workspace.kind is Kind.WORKTREE and self.workspace.cwd != self.workspace.folder
        return [str(self.workspace.folder)] if whole else []

    def _prompt(self, why: Why, *, goes_on: bool) -> str:
        if why is Why.FIRST:
            if goes_on:
                return prompts.after_limit(self.request)
            return prompts.first(self.request, self.workspace, self.previous)
        last = self.evidence.turns[-1].number
        failed = [result for result in self.evidence.checks if result.turn == last and not result.passed]
        new = all(turn.status != TurnStatus.COMPLETED for turn in self.evidence.turns)
        return prompts.further(why, self.request, self.workspace, self.previous, failed, new=new)

    async def _await_turn(self) -> None:
        """Wait for the end of the running turn, and take down what it did."""
        running = self.evidence.turns[-1]
        tokens = decisions.tokens_left(self._facts())
        ended = await self.by.turns.end(running.turn_id, self._cursor, cancel=self.cancel, tokens=tokens)
        await self._record()  # whoever lost the attempt meanwhile must not commit beside its new owner
        after = _ended(running, ended)
        changed: dict[str, Any] = {"turns": [*self.evidence.turns[:-1], after]}
        if ended is not None:
            changed |= {"resets_at": ended.evidence.get("resetsAt"), "output": ended.output}
            changed["final_message"] = after.final_message or self.evidence.final_message
        try:
            changed |= await self._taken_down(after)
        except WorkspaceFailed:
            await self._record(**changed)
            raise
        payload = {"number": after.number, "turnId": after.turn_id, "status": after.status, "reason": after.reason}
        await self._record(told=[(QueueEventType.ATTEMPT_TURN, payload)], **changed)

    async def _taken_down(self, after: AttemptTurn) -> dict[str, Any]:
        """The commit and the diff, made before any check writes files of its own."""
        done = await committing.commit(
            self.workspace,
            f"{self.task.title}\n\nbaa: {self.task.task_id}, attempt {self.attempt.number}, turn {after.number}\n",
        )
        diff = await committing.diff(self.workspace)
        notes = self._with_notes(done.notes)
        return {"commit": done.commit, "diff": diff.text, "diff_stat": diff.stat, "notes": notes}

    # --- checks

    async def _check(self, action: RunCheck) -> None:
        check = msgspec.structs.replace(self.request.checks[action.index], timeout_ms=action.timeout_ms)
        turn = self.evidence.turns[-1].number
        result: CheckResult | None = await self._unless_canceled(
            checks.run(
                check,
                cwd=self.workspace.cwd,
                attempt_id=self.attempt_id,
                owner=self.by.owner,
                turn=turn,
                clock=self.by.clock,
            )
        )
        if result is None:
            return
        payload = {
            "command": result.command,
            "turn": turn,
            "passed": result.passed,
            "exitCode": result.exit_code,
            "timedOut": result.timed_out,
        }
        told = [(QueueEventType.ATTEMPT_CHECK, payload)]
        await self._record(told=told, checks=[*self.evidence.checks, result])

    async def _unless_canceled(self, doing: Coroutine[Any, Any, T], give_up_s: float = 0) -> T | None:
        """What it gives; None if the end of the task was asked for, and it did not come to its own in `give_up_s`."""

        async def done() -> T | Exception:
            try:
                return await doing
            except (BaaError, Lost) as error:  # raised below, and not in a group
                return error

        async with asyncio.TaskGroup() as group:
            task = group.create_task(done(), name="attempt-doing")
            canceling = group.create_task(self.cancel.wait(), name="attempt-cancel")
            await asyncio.wait((task, canceling), return_when=asyncio.FIRST_COMPLETED)
            canceling.cancel()
            if not task.done() and give_up_s:
                await asyncio.wait((task,), timeout=give_up_s)
            if not task.done():
                task.cancel()
        if task.cancelled():
            return None
        result = task.result()
        if isinstance(result, Exception):
            raise result
        return result

    # --- what is written down

    async def _record(
        self,
        *,
        told: Sequence[tuple[str, Mapping[str, Any]]] = (),
        session_id: str | None = None,
        turn_id: str | None = None,
        **changed: Any,
    ) -> None:
        """Commit what changed in the evidence; while the database is away, wait. Raises Lost."""
        evidence = msgspec.structs.replace(self.evidence, **changed)
        standing = await _while_away(
            lambda: self.by.engine.record(
                self.by.owner,
                self.attempt_id,
                session_id=session_id,
                turn_id=turn_id,
                evidence=evidence,
                tokens=sum(turn.tokens for turn in evidence.turns),
                events=told,
            )
        )
        self.evidence = evidence
        self.session_id = session_id or self.session_id
        if standing.cancel_asked:
            self.cancel.set()

    async def _finish(self, end: End, note: str | None = None) -> None:
        notes = self._with_notes(() if note is None else (note,))
        evidence = msgspec.structs.replace(self.evidence, notes=notes)
        await _while_away(
            lambda: self.by.engine.finish(
                self.by.owner,
                self.attempt_id,
                end.state,
                reason=end.reason,
                evidence=evidence,
                tokens=sum(turn.tokens for turn in evidence.turns),
                park_until_ms=end.park_until_ms,
            )
        )
        _log.info("attempt.ended", attempt_id=self.attempt_id, state=str(end.state), reason=end.reason)


def _ended(running: AttemptTurn, ended: Turn | None) -> AttemptTurn:
    """The turn as it is kept; one that codexd does not know any more is lost."""
    if ended is None:
        return msgspec.structs.replace(running, status=TurnStatus.LOST, reason="turn_gone")
    message = None if ended.final_message is None else ended.final_message[:MESSAGE_MAX].replace("\0", "\ufffd")
    return msgspec.structs.replace(
        running,
        status=ended.status,
        reason=decisions.reason_of(ended.reason, ended.error),
        tokens=tokens_of(ended),
        final_message=message,
    )


async def _while_away(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the engine answers, once it is there. A turn whose worker waits here too long is ended by its lease."""
    for pause in pauses():
        try:
            return await ask()
        except EngineFailed as failed:
            _log.warning("engine.trouble", error=str(failed))
            await asyncio.sleep(pause)
    raise AssertionError("pauses do not end")
