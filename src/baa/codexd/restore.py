"""What boot reads from the tables: sessions and turns as the machines know them, and the child that may still live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw
import msgspec

from baa.api.sessions import ItemStatus, SessionSettings, TurnRequest, TurnStatus
from baa.clock import Clock
from baa.codexd.appserver.keeper_link import Spool
from baa.codexd.generation import Generation
from baa.codexd.machines.session import Session
from baa.codexd.machines.turn import Turn
from baa.codexd.main_loop import Restored


def restore(connection: apsw.Connection) -> Restored:
    """The state that the tables hold."""
    restored = Restored()
    (restored.generation,) = next(connection.execute("SELECT coalesce(max(generation), 0) FROM generation"))
    for session_id, settings, thread_id, resumable, loaded_in in connection.execute(
        "SELECT session_id, settings, thread_id, resumable, loaded_in FROM session"
    ):
        restored.sessions[session_id] = Session(
            session_id,
            msgspec.json.decode(settings, type=SessionSettings),
            thread_id=thread_id,
            resumable=bool(resumable),
            loaded_in=loaded_in,
        )
    for turn, session_id in _open_turns(connection):
        session = restored.sessions[session_id]
        # At most one of a session is with Codex, and it is the oldest.
        restored.sessions[session_id] = replace(session, turns=(*session.turns, turn))
    _asked(connection, restored)
    for key, body_hash, turn_id, queued_seq in connection.execute(
        "SELECT key, body_hash, turn_id, queued_seq - 1 FROM idempotency_key JOIN turn USING (turn_id)"
    ):
        restored.keys[key] = (body_hash, turn_id, queued_seq)
    return restored


def _open_turns(connection: apsw.Connection) -> list[tuple[Turn, str]]:
    rows = connection.execute(
        "SELECT turn_id, session_id, request, status, codex_turn_id, turn.generation, generation.ended_at IS NOT NULL,"
        " generation.keeper_died FROM turn LEFT JOIN generation USING (generation)"
        " WHERE turn.ended_at IS NULL ORDER BY queued_seq"
    )
    turns = []
    for turn_id, session_id, request, status, codex_turn_id, generation, dead, keeper_died in list(rows):
        turn = Turn(
            turn_id,
            msgspec.json.decode(request, type=TurnRequest),
            status=TurnStatus(status),
            codex_turn_id=codex_turn_id,
            generation=generation,
            open_items=_items(connection, turn_id, ItemStatus.STARTED),
            done_items=_items(connection, turn_id, ItemStatus.COMPLETED),
            unresolved=generation if dead else 0,
            keeper_died=bool(dead and keeper_died),
        )
        turns.append((turn, session_id))
    return turns


def _items(connection: apsw.Connection, turn_id: str, status: ItemStatus) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT item_id FROM item WHERE turn_id = ? AND status = ? ORDER BY started_seq", (turn_id, status)
    )
    return tuple(item_id for (item_id,) in rows)


def _asked(connection: apsw.Connection, restored: Restored) -> None:
    """Which sessions wait for an answer of the living child: its questions are still in the outbox."""
    for generation, request_id in connection.execute(
        "SELECT generation, request_id FROM outbox WHERE request_id LIKE 'ses\\_%' ESCAPE '\\'"
    ):
        session_id, what, _ = request_id.split(":")
        session = restored.sessions[session_id]
        if what == "history":
            restored.sessions[session_id] = replace(session, asking_in=generation)
        else:
            restored.sessions[session_id] = replace(session, opening_in=generation)


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
