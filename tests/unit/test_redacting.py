"""What the log does with secrets: told nowhere, kept closed where needed, held back across commits and lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw, inspect

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import InteractionKind, ResolvedBy
from baa.api.sessions import TurnRequest
from baa.clock import SystemClock
from baa.codexd import copies, opening, reading, restore
from baa.codexd.eventlog import EventLog, Transaction
from baa.codexd.machines.inputs import NewEvent
from baa.codexd.redacting import KEPT, Private
from baa.known_secrets import KnownSecrets
from baa.redaction import REDACTED, Redactor
from baa.sqlite import open_reader
from tests.support.planted import Planted, core
from tests.support.script import SETTINGS
from tests.unit.test_eventlog import abandoned, committed, delta, of_turn, stored, turn_with_item

PLANTED = Planted(3)
SECRETS = {**PLANTED.shaped, "one of the environment": PLANTED.named}
ENVIRON = {"MY_SECRET": PLANTED.named}


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[EventLog]:
    log = EventLog(path, clock=SystemClock(), secrets=KnownSecrets(None, None, ENVIRON))
    try:
        yield log
    finally:
        log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "codexd.sqlite3"


def registered(**settings: Any) -> NewEvent:
    told = e.SessionRegistered(settings=msgspec.structs.replace(SETTINGS, **settings))
    return NewEvent(EventType.SESSION_REGISTERED, "ses_a", None, told)


def queued(prompt: str) -> NewEvent:
    return of_turn(EventType.TURN_QUEUED, e.TurnQueued(request=TurnRequest(prompt=prompt, metadata={"k": prompt})))


def completed(text: str) -> NewEvent:
    item = Raw(msgspec.json.encode({"type": "agentMessage", "id": "item", "text": text}))
    return of_turn(EventType.ITEM_COMPLETED, e.ItemStarted(item_id="item", kind="agentMessage", item=item))


def files(path: Path) -> bytes:
    """All that stands in the log's file and beside it."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))


def deltas(path: Path) -> str:
    with closing(open_reader(path)) as log:
        bodies = [body for (body,) in log.execute("SELECT body FROM event WHERE type = 'item.delta' ORDER BY seq")]
    return "".join(msgspec.json.decode(body)["payload"]["delta"] for body in bodies)


# --- every field of every event


def samples(type_: inspect.Type) -> Any:
    """A value of this type that has the secret wherever a text may stand."""
    match type_:
        case inspect.StrType() | inspect.AnyType():
            return PLANTED.named
        case inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
            tagged = {} if tag_field is None else {tag_field: tag}
            return tagged | {each.encode_name: samples(each.type) for each in fields}
        case inspect.UnionType(types=types):
            order = (inspect.StructType, inspect.DictType, inspect.VarTupleType, inspect.StrType, inspect.RawType)
            return samples(next((each for kind in order for each in types if isinstance(each, kind)), types[0]))
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.DictType():
            return {PLANTED.named: PLANTED.named}
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [samples(item)]
        case inspect.RawType():
            return {PLANTED.named: [PLANTED.named]}
        case inspect.IntType():
            return 1
        case inspect.BoolType():
            return False
    raise AssertionError(f"a payload has a field of a type that this test does not know: {type_}")


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON document, and the name that it stands under."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield path, name
            yield from texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, path)
    elif isinstance(value, str):
        yield path, value


@pytest.mark.parametrize("type_", sorted(EventType))
def test_every_text_of_an_event_is_told_without_secrets_but_for_names(type_: EventType) -> None:
    info = inspect.type_info(e.PAYLOADS[type_])
    payload: e.Payload = msgspec.json.decode(msgspec.json.encode(samples(info)), type=e.PAYLOADS[type_])
    told = msgspec.json.decode(msgspec.json.encode(Redactor([PLANTED.named]).value(payload, KEPT)))
    kept = {name for name, text in texts(told) if PLANTED.named in text}
    assert kept <= {"".join([part if not n else part.title() for n, part in enumerate(k.split("_"))]) for k in KEPT}
    assert isinstance(msgspec.json.decode(msgspec.json.encode(told), type=e.PAYLOADS[type_]), e.Payload)


# --- items, which come in pieces


@pytest.mark.parametrize("secret", SECRETS.values(), ids=list(SECRETS))
async def test_a_secret_over_several_deltas_is_told_nowhere_whatever_dies_between_them(path: Path, secret: str) -> None:
    """Each piece is committed by another codexd, so all that one knew of the text, the next one read."""
    text = f"the key: {secret}\nend."
    cuts = [*range(0, len(text), max(3, len(text) // 12)), len(text)]
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item()]))
    for begin, end in pairwise(cuts):
        async with opened(path) as log:
            await committed(log, Transaction([delta(text[begin:end])]))
            assert core(secret).encode() not in files(path)
    async with opened(path) as log:
        await committed(log, Transaction([completed(text)]))
    assert core(secret) not in deltas(path)
    assert deltas(path).startswith("the key: ")
    assert deltas(path).endswith("\nend.")
    assert core(secret).encode() not in files(path)
    assert copies.flaws(path) == []


@pytest.mark.parametrize("end", [completed("sk-abc"), abandoned()], ids=["completed", "abandoned"])
async def test_what_was_held_back_is_told_before_the_item_ends(path: Path, end: NewEvent) -> None:
    async with opened(path) as log:
        seqs = await committed(
            log, Transaction([registered(), *turn_with_item()]), Transaction([delta("sk-"), delta("abc")])
        )
        assert deltas(path) == "sk-"
        assert len(stored(path)) == log.head
    async with opened(path) as log:
        seqs += await committed(log, Transaction([end]))
        assert deltas(path) == "sk-abc"
        assert [row[2] for row in stored(path)][-4:] == ["item.delta", "item.delta", "item.delta", end.type.value]
        assert seqs == [0, 5, 7]
        assert not list(log.reader().execute("SELECT * FROM held"))
        if end.type is EventType.ITEM_ABANDONED:
            turn = reading.turn(log.reader(), "trn_a", ledger=True)
            assert turn is not None
            assert isinstance(turn.items, list)
            assert turn.items[0].text == "sk-abc"
    assert copies.flaws(path) == []


async def test_streams_and_items_are_texts_of_their_own(path: Path) -> None:
    head, rest = PLANTED.named[:12], PLANTED.named[12:]
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item(), delta(head), delta(rest, "output")]))
        told = [msgspec.json.decode(row[3])["payload"]["delta"] for row in stored(path)[-2:]]
        assert told == ["", rest]
        await committed(log, Transaction([delta(rest)]))
        assert msgspec.json.decode(stored(path)[-1][3])["payload"]["delta"] == REDACTED


async def test_a_transaction_that_is_undone_changes_nothing_of_where_a_text_stands(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([registered(), *turn_with_item(), delta(PLANTED.named[:10])]))
        log.submit(Transaction([delta(PLANTED.named[10:])], [("INSERT INTO nowhere VALUES (1)", ())]))
        with pytest.raises(Exception, match="nowhere"):
            await log.failed
    async with opened(path) as log:
        await committed(log, Transaction([delta(PLANTED.named[10:]), delta(".")]))
        assert deltas(path) == f"{REDACTED}."


# --- what is needed as it was


async def test_what_waits_is_handed_over_as_it_was_asked_for(path: Path) -> None:
    asked = f"use {PLANTED.named} and {PLANTED.shaped['a GitHub token']}"
    async with opened(path) as log:
        await committed(log, Transaction([registered(developer_instructions=asked), queued(asked)]))
        turn = reading.turn(log.reader(), "trn_a", ledger=True)
        assert turn is not None
        assert turn.prompt == turn.metadata["k"] == f"use {REDACTED} and ghp_{REDACTED}"
        session = reading.session(log.reader(), "ses_a")
        assert session is not None
        assert session.developer_instructions == turn.prompt
    for secret in (PLANTED.named, core(PLANTED.shaped["a GitHub token"])):
        assert secret.encode() not in files(path)
    async with opened(path) as log:
        found = restore.restore(log.reader(), SystemClock(), log.seal).sessions["ses_a"]
        assert (found.settings.developer_instructions, found.turns[0].request.prompt) == (asked, asked)
        ended = of_turn(EventType.TURN_INTERRUPTED, e.TurnEnded(reason="canceled_before_start"))
        await committed(log, Transaction([ended]))
        assert list(log.reader().execute("SELECT owner_id FROM sealed")) == [("ses_a",)]
        closed = NewEvent(EventType.SESSION_CLOSED, "ses_a", None, e.SessionClosed(reason="requested"))
        await committed(log, Transaction([closed]))
        assert not list(log.reader().execute("SELECT owner_id FROM sealed"))
    assert copies.flaws(path) == []


async def test_a_question_is_answered_as_it_was_asked(path: Path) -> None:
    request = Raw(msgspec.json.encode({"permissions": {"fileSystem": {"read": [f"/tmp/{PLANTED.named}"]}}}))
    asked = e.InteractionRequested(
        interaction_id="int_a",
        generation=1,
        request_id=7,
        kind=InteractionKind.PERMISSIONS,
        request=request,
        decisions=["accept"],
        deadline_at="",
    )
    async with opened(path) as log:
        await committed(log, Transaction([registered(), of_turn(EventType.INTERACTION_REQUESTED, asked)]))
        (question,) = restore.restore(log.reader(), SystemClock(), log.seal).sessions["ses_a"].questions
        assert question.request == request
        told = reading.interaction(log.reader(), "int_a")
        assert told is not None
        assert PLANTED.named not in bytes(told.request).decode()
        over = e.InteractionEnded(interaction_id="int_a", resolved_by=ResolvedBy.CLIENT)
        await committed(log, Transaction([of_turn(EventType.INTERACTION_RESOLVED, over)]))
        assert not list(log.reader().execute("SELECT owner_id FROM sealed"))


async def test_a_line_for_the_child_stands_closed_and_a_harmless_one_as_it_is(path: Path) -> None:
    insert = "INSERT INTO outbox (generation, number, line) VALUES (1, ?, ?)"
    generation = ("INSERT INTO generation (generation, keeper_id, folder, started_at) VALUES (1, '', '', '')", ())
    lines = [b'{"text":"hello"}\n', f'{{"text":"{PLANTED.named}"}}\n'.encode()]
    rows = [(insert, (number, Private(line))) for number, line in enumerate(lines)]
    async with opened(path) as log:
        await committed(log, Transaction(statements=[generation, *rows]))
        found = [line for (line,) in log.reader().execute("SELECT line FROM outbox ORDER BY number")]
        assert found[0] == lines[0]
        assert PLANTED.named.encode() not in files(path)
        assert [log.seal.open(line) for line in found] == lines
    opening.seal_of(path).unlink()
    async with opened(path) as log:
        assert log.went_back == "the key of lines that its child was to get is gone (codexd.seal)"


async def test_without_its_key_there_is_what_was_told(path: Path) -> None:
    async with opened(path) as log:
        await committed(log, Transaction([registered(), queued(f"use {PLANTED.named}")]))
    assert opening.seal_of(path).stat().st_mode & 0o777 == 0o600
    opening.seal_of(path).unlink()
    async with opened(path) as log:
        found = restore.restore(log.reader(), SystemClock(), log.seal).sessions["ses_a"]
        assert found.turns[0].request.prompt == f"use {REDACTED}"
        assert log.went_back is None


# --- which are known


async def test_a_login_that_comes_later_is_a_secret_from_then_on(tmp_path: Path, path: Path) -> None:
    home = tmp_path / "codex-home"
    home.mkdir()
    log = EventLog(path, clock=SystemClock(), secrets=KnownSecrets(tmp_path / "tokens", home, {}))
    try:
        await committed(log, Transaction([registered(), *turn_with_item()]))
        for number in range(2):
            token = f"a-refreshed-token-{number}"
            (home / "auth.json").write_text(f'{{"tokens":{{"access_token":"{token}"}}}}')
            await committed(log, Transaction([completed(f"{token}, and a-refreshed-token-0")]))
            assert b"a-refreshed-token" not in files(path)
        (home / "auth.json").write_text('{"tokens":')
        (tmp_path / "tokens").mkdir()
        (tmp_path / "tokens" / "drive").write_text("d" * 43 + "\n")
        await committed(log, Transaction([completed(f"a-refreshed-token-1 {'d' * 43}")]))
        assert b"a-refreshed-token" not in files(path)
        assert b"d" * 43 not in files(path)
    finally:
        log.close()
