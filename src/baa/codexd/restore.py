"""What boot reads from the tables: sessions and turns as the machines know them, and the child that may still live."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import msgspec

from baa.api.interactions import InteractionKind
from baa.api.sessions import Fork, ItemStatus, SessionSettings, TurnRequest, TurnStatus
from baa.clock import Clock
from baa.codexd.appserver.lines import SteerNote
from baa.codexd.appserver.spool import Spool
from baa.codexd.generation import Generation
from baa.codexd.machines.inputs import TimerKind
from baa.codexd.machines.interaction import Question
from baa.codexd.machines.session import Agent, Session, with_turn
from baa.codexd.machines.turn import Item, Said, Steer, StopWish, Turn
from baa.codexd.seal import Seal
from baa.codexd.timers import StoredTimer
from baa.codexd.walltime import ago_ms


@dataclass(slots=True)
class Restored:
    """What boot read from the tables. `silent_ms`: for how long nothing was heard of a running turn that may stall."""

    sessions: dict[str, Session] = field(default_factory=dict)
    timers: list[StoredTimer] = field(default_factory=list)
    silent_ms: dict[str, int] = field(default_factory=dict)
    generation: int = 0


def restore(connection: apsw.Connection, clock: Clock, seal: Seal) -> Restored:
    """The state that the tables hold. What they tell without its secrets is taken from where it stands closed."""
    restored = Restored()
    kept = _kept(connection, seal)
    (restored.generation,) = next(connection.execute("SELECT coalesce(max(generation), 0) FROM generation"))
    for row in connection.execute(
        "SELECT session_id, settings, thread_id, resumable, coalesce(loaded.generation, 0), forked_from, model, effort,"
        " effort_set, closed_at IS NOT NULL FROM session LEFT JOIN loaded USING (session_id)"
    ):
        session_id, settings, thread_id, resumable, loaded_in, fork, model, effort, effort_set, closed = row
        restored.sessions[session_id] = Session(
            session_id,
            msgspec.json.decode(kept.get(session_id, settings), type=SessionSettings),
            thread_id=thread_id,
            resumable=bool(resumable),
            loaded_in=loaded_in,
            fork=None if fork is None else msgspec.json.decode(fork, type=Fork),
            model=model,
            effort=effort,
            effort_set=bool(effort_set),
            closed=bool(closed),
        )
    for thread_id, session_id, codex_turn_id in connection.execute("SELECT * FROM agent"):
        session = restored.sessions[session_id]
        agents = (*session.agents, Agent(thread_id, codex_turn_id))
        restored.sessions[session_id] = replace(session, agents=agents)
    for turn, session_id in _open_turns(connection, kept):
        session = restored.sessions[session_id]
        # At most one of a session is with Codex, and it is the oldest.
        restored.sessions[session_id] = replace(session, turns=(*session.turns, turn))
    _endings(connection, restored, seal)
    _questions(connection, restored, kept)
    _asked(connection, restored, seal)
    for owner_id, kind, boot, monotonic_ms, utc_ms in connection.execute(
        "SELECT owner_id, kind, boot_id, monotonic_ms, utc_ms FROM timer"
    ):
        restored.timers.append(StoredTimer(owner_id, TimerKind(kind), boot, monotonic_ms, utc_ms))
    _silences(connection, restored, clock)
    return restored


def _kept(connection: apsw.Connection, seal: Seal) -> dict[str, bytes]:
    """What is kept closed, by its owner. Without its key there is what the tables tell, and nothing better."""
    opened = ((owner_id, seal.open(told)) for owner_id, told in connection.execute("SELECT owner_id, told FROM sealed"))
    return {owner_id: told for owner_id, told in opened if told is not None}


def _open_turns(connection: apsw.Connection, kept: dict[str, bytes]) -> list[tuple[Turn, str]]:
    rows = connection.execute(
        "SELECT turn_id, session_id, request, status, codex_turn_id, turn.generation, generation.ended_at IS NOT NULL,"
        " generation.keeper_died, final_message FROM turn LEFT JOIN generation USING (generation)"
        " WHERE turn.ended_at IS NULL ORDER BY queued_seq"
    )
    turns = []
    for turn_id, session_id, asked, status, codex_turn_id, generation, dead, keeper_died, final in list(rows):
        request = msgspec.json.decode(kept.get(turn_id, asked), type=TurnRequest)
        turn = Turn(
            turn_id,
            request,
            status=TurnStatus(status),
            codex_turn_id=codex_turn_id,
            generation=generation,
            open_items=tuple(Item(*row) for row in _items(connection, turn_id, ItemStatus.STARTED)),
            done_items=tuple(item_id for item_id, _ in _items(connection, turn_id, ItemStatus.COMPLETED)),
            unresolved=generation if dead else 0,
            keeper_died=bool(dead and keeper_died),
            final_text=None if request.output_schema is None else final,
        )
        turns.append((turn, session_id))
    # One that Codex began by itself stands before those that waited, though it came after them.
    return sorted(turns, key=lambda each: each[0].status is TurnStatus.QUEUED)


def _items(connection: apsw.Connection, turn_id: str, status: ItemStatus) -> list[tuple[str, str]]:
    return list(
        connection.execute(
            "SELECT item_id, kind FROM item WHERE turn_id = ? AND status = ? ORDER BY started_seq", (turn_id, status)
        )
    )


def _change(restored: Restored, turn_id: str, **changes: Any) -> None:
    for session in restored.sessions.values():
        for turn in session.turns:
            if turn.turn_id == turn_id:
                restored.sessions[session.session_id] = with_turn(session, replace(turn, **changes))
                return


class _Ending(msgspec.Struct):
    stop: StopWish | None = None
    said: Said | None = None


def _endings(connection: apsw.Connection, restored: Restored, seal: Seal) -> None:
    """Which turns are to end, and which sessions are to be closed."""
    for owner_id, told in connection.execute("SELECT owner_id, told FROM ending"):
        ending = msgspec.json.decode(seal.open_text(told) or "{}", type=_Ending)
        session = restored.sessions.get(owner_id)
        if session is not None:
            restored.sessions[owner_id] = replace(session, closing=True)
        else:
            _change(restored, owner_id, stop=ending.stop, said=ending.said)


def _questions(connection: apsw.Connection, restored: Restored, kept: dict[str, bytes]) -> None:
    rows = connection.execute(
        "SELECT session_id, interaction_id, generation, request_id, kind, turn_id, decisions, request FROM interaction"
        " WHERE status = 'open' ORDER BY asked_seq"
    )
    for session_id, interaction_id, generation, request_id, kind, turn_id, decisions, request in rows:
        question = Question(
            interaction_id,
            generation,
            msgspec.json.decode(request_id, type=str | int),
            InteractionKind(kind),
            turn_id,
            tuple(msgspec.json.decode(decisions)),
            msgspec.Raw(kept.get(interaction_id, request.encode())),
        )
        session = restored.sessions[session_id]
        restored.sessions[session_id] = replace(session, questions=(*session.questions, question))


def _asked(connection: apsw.Connection, restored: Restored, seal: Seal) -> None:
    """What the living child was asked and has not answered: these requests are still in the outbox."""
    for generation, request_id, note in connection.execute(
        "SELECT generation, request_id, note FROM outbox WHERE request_id IS NOT NULL ORDER BY number"
    ):
        owner_id, what, *rest = request_id.split(":")
        session = restored.sessions.get(owner_id)
        match what:
            case "history" if session is not None:
                restored.sessions[owner_id] = replace(session, asking_in=generation)
            case "open" | "resume" | "fork" if session is not None:
                restored.sessions[owner_id] = replace(session, opening_in=generation)
            case "clean":
                _change(restored, owner_id, cleaning_in=generation)
            case "steer":
                opened = seal.open(note)
                if opened is None:  # the log has gone back, then, and its open turns are lost
                    continue
                told = msgspec.json.decode(opened, type=SteerNote)
                steer = Steer(rest[0], told.input, told.idempotency_key, told.body_hash, sent=True)
                _add_steer(restored, owner_id, steer)


def _add_steer(restored: Restored, turn_id: str, steer: Steer) -> None:
    for session in list(restored.sessions.values()):
        for turn in session.turns:
            if turn.turn_id == turn_id:
                after = replace(turn, steers=(*turn.steers, steer))
                restored.sessions[session.session_id] = with_turn(session, after)


def _silences(connection: apsw.Connection, restored: Restored, clock: Clock) -> None:
    """For how long nothing was heard of the turns that may stall: since the last event of their session."""
    for session in restored.sessions.values():
        running = session.running
        if running is not None and running.request.stall_ms is not None:
            seq, at = next(
                connection.execute(
                    "SELECT seq, json_extract(body, '$.at') FROM event WHERE session_id = ? ORDER BY seq DESC LIMIT 1",
                    (session.session_id,),
                )
            )
            restored.silent_ms[running.turn_id] = ago_ms(connection, clock, seq, at)


def living(connection: apsw.Connection, keepers: Path, clock: Clock) -> Generation | None:
    """The generation that had not ended when the last codexd wrote its last word, if there is one."""
    row = next(
        connection.execute(
            "SELECT generation, keeper_id, folder, child_pid, child_start, version, ready_at IS NOT NULL,"
            " spool_read, lines"
            " FROM generation WHERE ended_at IS NULL"
        ),
        None,
    )
    if row is None:
        return None
    number, keeper_id, folder, child_pid, child_start, version, was_ready, spool_read, lines = row
    asked = connection.execute(
        "SELECT request_id, number FROM outbox WHERE generation = ? AND request_id IS NOT NULL", (number,)
    )
    return Generation(
        number,
        keeper_id,
        keepers / folder,
        Spool(keepers / folder / "spool", spool_read),
        clock,
        lines=lines,
        given=lines,
        child_pid=child_pid,
        child_start=child_start,
        version=version,
        was_ready=bool(was_ready),
        asked=dict(asked),
    )
