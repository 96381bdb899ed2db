"""What must hold of a log, whatever happened: judged from its bytes, its tables and what the little Codex knows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import apsw
import msgspec
from msgspec import Raw, Struct

from baa.api.events import TURN_ENDS, EventType
from baa.api.sessions import TURN_ENDED, TurnStatus
from baa.codexd import schema, tables
from baa.sqlite import open_reader
from tests.support.little_codex import STREAMS
from tests.support.witness import Witness
from tests.support.world import World


class Told(Struct, rename="camel", frozen=True):
    """An event as its bytes in the log tell it."""

    seq: int
    at: str
    type: EventType
    session_id: str | None
    turn_id: str | None
    payload: Raw

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = msgspec.json.decode(self.payload)
        return facts


class _Facts(Struct, rename="camel"):
    item_id: str = ""
    requeued: bool = False
    origin: str = "api"


def told(connection: apsw.Connection) -> list[Told]:
    rows = connection.execute("SELECT body FROM event ORDER BY seq")
    return [msgspec.json.decode(body, type=Told) for (body,) in rows]


def folded(events: list[Told]) -> dict[str, list[tuple[Any, ...]]]:
    """The tables that follow from these events and from nothing else."""
    fresh = apsw.Connection(":memory:")
    schema.prepare(fresh, epoch="", daemon_id="")
    for event in events:
        row = (event.session_id, event.turn_id, event.seq, event.at)
        tables.project(fresh, event.type, row, bytes(event.payload))
    return stored(fresh)


def stored(connection: apsw.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {table: list(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in schema.FOLDED}


def judge_log(path: Path) -> list[Told]:
    """Its events have no gaps, follow one another as they may, and give the very tables that stand beside them."""
    connection = open_reader(path)
    events = told(connection)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    witness = Witness()
    for event in events:
        facts = msgspec.json.decode(event.payload, type=_Facts)
        witness.see(
            event.type,
            event.session_id,
            event.turn_id,
            item_id=facts.item_id,
            requeued=facts.requeued,
            own=facts.origin == "codex",
        )
    assert folded(events) == stored(connection)
    connection.close()
    return events


def judge(world: World) -> None:
    """A world in which all came to rest: nothing was lost, told twice, done twice, or told otherwise than it was."""
    events = judge_log(world.path)
    ends = {event.turn_id: event for event in events if event.type in TURN_ENDS}
    assert set(ends) == set(world.turns)
    deltas = defaultdict[str, list[str]](list)
    names = {}
    for event in events:
        if event.type is EventType.ITEM_DELTA and event.turn_id is not None:
            deltas[event.turn_id].append(event.facts["delta"])
        elif event.type is EventType.TURN_STARTED:
            names[event.turn_id] = event.facts["codexTurnId"]
    for turn_id in world.turns:
        assert world.disk.starts[turn_id] <= 1, "Codex was given a turn twice"
        spooled = world.spooled.get(names.get(turn_id, ""), [])
        assert deltas[turn_id] == [line["params"]["delta"] for line in spooled if line["method"] in STREAMS]
        _judge_end(world, turn_id, ends[turn_id], spooled)


def _judge_end(world: World, turn_id: str, end: Told, spooled: list[dict[str, Any]]) -> None:
    status, facts = TurnStatus(end.type.partition(".")[2]), end.facts
    assert status in TURN_ENDED
    seen = [line["params"]["turn"]["status"] for line in spooled if line["method"] == "turn/completed"]
    known = world.disk.turn_of(turn_id)
    asked = not str(facts.get("evidence", {}).get("history", "")).startswith("not asked")
    if seen:
        assert [status] == [{"paused": TurnStatus.FAILED}.get(word, word) for word in seen]
    elif known is None:
        assert status is not TurnStatus.COMPLETED, "nobody ever did it"
    elif known.status in {"completed", "failed"} and asked:
        assert status == known.status, "Codex's history told otherwise"
    else:
        assert status in {TurnStatus.INTERRUPTED, TurnStatus.LOST}
    if status is TurnStatus.LOST:
        assert world.deaths["keeper"]
