"""Which session something belongs to: as sessions change, they are found by what they hold, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from msgspec import Raw

from baa.api.interactions import InteractionKind
from baa.codexd.eventlog import Transaction
from baa.codexd.machines.interaction import Question
from baa.codexd.machines.session import Agent, Session
from baa.codexd.machines.turn import Turn
from baa.codexd.registry import Registry
from tests.support.script import ASKED, SETTINGS

EPHEMERAL = msgspec.structs.replace(SETTINGS, ephemeral=True)


def session(session_id: str = "ses_a", **facts: object) -> Session:
    return replace(Session(session_id, SETTINGS), **facts)  # type: ignore[arg-type]


def turn(turn_id: str) -> Turn:
    return Turn(turn_id, ASKED)


def question(interaction_id: str, turn_id: str | None = None) -> Question:
    return Question(interaction_id, 1, 7, InteractionKind.COMMAND, turn_id, (), Raw(b"{}"))


def remembered(registry: Registry, after: Session) -> list[tuple[str, tuple[object, ...]]]:
    """What is put down with it."""
    transaction = Transaction()
    registry.remember(after, transaction)
    assert registry.get(after.session_id) is after
    return [(statement.split()[4], values) for statement, values in transaction.statements]


def test_what_boot_read_is_found_by_all_that_it_holds() -> None:
    one = session(
        thread_id="thread",
        turns=(turn("trn_a"), turn("trn_b")),
        questions=(question("int_a", "trn_a"),),
        agents=(Agent("helper"),),
    )
    registry = Registry([one, session("ses_b")])

    assert {id_: registry.of_owner(id_) for id_ in ("ses_a", "trn_a", "trn_b", "int_a")} == dict.fromkeys(
        ("ses_a", "trn_a", "trn_b", "int_a"), one
    )
    assert (registry.of_thread("thread"), registry.of_thread("helper")) == (one, one)
    assert registry.of_thread(None) is None
    assert [registry.of_owner(id_) for id_ in ("thread", "helper", "trn_c", "", "ses_c")] == [None] * 5
    assert (registry.questions, registry.asking()) == (1, frozenset({"trn_a"}))


def test_what_a_session_no_longer_holds_is_not_found_in_it() -> None:
    registry = Registry([])
    before = session(thread_id="old", turns=(turn("trn_a"), turn("trn_b")), questions=(question("int_a", "trn_a"),))
    remembered(registry, before)
    after = replace(before, thread_id="new", turns=(turn("trn_b"),), questions=(question("int_b"),))
    remembered(registry, after)

    assert (registry.of_thread("old"), registry.of_turn("trn_a"), registry.of_question("int_a")) == (None, None, None)
    assert registry.of_thread("new") is registry.of_turn("trn_b") is registry.of_question("int_b") is after
    assert (registry.questions, registry.asking()) == (1, frozenset()), "it is asked outside of any turn"

    remembered(registry, replace(after, thread_id=None, turns=(), questions=()))
    assert registry.of_thread("new") is None
    assert registry.questions == 0


def test_those_hear_of_the_child_to_whom_it_can_matter() -> None:
    registry = Registry([])

    def hears(one: Session) -> bool:
        remembered(registry, one)
        return one in list(registry.hearing())

    assert not hears(session())
    assert hears(session(turns=(turn("trn_a"),)))
    assert hears(session(questions=(question("int_a"),)))
    assert hears(session(closing=True))
    assert not hears(session(closed=True))
    assert not hears(session(loaded_in=3)), "its thread is on disk"
    assert not hears(session(settings=EPHEMERAL))
    assert hears(session(settings=EPHEMERAL, loaded_in=3))
    assert not hears(session(settings=EPHEMERAL, loaded_in=3, closed=True))


def test_whoever_hears_may_change_sessions_while_others_are_still_to_come() -> None:
    registry = Registry([session(id_, turns=(turn(f"trn_{id_}"),)) for id_ in ("ses_b", "ses_a", "ses_c")])
    heard = []
    for one in registry.hearing():
        heard.append(one.session_id)
        if one.session_id == "ses_a":
            remembered(registry, replace(one, turns=()))
            remembered(registry, session("ses_c", turns=(turn("trn_new"),)))
        if one.session_id == "ses_c":
            assert [each.turn_id for each in one.turns] == ["trn_new"], "as it stands when its turn comes"
    assert heard == ["ses_a", "ses_b", "ses_c"]


def test_where_a_thread_is_loaded_and_whose_helpers_there_are_is_put_down_once() -> None:
    registry = Registry([])
    assert remembered(registry, session()) == []
    loaded = session(loaded_in=2)
    assert remembered(registry, loaded) == [("loaded", ("ses_a", 2))]
    assert remembered(registry, replace(loaded, turns=(turn("trn_a"),))) == []
    assert remembered(registry, replace(loaded, loaded_in=0)) == [("loaded", ("ses_a", 0))]

    helped = session(agents=(Agent("helper", "codex"),))
    assert remembered(registry, helped) == [("agent", ("helper", "ses_a", "codex"))]
    assert remembered(registry, helped) == []
    both = replace(helped, agents=(*helped.agents, Agent("other")))
    assert remembered(registry, both) == [("agent", ("other", "ses_a", None))]
    idle = replace(both, agents=(Agent("helper"), Agent("other")))
    assert remembered(registry, idle) == [("agent", ("helper", "ses_a", None))]
    assert registry.of_thread("helper") is registry.of_thread("other") is idle
