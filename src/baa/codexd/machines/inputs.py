"""What can happen to a session, and what it may ask to be done. Data only.

Inputs come from HTTP, from the child (already translated: nothing here knows a method name of Codex's) and from the
supervisor. Effects are carried out after the commit of the events they came with.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Raw, Struct, UnsetType

from baa.api.events import EventType, ItemDelta, Payload
from baa.api.interactions import AnswerInteraction, InteractionKind
from baa.api.sessions import Fork, InputPart, Origin, SessionSettings, TurnRequest
from baa.codexd.machines.turn import Said, StopWish


class NewEvent(Struct, frozen=True):
    """An event that is not committed yet: the log gives it its seq and time."""

    type: EventType
    session_id: str | None
    turn_id: str | None
    payload: Payload


# --- inputs: from HTTP


class TurnRequested(Struct, frozen=True):
    """A client wants a turn."""

    turn_id: str
    request: TurnRequest
    idempotency_key: str | None = None
    body_hash: str | None = None
    origin: Origin = Origin.API


class OpenWanted(Struct, frozen=True):
    """Somebody looks at the thread in Codex's own terminal UI: the child is to have it, also while no turn runs."""


class SteerRequested(Struct, frozen=True):
    """A client has more input for the turn that is with Codex."""

    steer_id: str
    turn_id: str
    input: tuple[InputPart, ...]
    idempotency_key: str | None = None
    body_hash: str | None = None


class SteerWithdrawn(Struct, frozen=True):
    """Whoever wanted to steer waits no longer: what was not sent yet is not sent."""

    steer_id: str


class StopTurn(Struct, frozen=True):
    """Somebody or something wants the turn ended."""

    turn_id: str
    stop: StopWish


class CloseRequested(Struct, frozen=True):
    """A client wants the session closed, and before that every turn of it ended."""


class InteractionAnswered(Struct, frozen=True):
    """A client answered a question. That it fits was seen to."""

    interaction_id: str
    answer: AnswerInteraction


# --- inputs: from the clock


class TimerKind(StrEnum):
    """What a timer is for."""

    DEADLINE = "deadline"  # a turn's, from its acceptance
    STALL = "stall"  # nothing was heard of a running turn
    LEASE = "lease"  # nobody renewed the turn
    ANSWER = "answer"  # an interaction's deadline
    IDLE = "idle"  # the session has had no turn for a while
    OPENING = "opening"  # Codex opens the session's thread
    BEGINNING = "beginning"  # Codex begins the turn
    STOPPING = "stopping"  # Codex ends the turn
    CLEANING = "cleaning"  # Codex ends what the turn left running
    TELLING = "telling"  # Codex tells of the session's turns


class TimeUp(Struct, frozen=True):
    """The time that was set for a turn, an interaction or the session is over."""

    owner_id: str
    kind: TimerKind


# --- inputs: from the supervisor


class ChildBecameReady(Struct, frozen=True):
    """A child can take turns."""


class ChildDied(Struct, frozen=True):
    """The child of this generation is gone, and all that it wrote has been read.

    `taken` tells whether the keeper took the line that handed over this session's turn; None = nobody can say, because
    the keeper died too (`keeper_died`).
    """

    generation: int
    taken: bool | None
    keeper_died: bool


class NoChildToAsk(Struct, frozen=True):
    """No child will be there soon to ask about a turn whose end is in doubt."""

    why: str


class ChildEndedByUs(Struct, frozen=True):
    """codexd ended the child: what still ran was interrupted by that."""


class LogWentBack(Struct, frozen=True):
    """The log is older than the keeper's spool: what happened since its copy was made cannot be told."""

    why: str


# --- inputs: from the child


class ThreadOpened(Struct, frozen=True):
    """Codex has the session's thread in memory."""

    generation: int
    thread_id: str
    fresh: bool
    model: str | None
    effort: str | None = None


class ThreadRefused(Struct, frozen=True):
    """Codex will not open the session's thread."""

    error: dict[str, Any]


class TurnNamed(Struct, frozen=True):
    """Codex has begun a turn and named it. `new_id` is what it will be called if Codex began it by itself."""

    codex_turn_id: str
    emitted_at: str | None
    new_id: str | None = None


class TurnRefused(Struct, frozen=True):
    """Codex answered the hand-over of a turn with an error, or, `forbidden`, it was not asked: the ceiling is lower."""

    turn_id: str
    error: dict[str, Any]
    forbidden: bool = False


class TurnEnd(StrEnum):
    """How Codex says that a turn ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class TurnFinished(Struct, frozen=True):
    """Codex says that a turn ended. `limits` are the account's as last told, `resets_at` when used-up ones reset."""

    codex_turn_id: str
    end: TurnEnd
    error: dict[str, Any] | None
    emitted_at: str | None
    limits: dict[str, Any] | None = None
    resets_at: str | None = None


class TurnSteered(Struct, frozen=True):
    """Codex took the input, or would not."""

    turn_id: str
    steer_id: str
    error: dict[str, Any] | None = None


class TerminalsCleaned(Struct, frozen=True):
    """Codex ended the thread's background terminals, or could not say so."""

    turn_id: str
    error: dict[str, Any] | None = None


class LeftLooked(Struct, frozen=True):
    """What an interrupted turn had left running was looked for: `evidence` says what was ended and what is left."""

    turn_id: str
    evidence: dict[str, Any]


class Asked(Struct, frozen=True):
    """Codex asks something of its client, and waits."""

    interaction_id: str
    generation: int
    request_id: str | int
    kind: InteractionKind
    codex_turn_id: str | None
    item_id: str | None
    request: Raw
    decisions: tuple[Any, ...]
    deadline_ms: int
    deadline_at: str


class AskedNoMore(Struct, frozen=True):
    """Codex no longer waits for the answer to this request: it has one, or its turn is over."""

    generation: int
    request_id: str | int


class ItemBegan(Struct, frozen=True):
    """An item started. `agents` are the threads of the sub-agents that it is about."""

    codex_turn_id: str
    item_id: str
    kind: str
    item: Raw
    emitted_at: str | None
    agents: tuple[str, ...] = ()


class ItemGrew(Struct, frozen=True):
    """Pieces of items, as Codex said them one after the other: it says most of what it says in such runs."""

    codex_turn_id: str
    pieces: tuple[ItemDelta, ...]


class ItemFinished(Struct, frozen=True):
    """An item is complete."""

    codex_turn_id: str
    item_id: str
    kind: str
    item: Raw
    emitted_at: str | None
    text: str | None = None
    agents: tuple[str, ...] = ()


class Updated(Struct, frozen=True):
    """Usage, plan or diff of a turn changed: `type` says which."""

    codex_turn_id: str
    type: EventType
    update: Raw
    emitted_at: str | None


class Noted(Struct, frozen=True):
    """A message of Codex about this session that is passed on whole.

    `retried_turn_id`: Codex asks the model again, and begins what it was saying in this turn of its anew.
    """

    type: EventType
    method: str
    params: Raw | UnsetType
    emitted_at: str | None
    answered: str | None = None
    retried_turn_id: str | None = None


FromThread = TurnNamed | TurnFinished | ItemBegan | ItemGrew | ItemFinished | Updated | Noted
"""What Codex tells of a thread."""


class OfAgent(Struct, frozen=True):
    """What happens in the thread of a sub-agent, which a turn of the session's began."""

    thread_id: str
    given: FromThread


class FoundTurn(Struct, frozen=True):
    """A turn as Codex's own history tells it. `client_id` is the turn id that we gave with its input."""

    codex_turn_id: str
    client_id: str | None
    end: TurnEnd | None
    error: dict[str, Any] | None
    items: tuple[tuple[str, str, Raw, str | None], ...]


class HistoryRead(Struct, frozen=True):
    """Codex's history of the thread, newest first; None = Codex has none."""

    turns: tuple[FoundTurn, ...] | None
    error: dict[str, Any] | None = None


Input = (
    TurnRequested
    | OpenWanted
    | SteerRequested
    | SteerWithdrawn
    | StopTurn
    | CloseRequested
    | InteractionAnswered
    | TimeUp
    | ChildBecameReady
    | ChildDied
    | NoChildToAsk
    | ChildEndedByUs
    | LogWentBack
    | ThreadOpened
    | ThreadRefused
    | TurnNamed
    | TurnRefused
    | TurnFinished
    | TurnSteered
    | TerminalsCleaned
    | LeftLooked
    | Asked
    | AskedNoMore
    | ItemBegan
    | ItemGrew
    | ItemFinished
    | Updated
    | Noted
    | OfAgent
    | HistoryRead
)


# --- effects: lines for the child


class OpenThread(Struct, frozen=True):
    """Ask Codex to open the session's thread: `thread_id` to resume it, None for a new one (with `fork`'s past)."""

    session_id: str
    thread_id: str | None
    settings: SessionSettings
    fork: Fork | None = None


class HandTurn(Struct, frozen=True):
    """Hand the turn to Codex, with all that holds for it: what one turn changes, Codex would keep for the next.

    `forget_effort`: an earlier turn set it, and this one is to have the model's own.
    """

    turn_id: str
    thread_id: str
    request: TurnRequest
    settings: SessionSettings
    model: str | None
    effort: str | None
    forget_effort: bool = False


class SteerTurn(Struct, frozen=True):
    """Give Codex more input for its turn."""

    turn_id: str
    steer_id: str
    thread_id: str
    codex_turn_id: str
    input: tuple[InputPart, ...]
    idempotency_key: str | None
    body_hash: str | None


class InterruptTurn(Struct, frozen=True):
    """Ask Codex to end the turn."""

    turn_id: str
    thread_id: str
    codex_turn_id: str


class CleanTerminals(Struct, frozen=True):
    """Ask Codex to end the commands that the thread's turns left running. `answered`: go on once it did."""

    turn_id: str
    thread_id: str
    answered: bool = True


class ReadHistory(Struct, frozen=True):
    """Ask Codex what became of the thread's last turns."""

    session_id: str
    thread_id: str


class UnloadThread(Struct, frozen=True):
    """Let Codex forget the thread until it is needed again."""

    session_id: str
    thread_id: str


class Answer(Struct, frozen=True):
    """Answer a question of Codex's; without an answer, decline it."""

    request_id: str | int
    kind: InteractionKind
    request: Raw
    decision: Any
    answer: AnswerInteraction | None


LineEffect = OpenThread | HandTurn | SteerTurn | InterruptTurn | CleanTerminals | ReadHistory | UnloadThread | Answer

# --- effects: all else


class SetTimer(Struct, frozen=True):
    """Come back in `after_ms`, with TimeUp. One of this kind and owner replaces the one before."""

    owner_id: str
    kind: TimerKind
    after_ms: int


class Idle(Struct, frozen=True):
    """The session has nothing to do: come back when it has had nothing for a while."""

    session_id: str


class Remember(Struct, frozen=True):
    """Keep how a turn is to end, or that the session is to be closed, beyond codexd's own end."""

    owner_id: str
    stop: StopWish | None = None
    said: Said | None = None


class LookForLeft(Struct, frozen=True):
    """Look for processes that an interrupted turn left, and end those that are surely its own."""

    session_id: str
    turn_id: str


class EndChild(Struct, frozen=True):
    """End the child: it does not do what it must."""

    reason: str


class SteerDone(Struct, frozen=True):
    """Tell whoever wanted to steer: without an error, Codex took it."""

    steer_id: str
    error: dict[str, Any] | None = None


class Count(Struct, frozen=True):
    """Count a message that came too late, twice, or for nobody."""

    what: str


Effect = LineEffect | SetTimer | Idle | Remember | LookForLeft | EndChild | SteerDone | Count
