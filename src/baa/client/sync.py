"""codexd and the conductor for scripts without async: the same methods and types, and events as a plain iterator.

    with Codexd() as codexd:
        session = codexd.create_session(CreateSession(cwd="/home/me/project"))
        started = codexd.start_turn(StartTurn(session_id=session.session_id, prompt="Which tests are slow?"))
        with codexd.events(after=started.cursor) as events:
            for event in events: ...

Every call runs the async method to its end, in this thread. Not for use inside a running event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, overload

from baa.api.events import Event, EventType
from baa.api.tasks import QueueEvent, Task, TaskState
from baa.client import codexd as codexds
from baa.client import conductor as conductors
from baa.client.events import E, EventStream
from baa.client.peer import PATIENCE_S, Peer
from baa.config import Config
from baa.http.tokens import Name

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=Peer)


class Blocking(Generic[A]):
    """A peer whose methods wait for their answers. A context manager; to be used in one thread."""

    def __init__(self, peer: A) -> None:
        """Made by its subclasses."""
        self._peer = peer
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()

    def __enter__(self) -> Self:
        self._wait(self._open.enter_async_context(self._peer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self._open.aclose())
        finally:
            self._runner.close()

    def _wait(self, awaited: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(awaited)

    @contextmanager
    def _following(self, stream: EventStream[E]) -> Iterator[Events[E]]:
        self._wait(stream.__aenter__())
        try:
            yield Events(self._wait, stream)
        finally:
            self._wait(stream.__aexit__(None, None, None))


class method(Generic[A, P, T]):  # noqa: N801 - it stands where `def` would
    """A method of the async peer that waits for its answer."""

    def __init__(self, method: Callable[Concatenate[A, P], Awaitable[T]]) -> None:
        """`method`: of the async peer."""
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Blocking[A]]) -> Self: ...
    @overload
    def __get__(self, instance: Blocking[A], owner: type[Blocking[A]]) -> Callable[P, T]: ...
    def __get__(self, instance: Blocking[A] | None, owner: type[Blocking[A]]) -> Self | Callable[P, T]:
        if instance is None:
            return self
        bound = instance

        def waits(*args: P.args, **kwargs: P.kwargs) -> T:
            async def ask() -> T:
                return await self._method(bound._peer, *args, **kwargs)

            return bound._wait(ask())

        return waits


class Events(Generic[E]):
    """The events of an EventStream, one after the other, without an end; `cursor` is what to come back with.

    Between two events nothing is read: after a while the program lets go of the connection, and the next event comes
    over another one, by the cursor.
    """

    def __init__(self, wait: Callable[[Coroutine[Any, Any, Any]], Any], stream: EventStream[E]) -> None:
        """Made by `Codexd.events` and `Conductor.events`."""
        self._wait = wait
        self._stream: EventStream[E] = stream

    @property
    def cursor(self) -> str | None:
        """Everything before it was handed out."""
        return self._stream.cursor

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        """The next event. Raises as EventStream does."""
        event: E = self._wait(self._stream.__anext__())
        return event


class Codexd(Blocking[codexds.Codexd]):
    """This node's codexd, as `baa.client.codexd.Codexd` has it."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        scope: Name = "drive",
        through: Literal["codexd", "conductor"] = "codexd",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """As the async one."""
        super().__init__(codexds.Codexd(config, scope=scope, through=through, patience_s=patience_s))

    health = method(codexds.Codexd.health)
    status = method(codexds.Codexd.status)
    openapi = method(codexds.Codexd.openapi)
    metrics = method(codexds.Codexd.metrics)
    handover = method(codexds.Codexd.handover)
    drain = method(codexds.Codexd.drain)
    restart_child = method(codexds.Codexd.restart_child)
    backup = method(codexds.Codexd.backup)
    create_session = method(codexds.Codexd.create_session)
    session = method(codexds.Codexd.session)
    sessions = method(codexds.Codexd.sessions)
    turns = method(codexds.Codexd.turns)
    close_session = method(codexds.Codexd.close_session)
    fork_session = method(codexds.Codexd.fork_session)
    attach = method(codexds.Codexd.attach)
    answer_in_session = method(codexds.Codexd.answer_in_session)
    start_turn = method(codexds.Codexd.start_turn)
    turn = method(codexds.Codexd.turn)
    transcript = method(codexds.Codexd.transcript)
    interrupt_turn = method(codexds.Codexd.interrupt_turn)
    steer_turn = method(codexds.Codexd.steer_turn)
    renew_turn = method(codexds.Codexd.renew_turn)
    answer_in_turn = method(codexds.Codexd.answer_in_turn)
    event_page = method(codexds.Codexd.event_page)

    @contextmanager
    def events(
        self, after: str | None = "0", *, session_id: str | None = None, types: Iterable[EventType] | None = None
    ) -> Iterator[Events[Event]]:
        """The events that follow a cursor, and those to come: `0` = from the oldest, None = from now."""
        with self._following(self._peer.events(after, session_id=session_id, types=types)) as events:
            yield events


class Conductor(Blocking[conductors.Conductor]):
    """This node's conductor, as `baa.client.conductor.Conductor` has it."""

    def __init__(self, config: Config | None = None, *, scope: Name = "drive", patience_s: float = PATIENCE_S) -> None:
        """As the async one."""
        super().__init__(conductors.Conductor(config, scope=scope, patience_s=patience_s))

    health = method(conductors.Conductor.health)
    openapi = method(conductors.Conductor.openapi)
    metrics = method(conductors.Conductor.metrics)
    ready = method(conductors.Conductor.ready)
    role = method(conductors.Conductor.role)
    submit = method(conductors.Conductor.submit)
    task = method(conductors.Conductor.task)
    task_page = method(conductors.Conductor.task_page)
    cancel = method(conductors.Conductor.cancel)
    retry = method(conductors.Conductor.retry)
    nodes = method(conductors.Conductor.nodes)
    drain = method(conductors.Conductor.drain)
    paused = method(conductors.Conductor.paused)
    pause = method(conductors.Conductor.pause)
    resume = method(conductors.Conductor.resume)
    event_page = method(conductors.Conductor.event_page)

    def tasks(self, *, states: Iterable[TaskState] | None = None, since: str | None = None) -> Iterator[Task]:
        """All tasks, or those in these states and none that ended before `since`, newest first, without their attempts.

        Read as far as they are taken.
        """
        found = self._peer.tasks(states=states, since=since)
        while (task := self._wait(_following_one(found))) is not None:
            yield task

    @contextmanager
    def events(
        self, after: str | None = "0", *, task_id: str | None = None, types: Iterable[str] | None = None
    ) -> Iterator[Events[QueueEvent]]:
        """The events that follow a cursor, and those to come: `0` = from the oldest, None = from now."""
        with self._following(self._peer.events(after, task_id=task_id, types=types)) as events:
            yield events


async def _following_one(found: AsyncIterator[Task]) -> Task | None:
    return await anext(found, None)
