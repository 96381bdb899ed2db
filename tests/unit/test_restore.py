"""What boot reads from the tables, case by case; test_tables_fold.py compares it with what a codexd really knew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import pytest
from msgspec import Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import TurnStatus
from baa.clock import SystemClock
from baa.codexd import restore, schema, tables
from baa.codexd.machines.session import Session
from baa.codexd.machines.turn import Item, Turn
from baa.codexd.restore import Restored
from baa.codexd.seal import Seal
from tests.support.script import ASKED, SETTINGS

SEAL = Seal(bytes(32))


class Log:
    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._seq = 0

    def add(self, type_: EventType, payload: e.Payload, turn_id: str | None = None) -> None:
        self._seq += 1
        tables.project(self.connection, type_, ("ses_a", turn_id, self._seq, ""), msgspec.json.encode(payload))

    def queue(self, turn_id: str, key: str | None = None) -> None:
        payload = e.TurnQueued(request=ASKED, idempotency_key=key, body_hash=None if key is None else "hash")
        self.add(EventType.TURN_QUEUED, payload, turn_id)

    def accept(self, turn_id: str, *, generation: int = 1) -> None:
        self.add(EventType.TURN_ACCEPTED, e.TurnAccepted(generation=generation), turn_id)

    def start(self, turn_id: str) -> None:
        self.add(EventType.TURN_STARTED, e.TurnStarted(codex_turn_id="codex_a"), turn_id)

    def item(self, type_: EventType, item_id: str) -> None:
        self.add(type_, e.ItemStarted(item_id=item_id, kind="plan", item=Raw(b"{}")), "trn_a")

    def generation(self, number: int, *, ended: bool = False, keeper_died: bool = False) -> None:
        self.connection.execute(
            "INSERT INTO generation (generation, keeper_id, folder, started_at, ended_at, keeper_died)"
            " VALUES (?, 'kpr', 'folder', '', ?, ?)",
            (number, "now" if ended else None, keeper_died),
        )

    def asked(self, generation: int, number: int, request_id: str) -> None:
        self.connection.execute("INSERT INTO outbox VALUES (?, ?, ?, x'', NULL)", (generation, number, request_id))

    def restored(self) -> Restored:
        return restore.restore(self.connection, SystemClock(), SEAL)

    def session(self) -> Session:
        return self.restored().sessions["ses_a"]


@pytest.fixture
def log() -> Iterator[Log]:
    with closing(apsw.Connection(":memory:")) as connection:
        schema.prepare(connection, epoch="", daemon_id="")
        log = Log(connection)
        log.add(EventType.SESSION_REGISTERED, e.SessionRegistered(settings=SETTINGS))
        yield log


def test_an_empty_log_restores_nothing() -> None:
    with closing(apsw.Connection(":memory:")) as connection:
        schema.prepare(connection, epoch="", daemon_id="")
        assert restore.restore(connection, SystemClock(), SEAL) == Restored()
        assert restore.living(connection, Path("/home/user"), SystemClock()) is None


def test_a_new_session_is_restored_as_it_was_registered(log: Log) -> None:
    assert log.restored() == Restored(sessions={"ses_a": Session("ses_a", SETTINGS)})


def test_a_running_turn_is_restored_with_its_items_and_those_that_wait_after_it(log: Log) -> None:
    log.generation(1)
    for turn_id in ("trn_a", "trn_b", "trn_c"):
        log.queue(turn_id)
    log.add(EventType.SESSION_LOADED, e.SessionLoaded(thread_id="thread", generation=1, fresh=True))
    log.accept("trn_a")
    log.start("trn_a")
    for item_id in ("one", "two", "three"):
        log.item(EventType.ITEM_STARTED, item_id)
    log.item(EventType.ITEM_COMPLETED, "two")
    running = Turn(
        "trn_a", ASKED, TurnStatus.IN_PROGRESS, "codex_a", 1, (Item("one", "plan"), Item("three", "plan")), ("two",)
    )
    log.connection.execute("INSERT INTO loaded VALUES ('ses_a', 1)")
    turns = (running, Turn("trn_b", ASKED), Turn("trn_c", ASKED))

    assert log.session() == Session("ses_a", SETTINGS, "thread", resumable=True, loaded_in=1, turns=turns)


def test_a_turn_that_ended_is_not_restored(log: Log) -> None:
    log.queue("trn_a")
    log.add(EventType.TURN_FAILED, e.TurnEnded(), "trn_a")

    assert log.session().turns == ()


@pytest.mark.parametrize(
    ("ended", "keeper_died", "unresolved"),
    [(False, False, (0, False)), (True, False, (1, False)), (True, True, (1, True))],
)
def test_a_turn_is_in_doubt_when_its_child_is_dead(
    log: Log, ended: bool, keeper_died: bool, unresolved: tuple[int, bool]
) -> None:
    log.generation(1, ended=ended, keeper_died=keeper_died)
    log.queue("trn_a")
    log.accept("trn_a")
    (turn,) = log.session().turns

    assert (turn.unresolved, turn.keeper_died) == unresolved


def test_a_turn_that_went_back_is_in_no_doubt(log: Log) -> None:
    log.generation(1, ended=True, keeper_died=True)
    log.queue("trn_a")
    log.accept("trn_a")
    log.add(EventType.TURN_QUEUED, e.TurnQueued(requeued=True), "trn_a")

    assert log.session().turns == (Turn("trn_a", ASKED),)


@pytest.mark.parametrize(
    ("request_id", "waiting"), [("ses_a:open:3", (2, 0)), ("ses_a:resume:3", (2, 0)), ("ses_a:history:3", (0, 2))]
)
def test_what_the_living_child_was_asked_is_waited_for_and_not_asked_again(
    log: Log, request_id: str, waiting: tuple[int, int]
) -> None:
    log.generation(1, ended=True)
    log.generation(2)
    log.asked(2, 1, "child:account:1")
    log.asked(2, 2, "trn_a:start:2")
    log.asked(2, 3, request_id)

    assert (log.session().opening_in, log.session().asking_in) == waiting
    assert log.restored().generation == 2
