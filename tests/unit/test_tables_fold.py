"""The tables follow from the events and from nothing else: folding the log's bytes gives the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from msgspec import Raw

from baa.api import events as e
from baa.api.events import PAYLOADS, EventType
from baa.api.sessions import Origin, TurnRequest
from baa.codexd import schema, tables
from tests.support.judge import folded, judge, stored, told
from tests.support.world import SETTINGS, World


@pytest.mark.parametrize("seed", range(5))
async def test_folding_the_log_of_a_world_gives_its_tables_and_boot_begins_where_it_was(
    seed: int, tmp_path: Path
) -> None:
    """The world compares, at the end of each codexd, what the next one would restore with what this one knew."""
    world = World(seed, tmp_path)
    await world.run(lives=6, steps=200)

    judge(world)


async def test_folding_any_beginning_of_a_log_gives_the_tables_of_that_moment(tmp_path: Path) -> None:
    world = World(7, tmp_path)
    await world.run(lives=2, steps=150)
    with closing(apsw.Connection(str(world.path))) as log:
        events = told(log)

    with closing(fresh()) as one_by_one:
        for number, event in enumerate(events, 1):
            row = (event.session_id, event.turn_id, event.seq, event.at)
            tables.project(one_by_one, event.type, row, bytes(event.payload))
            if number % 10 == 0:
                assert folded(events[:number]) == stored(one_by_one)


def fresh() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    schema.prepare(connection, epoch="epoch", daemon_id="dmn")
    return connection


# --- one event at a time, on a session with a running turn


@pytest.fixture
def log() -> Iterator[apsw.Connection]:
    with closing(fresh()) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        project(connection, 1, EventType.SESSION_REGISTERED, e.SessionRegistered(settings=SETTINGS))
        request = msgspec.json.decode(b'{"prompt":"go"}', type=TurnRequest)
        project(connection, 2, EventType.TURN_QUEUED, e.TurnQueued(request=request))
        project(connection, 3, EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1))
        project(connection, 4, EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex"))
        yield connection


def project(connection: apsw.Connection, seq: int, type_: EventType, payload: e.Payload) -> None:
    tables.project(connection, type_, ("ses", "trn", seq, f"at {seq}"), msgspec.json.encode(payload))


def one(connection: apsw.Connection, query: str) -> tuple[Any, ...]:
    (row,) = connection.execute(query)
    return tuple(row)


def usage(total: object, last: object) -> e.Updated:
    return updated({"threadId": "t", "tokenUsage": {"total": total, "last": last, "modelContextWindow": None}})


def updated(update: object) -> e.Updated:
    return e.Updated(update=Raw(msgspec.json.encode(update)))


def item(item_id: str, kind: str, **fields: object) -> e.ItemStarted:
    whole = {"id": item_id, "type": kind, **fields}
    return e.ItemStarted(item_id=item_id, kind=kind, item=Raw(msgspec.json.encode(whole)))


def test_an_effort_is_the_last_turns_but_for_one_that_tells_codex_none(log: apsw.Connection) -> None:
    def handed(seq: int, turn_id: str, request: TurnRequest, origin: Origin = Origin.API) -> int:
        for more, type_, payload in (
            (0, EventType.TURN_QUEUED, e.TurnQueued(request=request, origin=origin)),
            (1, EventType.TURN_ACCEPTED, e.TurnAccepted(generation=1)),
            (2, EventType.TURN_COMPLETED, e.TurnEnded()),
        ):
            row = ("ses", turn_id, seq + more, "")
            tables.project(log, type_, row, msgspec.json.encode(payload))
        (set_,) = one(log, "SELECT effort_set FROM session")
        return int(set_)

    project(log, 5, EventType.TURN_COMPLETED, e.TurnEnded())
    assert handed(6, "trn_b", TurnRequest(prompt="go", effort="high")) == 1
    assert handed(9, "trn_c", TurnRequest(prompt="/compact", compact=True)) == 1
    assert handed(12, "trn_d", TurnRequest(prompt=""), Origin.CODEX) == 1
    assert handed(15, "trn_e", TurnRequest(prompt="go")) == 0


def test_a_turns_usage_is_the_sum_of_its_responses_and_the_sessions_is_what_codex_says(log: apsw.Connection) -> None:
    project(log, 5, EventType.USAGE_UPDATED, usage({"totalTokens": 7, "inputTokens": 5}, {"totalTokens": 7}))
    project(log, 6, EventType.USAGE_UPDATED, usage({"totalTokens": 9, "inputTokens": 6}, {"totalTokens": 2}))

    assert one(log, "SELECT usage FROM turn") == ('{"totalTokens":9}',)
    assert one(log, "SELECT usage FROM session") == ('{"totalTokens":9,"inputTokens":6}',)


@pytest.mark.parametrize("odd", [None, "7", 7.5, True, -1, 2**53, 2**63, {"n": 7}, [7]])
def test_what_is_no_count_of_tokens_is_left_out(log: apsw.Connection, odd: object) -> None:
    project(log, 5, EventType.USAGE_UPDATED, usage({"odd": odd, "good": 1}, {"odd": odd, "good": 2}))

    assert one(log, "SELECT turn.usage, session.usage FROM turn JOIN session") == ('{"good":2}', '{"good":1}')


@pytest.mark.parametrize(
    "update",
    [
        None,
        [],
        {},
        {"tokenUsage": None},
        {"tokenUsage": 7},
        {"tokenUsage": {"last": [1]}},
        {"tokenUsage": {"total": "x"}},
    ],
)
def test_usage_of_another_shape_changes_nothing_and_stops_nothing(log: apsw.Connection, update: object) -> None:
    before = stored(log)
    project(log, 5, EventType.USAGE_UPDATED, updated(update))

    assert stored(log) == before


ODD_VALUES: list[object] = [None, 7, 7.5, True, {"a": [1]}, ["x"], "a\x00b", "é😀", ""]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize(
    ("type_", "name"),
    [(EventType.DIFF_UPDATED, "diff"), (EventType.PLAN_UPDATED, "plan"), (EventType.DIFF_UPDATED, "x")],
)
def test_a_diff_or_a_plan_of_any_shape_is_kept_and_stops_nothing(
    log: apsw.Connection, type_: EventType, name: str, value: object
) -> None:
    project(log, 5, type_, updated({name: value}))

    if name == "plan" or isinstance(value, str):
        kept = {"diff": value, "plan": f'{{"plan":{msgspec.json.encode(value).decode()}}}', "x": None}[name]
        assert one(log, f"SELECT {'plan' if name == 'plan' else 'diff'} FROM turn") == (kept,)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_the_final_message_is_the_text_of_the_last_message_whatever_that_is(
    log: apsw.Connection, value: object
) -> None:
    project(log, 5, EventType.ITEM_COMPLETED, item("i", "agentMessage", text="first"))
    project(log, 6, EventType.ITEM_COMPLETED, item("k", "commandExecution", text="not this"))
    assert one(log, "SELECT final_message FROM turn") == ("first",)

    project(log, 7, EventType.ITEM_COMPLETED, item("l", "agentMessage", text=value))
    if isinstance(value, str):
        assert one(log, "SELECT final_message FROM turn") == (value,)


ITEM = "SELECT status, kind, item, text, started_seq, started_at, ended_at FROM item"


def test_an_item_is_what_codex_said_of_it_last(log: apsw.Connection) -> None:
    project(log, 5, EventType.ITEM_STARTED, item("i", "plan", n=1))
    assert one(log, ITEM) == ("started", "plan", '{"id":"i","type":"plan","n":1}', None, 5, "at 5", None)

    project(log, 6, EventType.ITEM_COMPLETED, item("i", "plan", n=2))
    assert one(log, ITEM) == ("completed", "plan", '{"id":"i","type":"plan","n":2}', None, 5, "at 5", "at 6")

    project(log, 7, EventType.ITEM_STARTED, item("i", "plan", n=3))
    project(log, 8, EventType.ITEM_ABANDONED, e.ItemAbandoned(item_id="i", text="so far"))
    assert one(log, ITEM) == ("abandoned", "plan", '{"id":"i","type":"plan","n":3}', "so far", 5, "at 5", "at 8")


def test_a_turn_that_goes_back_loses_its_child_and_keeps_its_place(log: apsw.Connection) -> None:
    project(log, 5, EventType.TURN_QUEUED, e.TurnQueued(requeued=True))

    assert one(log, "SELECT status, generation, accepted_at, queued_seq, queued_at FROM turn") == (
        "queued",
        0,
        None,
        2,
        "at 2",
    )


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        (EventType.TURN_COMPLETED, "completed"),
        (EventType.TURN_FAILED, "failed"),
        (EventType.TURN_INTERRUPTED, "interrupted"),
        (EventType.TURN_LOST, "lost"),
    ],
)
def test_an_end_is_put_down_with_its_reason_and_the_session_knows_it(
    log: apsw.Connection, type_: EventType, status: str
) -> None:
    project(log, 5, type_, e.TurnEnded(reason="why", error={"code": 1}, evidence={"history": "said"}))

    assert one(log, "SELECT status, reason, error, evidence, ended_at FROM turn") == (
        status,
        "why",
        '{"code":1}',
        '{"history":"said"}',
        "at 5",
    )
    assert one(log, "SELECT last_turn_id, last_turn_status, updated_at FROM session") == ("trn", status, "at 5")


def test_a_thread_opened_anew_can_be_resumed_only_after_a_turn_has_run_in_it(log: apsw.Connection) -> None:
    def loaded(seq: int, thread_id: str) -> tuple[Any, ...]:
        payload = e.SessionLoaded(thread_id=thread_id, generation=seq, fresh=True, model=None)
        project(log, seq, EventType.SESSION_LOADED, payload)
        return one(log, "SELECT thread_id, resumable FROM session")

    assert one(log, "SELECT resumable FROM session") == (1,)
    assert loaded(5, "one") == ("one", 0)
    project(log, 6, EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex"))
    assert loaded(7, "one") == ("one", 1)
    assert loaded(8, "two") == ("two", 0)


@pytest.mark.parametrize("type_", EventType)
def test_every_type_of_event_has_a_payload(type_: EventType) -> None:
    assert issubclass(PAYLOADS[type_], e.Payload)


# --- what the store itself forbids


def test_two_turns_of_a_session_are_never_with_codex_at_once(log: apsw.Connection) -> None:
    with pytest.raises(apsw.ConstraintError):
        log.execute(
            "INSERT INTO turn (turn_id, session_id, queued_seq, status, request, queued_at)"
            " VALUES ('other', 'ses', 9, 'accepted', '{}', '')"
        )


@pytest.mark.parametrize("statement", ["status = 'completed'", "ended_at = 'now'"])
def test_a_turn_has_ended_exactly_when_it_has_an_end(log: apsw.Connection, statement: str) -> None:
    with pytest.raises(apsw.ConstraintError):
        log.execute(f"UPDATE turn SET {statement}")


def test_at_most_one_generation_lives(log: apsw.Connection) -> None:
    insert = "INSERT INTO generation (generation, keeper_id, folder, started_at) VALUES (?, 'k', 'f', '')"
    log.execute(insert, (1,))
    with pytest.raises(apsw.ConstraintError):
        log.execute(insert, (2,))
    log.execute("UPDATE generation SET ended_at = 'now'")
    log.execute(insert, (2,))


# --- the file's own version


def test_a_file_of_this_version_is_left_as_it_is_and_one_of_a_later_release_is_refused() -> None:
    with closing(fresh()) as connection:
        schema.prepare(connection, epoch="other", daemon_id="other")
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        assert (meta["epoch"], meta["daemon_id"]) == ("epoch", "dmn")

        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        with pytest.raises(
            schema.NewerSchema, match=f"schema {schema.VERSION + 1}, this release knows {schema.VERSION}"
        ):
            schema.prepare(connection, epoch="other", daemon_id="other")
