"""Idempotency-Keys: held until what came of them is in the log, and looked up there from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import apsw
import msgspec
import pytest

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import TurnRequest
from baa.codexd import schema, tables
from baa.codexd.keys import Key, Keys
from tests.support.script import SETTINGS


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(":memory:")) as connection:
        schema.prepare(connection, epoch="", daemon_id="")
        yield connection


def put(connection: apsw.Connection, key: str) -> None:
    """A turn that was queued with this key, as event 2."""
    queued = e.TurnQueued(request=TurnRequest(prompt="go"), idempotency_key=key, body_hash="hash")
    registered = e.SessionRegistered(settings=SETTINGS)
    for seq, (type_, payload, turn_id) in enumerate(
        [(EventType.SESSION_REGISTERED, registered, None), (EventType.TURN_QUEUED, queued, "trn_a")], 1
    ):
        tables.project(connection, type_, ("ses_a", turn_id, seq, ""), msgspec.json.encode(payload))


def test_a_key_is_held_until_it_is_in_the_log_and_then_found_there(connection: apsw.Connection) -> None:
    keys, entry = Keys(lambda: connection), Key("hash", "trn_a", 0)
    assert keys.get("k") is None
    keys.use("k", entry)
    assert keys.get("k") is entry

    put(connection, "k")
    entry.seq = 1
    keys.answered("k", entry)
    assert (keys.get("k"), keys.get("k") is entry) == (entry, False)


def test_a_key_of_which_nothing_came_may_be_used_again_and_only_by_whoever_had_it(connection: apsw.Connection) -> None:
    keys, entry, other = Keys(lambda: connection), Key("hash", "trn_a", 0), Key("hash", "trn_b", 0)
    keys.use("k", entry)
    keys.forget("k", other)
    assert keys.get("k") is entry
    keys.forget("k", entry)
    assert keys.get("k") is None


async def test_more_input_for_a_turn_is_answered_with_the_place_where_the_log_tells_of_it(
    connection: apsw.Connection,
) -> None:
    keys, entry = Keys(lambda: connection), Key("hash", "trn_a", 0)
    entry.steered, entry.steering = True, asyncio.get_running_loop().create_future()
    keys.use("k", entry)
    put(connection, "k")
    keys.answered("k", entry)
    keys.answered("k", entry)  # two callers had waited for it
    assert entry.seq == 1
    assert entry.steering is None
